"""Fit the V/A/D heads of a trained network to other annotations, in minutes instead of a training.

    python -m inference.refit RUN/PublicTest_model_classify.t7 --data PATH --out new/released.t7

The backbone and the classifier stay as they are; a network without V/A/D heads gets them. The heads
are fitted to the annotations of the training faces and then scaled, since a network varies too
little on faces that it has not memorised: predictions on the public split get the standard
deviation of the annotations there, times --spread (derived annotations vary less than ratings by
people). The temperature is fitted to the public split. Nothing is fitted to the private split.
"""

import argparse
import sys
from copy import deepcopy

import torch
from torch import nn

from data import DATASETS
from models import MODELS, checkpoint
from training.calibration import fit_temperature
from training.device import DEVICES, PRECISIONS, setup_device
from training.engine import predict
from training.losses import dimension_loss
from utils.files import UserError, exit_code, new_file_argument, path_argument
from utils.tasks import TASKS

CROPS = "fourcrop"  # over which the features are averaged
DECAY = 1e-4  # L2 penalty of a head; CCC of the public split is the same from 1e-5 to 1e-4
ROUNDS = 20  # of scaling: a head is bounded, so it grows less than its weights


def refit(source, dataset, runtime, spread=(1.0, 1.0, 1.0)):
    """The content of the checkpoint `source` with heads fitted to the V/A/D of a `Dataset`.

    spread: of the predictions of V, A and D, as a multiple of that of the annotations. Raises
    UserError when there are no V/A/D or they do not vary, or the tasks share no backbone.
    """
    model, content = checkpoint.load_model(source)
    if not dataset.has_vad:
        raise UserError("The data has no valence, arousal and dominance to fit heads to.")
    shared = content.get("sharing") == "trunk" and hasattr(model, "trunks")
    if not shared or "classify" not in model.tasks:
        raise UserError(f"{source}: only networks that classify and share a trunk can be refitted.")
    network = MODELS[content["model"]](tuple(TASKS), "trunk", **content.get("options", {}))
    network.load_state_dict(model.state_dict(), strict=False)
    heads = network.eval().heads
    splits = {name: dataset.splits[name] for name in ("Training", "PublicTest")}
    features = predict_features(network, splits, content["preprocessing"], runtime)
    factors = {}
    for task in (task for task in TASKS.values() if task.dimension is not None):
        head, column = heads[task.name], task.dimension
        annotations = {name: faces.vad[:, column] for name, faces in splits.items()}
        for name, values in annotations.items():
            if len(values) < 2 or values.min() == values.max():
                raise UserError(f"The {task.name} annotations of {name} faces are all the same.")
        fit_head(head, features["Training"], annotations["Training"])
        wanted = spread[column] * annotations["PublicTest"].std()
        factors[task.name] = set_spread(head, features["PublicTest"], wanted)
    with torch.no_grad():
        logits = heads["classify"](features["PublicTest"])
    origin = f"fitted to {len(splits['Training']):,} training faces ({dataset.description})"
    return content | {
        "net": network.state_dict(),
        "tasks": list(TASKS),
        "results": {},  # of the heads before
        "temperature": fit_temperature(logits, splits["PublicTest"].labels),
        "heads": {"V/A/D": origin, "spread": factors},
    }


def predict_features(network, splits, preprocessing, runtime):
    """{split: (N, F) float32 on the CPU}: what the heads of a network see of {split: `Faces`}."""
    backbone = deepcopy(network)
    backbone.heads = nn.ModuleDict({"classify": nn.Identity()})
    backbone = runtime.for_inference(runtime.place(backbone))
    features = {}
    for split, faces in splits.items():
        outputs = predict(backbone, faces.images, preprocessing, runtime, CROPS, split)
        features[split] = outputs["classify"].float().cpu().clone()  # outside of inference mode
    return features


def fit_head(head, features, target):
    """Fit a `RegressionHead` to features (N, F) and target (N,), in place."""
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, target.mean().item())
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=60, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        penalty = DECAY * head.weight.square().sum()
        loss = dimension_loss(head(features), target, ccc_weight=1.0) + penalty
        loss.backward()
        return loss

    optimizer.step(closure)


@torch.no_grad()
def set_spread(head, features, spread):
    """Scale a `RegressionHead` until its values of features (N, F) have this standard deviation.

    What it gives for the mean of the features stays. Returns the factor.
    """
    weight, factor = head.weight.clone(), 1.0
    mean = features.mean(dim=0) * head.in_features**-0.5
    center = head.bias + weight @ mean
    for _ in range(ROUNDS):
        factor *= (spread / head(features).std()).item()
        head.weight.copy_(weight * factor)
        head.bias.copy_(center - head.weight @ mean)
    return factor


def main(arguments):
    """Fit and write the checkpoint. Returns the exit code."""
    runtime = setup_device(arguments.device, arguments.precision)
    dataset = DATASETS["FER2013"](arguments.data, out=arguments.out.parent)
    content = refit(arguments.checkpoint, dataset, runtime, arguments.spread)
    checkpoint.save(arguments.out, content)
    scaled = ", ".join(f"{name} {n:.2f}" for name, n in content["heads"]["spread"].items())
    temperature = content["temperature"]
    print(f"Written: {arguments.out} (heads scaled by {scaled}; temperature {temperature:.3f})")
    return 0


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.refit",
        description="Fit the V/A/D heads of a trained network to other annotations.",
    )
    parser.add_argument("checkpoint", type=path_argument, help="a .t7 file of a run")
    parser.add_argument(
        "--out", type=new_file_argument, required=True, metavar="FILE", help="the .t7 file to write"
    )
    parser.add_argument(
        "--data", type=path_argument, metavar="PATH",
        help="archive, folder, table or data.h5 (default: data/)",
    )  # fmt: skip
    parser.add_argument(
        "--spread", type=float, nargs=3, default=(1.0, 1.0, 1.0), metavar=("V", "A", "D"),
        help="standard deviation of predictions, in those of the annotations (default: 1 1 1)",
    )  # fmt: skip
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
