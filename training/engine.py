"""train_one_epoch and evaluate. Both return plain dicts; neither knows files or the command line."""

import time
from contextlib import contextmanager

import torch

from data.batches import center_crop, normalise, ten_crop, training_batches
from training.metrics import TrainingFigures, measure
from utils.files import UserError
from utils.parallel import gather_unequal, ranks
from utils.progress import Progress
from utils.tasks import TASKS

CROPS = {"center": center_crop, "tencrop": ten_crop}  # each (B, 48, 48) -> (B, crops, 44, 44)
# Crops per forward pass: what fills a GPU, and what stays in a processor's cache.
EVALUATION_CROPS = {"cuda": 2560, "cpu": 120}


class FiniteCheck:
    """Remembers on the device the first step whose loss was not finite, without waiting for it."""

    def __init__(self, device):
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    def watch(self, loss, step):
        """Look at the scalar `loss` of `step`."""
        new = (self.first_bad < 0) & ~torch.isfinite(loss.detach())
        self.first_bad = torch.where(new, step, self.first_bad)

    def verify(self, epoch):
        """Raise UserError naming epoch and step when a loss was not finite. Waits for the device."""
        step = self.first_bad.item()
        if step >= 0:
            raise UserError(
                f"The loss stopped being a finite number in epoch {epoch}, step {step}. The checkpoints "
                "written before it are good. Try a smaller --lr, or --precision fp32."
            )


@contextmanager
def memory_advice(batch_size):
    """Turn running out of memory into a UserError that says which --bs to try."""
    try:
        yield
    except RuntimeError as error:  # CUDA's own error is one too; the processor's allocator has no other
        if not any(sign in str(error) for sign in ("out of memory", "can't allocate memory", "not enough memory")):
            raise
        advice = f"try --bs {batch_size // 2}" if batch_size > 1 else "free some memory"
        raise UserError(f"Memory ran out with a batch of {batch_size} faces: {advice}.") from error


def take_steps(batches, learn, sums, first, steps, images, epoch, label, stop, announce=None):
    """Learn from `batches`, which begin with step `first` of an epoch of `steps`, until `stop` says so.

    learn: called with a batch and the number of its step, returns (loss, figures): a scalar and what is added to
    `sums`, (n,) float64, all on one device. images: in a batch, of all processes; label, announce: see `Progress`;
    stop: asked between steps. Returns how many steps of the epoch are done. Raises UserError when a loss is not
    finite or memory runs out. Waits for the device only now and then, to show figures.
    """
    check, done = FiniteCheck(sums.device), first
    with memory_advice(images), Progress(label, steps * images, first * images, announce) as progress:
        for step, batch in enumerate(batches, first):
            loss, figures = learn(batch, step)
            check.watch(loss, step)
            sums += figures
            done = step + 1
            if progress.add(images):
                check.verify(epoch)
                progress.show(loss=loss.item(), rate=progress.rate)
            if done < steps and stop():
                break
    check.verify(epoch)
    return done


def train_one_epoch(learner, faces, plan, preprocessing, epoch, start=None, stop=lambda: False, announce=None):
    """Train on the batches of `plan`.

    learner: `Learner`; faces: `Faces` as `Runtime.keep` gives them; preprocessing: {"mean", "std"} of
    the pixels in 0..1; start: {"step", "sums", "seconds"} of an interrupted epoch; stop: asked between
    steps, True ends the epoch early; announce: see `Progress`. Returns (figures, position): figures is
    {task: {metric: value}}, None when stopped early, and position is what `start` takes to go on from.
    Raises UserError when the loss is not finite or memory runs out.
    """
    began, device = time.perf_counter(), learner.runtime.device
    learner.model.train()
    figures = TrainingFigures(learner.objective.tasks)
    start = start or {"step": 0, "sums": figures.zeros(), "seconds": 0.0}
    sums = start["sums"].to(device, copy=True)

    def learn(batch, step):
        crops, labels, vad = batch
        pictures = normalise(crops, **preprocessing)
        loss, *outcome = learner.step(pictures, labels, vad, epoch * plan.steps + step, plan.steps)
        return loss, figures.of_batch(*outcome)

    batches = training_batches(faces, plan, device, start["step"])
    step = take_steps(
        batches, learn, sums, start["step"], plan.steps, plan.images_per_step, epoch, f"epoch {epoch}", stop, announce
    )
    position = {"step": step, "sums": sums.cpu(), "seconds": start["seconds"] + time.perf_counter() - began}
    return (figures.means(sums) if step == plan.steps else None), position


@torch.inference_mode()
def predict(network, images, preprocessing, runtime, crops="center", label=None):
    """Outputs of a network, averaged over the crops of each image.

    network: as `runtime.for_inference` gives it, or any in evaluation mode; images (N, 48, 48) uint8
    -> {task: (N, width)} float32 on runtime.device. crops: "center" or "tencrop". Averaged are logits and values, as
    the metrics see them. label: of the progress bar, None for no bar.
    """
    make_crops = CROPS[crops]
    per_image = make_crops(images[:1]).shape[1]
    batches = []
    with Progress(label, len(images)) as progress:
        for part in images.split(max(1, EVALUATION_CROPS[runtime.device.type] // per_image)):
            pixels = make_crops(part.to(runtime.device)).flatten(0, 1)[:, None]  # (B * crops, 1, 44, 44)
            with runtime.autocast():
                outputs = network(normalise(pixels, **preprocessing))
            batches.append({name: out.view(len(part), per_image, -1).mean(1) for name, out in outputs.items()})
            progress.add(len(part))
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def check_predictions(outputs, label):
    """Raise UserError when not all of {task: (N, width)} are finite; label: what was predicted."""
    if not all(output.isfinite().all() for output in outputs.values()):
        raise UserError(
            f"What the network predicts stopped being finite numbers ({label}): its training diverged. The checkpoints "
            "written before are good. Try a smaller --lr, or --precision fp32."
        )


def evaluate(network, faces, tasks, preprocessing, runtime, crops="center", label="evaluating"):
    """{task: metrics} of one split (`Faces`); tasks are names from `TASKS`.

    network: as in `predict`. Where several processes run, each predicts its part of the faces and all get the figures
    of the whole. Raises UserError when what the network predicts is not finite.
    """
    rank, processes = ranks()
    mine = faces.part(len(faces) * rank // processes, len(faces) * (rank + 1) // processes)
    outputs = predict(network, mine.images, preprocessing, runtime, crops, label)
    outputs = {name: gather_unequal(output) for name, output in outputs.items()}
    check_predictions(outputs, label)
    device = runtime.device
    vad = None if faces.vad is None else faces.vad.to(device)
    return measure([TASKS[name] for name in tasks], outputs, faces.labels.to(device), vad)
