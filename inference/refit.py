"""Fit the V/A/D heads of a trained network to other annotations, its trunk as it is: minutes instead of a training.

    python -m inference.refit RUN/FER2013_ResNet18RegressionTwoOutputs/PublicTest_model_classify.t7 FOLDER --data data/

The heads learn the annotations of the training faces; a network that has none for V/A/D gets them. Then predictions
are given the spread that is wanted. A network knows its training faces better than others, and varies less on those
than it should: so its values of the public split are made to vary as the annotations there do. And where annotations
are derived they vary less than people's ratings: with --ratings as much more as the ratings of training faces in that
CSV (columns as of `inference.evaluate --gold`) vary more than the annotations of the same faces. The temperature of
the probabilities is fitted to the public split. Nothing is fitted to the private one.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import nn

from data import DATASETS
from inference.ratings import read_ratings
from models import MODELS, checkpoint
from training.calibration import fit_temperature
from training.device import DEVICES, PRECISIONS, setup_device
from training.engine import predict
from training.losses import dimension_loss
from utils.files import UserError, exit_code, path_argument
from utils.tasks import TASKS

CROPS = "fourcrop"  # whose features a head learns from, on average
DECAY = 1e-4  # of the squared weights of a head; the public split's CCC is the same from 1e-5 to 1e-4, less above
ROUNDS = 20  # until the spread is right: a head is bounded, so it grows less than its weights


class Features(nn.Module):
    """Faces (B, 1, H, W) to {"features": (B, F)} by a trunk, as `predict` takes networks."""

    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, images):
        return {"features": self.trunk(images)}


def refit(source, dataset, runtime, blocks=()):
    """The content of the checkpoint `source` with heads fitted to the V/A/D of a `Dataset`.

    blocks: `Block`s of human ratings, of which those of training faces are used. Raises UserError when the faces have
    no V/A/D, or the network has no trunk that its tasks share.
    """
    model, content = checkpoint.load_model(source)
    if not dataset.has_vad:
        raise UserError("The data has no valence, arousal and dominance to fit heads to.")
    if content.get("sharing") != "trunk" or "classify" not in model.tasks or not hasattr(model, "trunks"):
        raise UserError(f"{source}: only networks that classify and share a trunk can be given other heads.")
    whole = MODELS[content["model"]](tuple(TASKS), "trunk", **content.get("options", {}))
    whole.load_state_dict(model.state_dict(), strict=False)
    trunk = runtime.for_inference(runtime.place(Features(whole.eval().trunks["shared"])))
    splits = {name: dataset.splits[name] for name in ("Training", "PublicTest")}
    features = {
        name: predict(trunk, faces.images, content["preprocessing"], runtime, CROPS, name)["features"]
        .float()
        .cpu()
        .clone()
        for name, faces in splits.items()
    }
    whole.float().cpu()
    factors = {}
    for task in (task for task in TASKS.values() if task.dimension is not None):
        head, annotations = whole.heads[task.name], {n: faces.vad[:, task.dimension] for n, faces in splits.items()}
        spreads = {name: spread_of(values, f"annotations of {name} faces") for name, values in annotations.items()}
        fit_head(head, features["Training"], annotations["Training"])
        spread = spreads["PublicTest"] * excess(blocks, splits["Training"], task.dimension)
        factors[task.name] = set_spread(head, features["PublicTest"], spread)
    with torch.no_grad():
        temperature = fit_temperature(whole.heads["classify"](features["PublicTest"]), splits["PublicTest"].labels)
    results = {
        split: {"classify": of_split["classify"]} if isinstance(of_split, dict) else of_split
        for split, of_split in content.get("results", {}).items()
    }
    heads = f"fitted to the annotations of {len(splits['Training']):,} training faces, the trunk unchanged"
    return {
        **content, "net": whole.state_dict(), "tasks": list(TASKS), "results": results, "temperature": temperature,
        "heads": {"V/A/D": heads, "spread": factors},
    }  # fmt: skip


def fit_head(head, features, target):
    """Fit a `RegressionHead` to features (N, F) and target (N,): the loss of training, and `DECAY`. In place."""
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.fill_(target.mean())
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=60, history_size=20, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = dimension_loss(head(features), target, ccc_weight=1.0) + DECAY * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


@torch.no_grad()
def set_spread(head, features, spread):
    """Scale the weights of a `RegressionHead` until its values of features (N, F) have the standard deviation `spread`.

    What it gives before its bound for the mean of the features stays. Returns the factor.
    """
    weight, middle, factor = head.weight.clone(), features.mean(dim=0) * features.shape[1] ** -0.5, 1.0
    center = head.bias + weight @ middle
    for _ in range(ROUNDS):
        factor *= (spread / head(features).std()).item()
        head.weight.copy_(weight * factor)
        head.bias.copy_(center - head.weight @ middle)
    return factor


def excess(blocks, training, dimension):
    """How much more human ratings of training faces vary than the annotations of the same faces; 1 without ratings.

    Raises UserError when either do not vary.
    """
    blocks = [block for block in blocks if block.split == "Training"]
    if not blocks:
        return 1.0
    ratings = torch.cat([block.ratings[:, dimension] for block in blocks])
    annotations = training.vad[torch.cat([block.rows for block in blocks]), dimension]
    return spread_of(ratings, "ratings of training faces") / spread_of(annotations, "annotations of rated faces")


def spread_of(values, what):
    """The standard deviation of values (N,). Raises UserError, which says `what` they are, where there is none."""
    if not 0 < (values.max() - values.min()).item() < math.inf:  # false for NaN, too
        raise UserError(f"The {what} are all the same, and predictions cannot get their spread: give more, or others.")
    return values.std().item()


def main(arguments):
    """The command line; returns the exit code."""
    target = Path(arguments.folder) / Path(arguments.checkpoint).name
    if target.exists():
        raise UserError(f"{target} is there already: move it away first.")
    runtime = setup_device(arguments.device, arguments.precision)
    dataset = DATASETS["FER2013"](arguments.data, out=target.parent)
    counts = {name: len(faces) for name, faces in dataset.splits.items()}
    blocks = [] if arguments.ratings is None else read_ratings(arguments.ratings, counts)
    if arguments.ratings is not None and all(block.split != "Training" for block in blocks):
        remedy = "say Training in its column split, or leave --ratings out"
        raise UserError(f"{arguments.ratings} rates no training faces: {remedy}.")
    content = refit(arguments.checkpoint, dataset, runtime, blocks)
    checkpoint.save(target, content)
    grown = ", ".join(f"{name} {factor:.2f}" for name, factor in content["heads"]["spread"].items())
    print(f"{target}: heads fitted, then multiplied: {grown}; temperature {content['temperature']:.3f}")
    return 0


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.refit", description="Fit the V/A/D heads of a trained network to other annotations."
    )
    parser.add_argument("checkpoint", type=path_argument, help="a .t7 file of a run")
    parser.add_argument("folder", type=path_argument,
                        help="where to write it, under the same name; also data.h5 where --data cannot be "
                             "written to")  # fmt: skip
    parser.add_argument(
        "--data", type=path_argument, metavar="PATH", help="archive, folder, CSV or data.h5 (default: data/)"
    )
    parser.add_argument("--ratings", type=path_argument, metavar="CSV", help="human ratings of training faces")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: auto")
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
