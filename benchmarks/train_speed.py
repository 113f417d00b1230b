"""Training throughput: this project, the original design, the usual loop, and the ceiling.

    python benchmarks/train_speed.py [--quick]

Each is called until two rates in a row agree, then all are timed in turn in one process; rates are
medians, ratios medians of the ratios of one round.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (
    TRAINING_FLOP,
    asked_for_quick,
    describe_machine,
    print_rates,
    time_in_turn,
)
from benchmarks.convolution_ceiling import ceiling
from benchmarks.references import ancestor_training, original_training
from data.demo.demo import draw_faces
from data.faces import Faces
from models import MODELS
from training.config import (
    DEFAULT_MODEL,
    RECIPES,
)
from training.device import setup_device
from training.engine import train_one_epoch
from training.learner import MultiTaskLearner
from utils.tasks import TASKS


def our_training(faces, runtime, images_wanted, **changes):
    """A function that trains on about so many images as the program does, and returns how many.

    changes: to the default recipe.
    """
    recipe = replace(RECIPES["default"], **changes)
    model = MODELS[DEFAULT_MODEL](
        tuple(TASKS), recipe.sharing, base=recipe.width, pooled=recipe.pooled
    )
    faces = faces.to(runtime.device).select(slice(images_wanted))
    learner = MultiTaskLearner(model, recipe, faces, 0, runtime)

    def train():
        train_one_epoch(learner, 0, None)
        return len(faces) // recipe.batch_size * recipe.batch_size

    return train


def main():
    quick = asked_for_quick(__doc__)
    rounds, steps = (1, 1) if quick else (5, 6)
    batch = RECIPES["default"].batch_size
    runtime = setup_device()
    print(describe_machine())
    print("; ".join(runtime.reasons))
    images, labels, vad = draw_faces(batch * steps, seed=0)
    faces = Faces.from_arrays(images, labels, vad)
    torch.manual_seed(0)
    ceilings = []

    def measure_ceiling():
        ceilings.append(ceiling(runtime, batch))
        return 0

    programs = {
        "this project, default recipe": our_training(faces, runtime, batch * steps),
        "recipe fast (pooled stem)": our_training(faces, runtime, batch * steps, pooled=True),
        "default with SGD": our_training(faces, runtime, batch * steps, optimizer="sgd"),
        "ancestor loop": ancestor_training(images, labels, steps),
        "original design": original_training(images, labels, steps),
        "convolutions alone (ceiling)": measure_ceiling,
    }
    rates = time_in_turn(programs, rounds)
    rates["convolutions alone (ceiling)"] = ceilings[-rounds:]
    title = f"training, ours in {runtime.precision}"
    print_rates(title, "images/s", rates, "this project, default recipe", TRAINING_FLOP)


if __name__ == "__main__":
    main()
