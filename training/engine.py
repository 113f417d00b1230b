"""Train an epoch, predict, evaluate. All return plain values; none knows files or arguments."""

import time
from collections import defaultdict
from contextlib import contextmanager

import torch

from data.batches import center_crop, four_crop, normalise, ten_crop
from training.metrics import measure, sum_dtype
from utils.distributed import gather_unequal, ranks
from utils.files import UserError
from utils.progress import Progress
from utils.text import counted

# {name: (B, 48, 48) -> (B, crops, 44, 44)}
CROPS = {"center": center_crop, "fourcrop": four_crop, "tencrop": ten_crop}
# Crops per forward pass: what fills a GPU, and what stays in a processor's cache.
EVALUATION_CROPS = {"cuda": 2560, "cpu": 120, "mps": 120}
# What PyTorch's errors say when a device has no memory left; the processor's have no class.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
DIVERGED = "Checkpoints written before it are good. Try a smaller --lr, or --precision fp32."


def check_losses(losses, epoch):
    """Raise UserError when a loss of the steps (n,) is not finite. Waits for the device."""
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        raise UserError(
            f"The loss is not finite in epoch {epoch}, step {bad[0].item()}. {DIVERGED}"
        )


@contextmanager
def memory_advice(advice):
    """Turn running out of memory into a UserError that ends with the advice."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
        raise UserError(f"Memory ran out {advice}.") from error


def train_one_epoch(learner, epoch, label, start=None, stop=lambda: False, announce=None):
    """Train for an epoch.

    learner: a `Learner`; label, announce: see `Progress`; start: the mid-epoch state of an
    interrupted epoch; stop: asked between steps, True ends the epoch early. Returns (metrics,
    mid_epoch_state): metrics are means per image as the learner names them, None when stopped
    early; the state, {"step", "sums", "seconds"}, is what `start` takes. Raises UserError when a
    loss is not finite or memory runs out. Waits for the device only to show the loss, now and then.
    """
    began, device, plan = time.perf_counter(), learner.runtime.device, learner.plan(epoch)
    learner.model.train()
    zeros = torch.zeros(len(learner.metrics), dtype=torch.float64)
    start = start or {"step": 0, "sums": zeros, "seconds": 0.0}
    step, images = start["step"], plan.images_per_step
    sums = start["sums"].to(device, sum_dtype(device), copy=True)
    losses = torch.zeros(plan.steps, device=device)
    smaller = f"try --bs {images // 2}" if images > 1 else "free some memory"
    with (
        memory_advice(f"with a batch of {counted(images, 'face')}: {smaller}"),
        Progress(label, plan.steps * images, step * images, announce) as progress,
    ):
        for batch in learner.batches(plan, step):
            losses[step], batch_sums = learner.step(batch, epoch * plan.steps + step, plan.steps)
            sums += batch_sums
            step += 1
            if progress.add(images):
                check_losses(losses, epoch)
                progress.show(loss=losses[step - 1].item())
            if step < plan.steps and stop():
                break
    check_losses(losses, epoch)
    seconds = start["seconds"] + time.perf_counter() - began
    mid_epoch_state = {"step": step, "sums": sums.cpu().double(), "seconds": seconds}
    if step < plan.steps:
        return None, mid_epoch_state
    return learner.to_dict((sums / (plan.steps * images)).tolist()), mid_epoch_state


@torch.inference_mode()
def predict(network, images, preprocessing, runtime, crops="center", label=None):
    """Outputs of a network, averaged over the crops of each image.

    network: as `runtime.for_inference` returns it, or any in evaluation mode; images (N, 48, 48)
    uint8 -> {task: (N, width)} float32 on runtime.device. crops: a key of `CROPS`; logits and
    values are averaged. label: of the progress bar, None for no bar.
    """
    make_crops, outputs = CROPS[crops], defaultdict(list)
    per_image = make_crops(images[:1]).shape[1]
    at_a_time = max(1, EVALUATION_CROPS[runtime.device.type] // per_image)
    with (
        memory_advice("while faces were evaluated: free some memory, or use another --device"),
        Progress(label, len(images)) as progress,
    ):
        for part in images.split(at_a_time):
            pixels = make_crops(part.to(runtime.device)).flatten(0, 1)[:, None]
            with runtime.autocast():
                predicted = network(normalise(pixels, **preprocessing))
            for name, output in predicted.items():
                outputs[name].append(output.view(len(part), per_image, -1).mean(1))
            progress.add(len(part))
    return {name: torch.cat(parts) for name, parts in outputs.items()}


def check_predictions(outputs, label):
    """Raise UserError when not all of {task: (N, width)} are finite; label: what was predicted."""
    if not all(output.isfinite().all() for output in outputs.values()):
        raise UserError(f"The network's predictions are not finite ({label}). {DIVERGED}")


def evaluate(network, faces, preprocessing, runtime, crops="center", label="evaluating"):
    """{task: metrics} of one split (`Faces`), for every task of the network.

    network: as in `predict`. Of several processes each predicts its part of the faces, and all get
    the metrics of the whole. Raises UserError when a prediction is not finite.
    """
    (rank, processes), count = ranks(), len(faces)
    mine = faces.images[count * rank // processes : count * (rank + 1) // processes]
    outputs = predict(network, mine, preprocessing, runtime, crops, label)
    outputs = {name: gather_unequal(output) for name, output in outputs.items()}
    check_predictions(outputs, label)
    if runtime.device.type == "mps":  # which has no float64
        outputs = {name: output.cpu() for name, output in outputs.items()}
        faces = faces.to("cpu")
    return measure(outputs, faces.labels, faces.vad)
