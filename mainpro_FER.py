"""Train a network for seven emotions and for valence, arousal and dominance together.

    python mainpro_FER.py                  # FER2013 where data/ holds its archive, else drawn faces
    python mainpro_FER.py --epochs 9       # a shorter run
    python mainpro_FER.py --resume         # continue after an interruption
    python mainpro_FER.py --help           # all options

Every epoch trains, evaluates both test splits, writes the results (AccProcess_*.csv, data.txt,
AccProcess.xlsx, AccProcess.png) and saves checkpoints in <dataset>_<model>/. The README reports
what is reached.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from data import DATASETS, default_dataset
from data.faces import Dataset, Faces
from data.votes import with_targets
from inference import checkpoints
from models import MODELS
from training.config import Settings, build_parser, check_effects, resolve, resumed
from training.device import Runtime, setup_device
from training.engine import evaluate, train_one_epoch
from training.fersnet.cross_validation import cross_validate
from training.learner import MultiTaskLearner
from training.run import Run, load_last
from utils.distributed import (
    AgreedStop,
    check_share,
    is_first,
    rank0_first,
    shutdown,
    wait_for_all,
)
from utils.files import UserError, exit_code
from utils.interrupt import Stopped, StopRequest
from utils.lock import exclusive_run
from utils.tasks import TASKS, TEST_SPLITS
from utils.text import counted, spell_duration


def main(arguments: Namespace) -> int:
    """Load, build, train. Returns the exit code. Raises UserError for a user's mistake."""
    last = {}
    if arguments.resume:
        saved, last = load_last(arguments.out, arguments.dataset, arguments.model)
        settings = resumed(arguments, saved)
    else:
        settings = resolve(arguments, arguments.dataset or default_dataset(arguments.data))
    precision = arguments.precision or last.get("precision", "auto")
    runtime = setup_device(arguments.device, precision, compiled=bool(arguments.compile))
    if settings.has_subjects:
        faces = DATASETS[settings.dataset](settings.data, largest_face)
        return cross_validate(settings, faces, runtime, arguments.out, arguments.resume)

    dataset = load_dataset(settings, arguments.out)
    settings = with_known_tasks(settings, dataset, arguments)
    print_plan(settings, dataset, runtime.reasons)
    splits = {name: faces.to(runtime.device) for name, faces in dataset.splits.items()}
    with exclusive_run(arguments.out) if is_first() else nullcontext():
        teacher_probs = ask_teacher(settings, splits["Training"], runtime, last)
        dataset = replace(dataset, splits=splits)
        run = Run(settings, dataset, runtime, arguments.out, teacher_probs, arguments.tensorboard)
        learner = build_learner(run)
        if arguments.resume:
            run.resume(last, learner)
        else:
            run.begin()
        code = train(run, learner)
        wait_for_all()
        return code


def train(run: Run, learner: MultiTaskLearner) -> int:
    """Every epoch: train, evaluate, record. Returns 0, or 130 when stopped by the user."""
    runtime, splits, epochs = run.runtime, run.dataset.splits, run.settings.recipe.epochs
    with StopRequest() as request:
        stop = AgreedStop(request, runtime.device)
        for epoch in range(run.epoch, epochs):
            metrics, state = train_one_epoch(
                learner, epoch, f"epoch {epoch}", run.mid_epoch, stop, rate_report(run)
            )
            if metrics is None:
                run.save(learner, state)
                return run.interrupted()
            began = time.perf_counter()
            network = runtime.for_inference(learner.averaged)
            results = {"epoch": epoch, "Training": metrics}
            for split in TEST_SPLITS:
                results[split] = evaluate(
                    network, splits[split], learner.preprocessing, runtime, run.crops, split
                )
            seconds = time.perf_counter() - began
            run.record(results, learner, state["seconds"], seconds)
            print(summary(results, state["seconds"] + seconds), flush=True)
            if epoch + 1 < epochs and stop(now=True):
                return run.interrupted()
        try:
            with request.at_once():
                run.finish(learner)
        except Stopped:
            return run.interrupted()
    run.finished()
    if run.settings.dataset == "Demo":
        print("These were drawn faces. Put the FER2013 archive into data/ to train on real ones.")
    return 0


def load_dataset(settings: Settings, out: Path) -> Dataset:
    """The `Dataset` with the targets of the recipe."""
    load = DATASETS[settings.dataset]
    with rank0_first():  # of several processes one prepares data.h5
        dataset = load(settings.data, settings.drop_duplicates, settings.limit, out)
    dataset = with_targets(dataset, settings.recipe.targets)
    check_share(settings.recipe.batch_size, min(map(len, dataset.splits.values())))
    return dataset


def with_known_tasks(settings: Settings, dataset: Dataset, arguments: Namespace) -> Settings:
    """The settings with the tasks that the data has annotations for."""
    if dataset.has_vad or settings.tasks == ("classify",):
        return settings
    if arguments.tasks is not None:
        raise UserError(
            "The data has no valence, arousal and dominance, so only --tasks classify can be "
            "trained."
        )
    print("The data has no valence, arousal and dominance: training the classification only.")
    settings = replace(settings, tasks=("classify",))
    check_effects(arguments, settings)
    return settings


def build_learner(run: Run) -> MultiTaskLearner:
    """The `MultiTaskLearner` of a run, with new weights."""
    settings, recipe = run.settings, run.settings.recipe
    torch.manual_seed(settings.seed)
    model = MODELS[settings.model](settings.tasks, recipe.sharing, **settings.network_options)
    faces = run.dataset.splits["Training"]
    return MultiTaskLearner(model, recipe, faces, settings.seed, run.runtime, run.teacher_probs)


def ask_teacher(
    settings: Settings, faces: Faces, runtime: Runtime, last: dict
) -> torch.Tensor | None:
    """(N, 7): the released network's probabilities of the training `faces`, or None without it.

    last: content of the last.t7 to resume, which holds them, or {}.
    """
    if last:
        known = last["teacher_probs"]
        return None if known is None else known.to(runtime.device)
    if not settings.recipe.teacher or "classify" not in settings.tasks:
        return None
    return checkpoints.teacher_probs(faces.images, runtime).to(runtime.device)


@cache
def face_detector():
    """The detector of `largest_face`."""
    from inference.detection import FaceDetector  # slow to import

    return FaceDetector()


def largest_face(grey: np.ndarray) -> tuple[float, float, float] | None:
    """(left, top, side) of the largest face in a frame, uint8 (H, W), or None."""
    boxes = face_detector().detect(grey)
    return (boxes[0].left, boxes[0].top, boxes[0].side) if boxes else None


def print_plan(settings: Settings, dataset: Dataset, reasons: tuple[str, ...]) -> None:
    """Print what is trained, on what, and why it runs as it does (`reasons`)."""
    recipe = settings.recipe
    counts = ", ".join(f"{split} {len(faces):,}" for split, faces in dataset.splits.items())
    print(f"{settings.dataset}: {dataset.description}. {counts} faces")
    print("Runs with: " + "; ".join(reasons))
    if settings.recipe_name == "fast":
        print(
            "Recipe fast: for a computer without a GPU; it learns from the labels and, unless "
            "--teacher 0, from the released network. --recipe default trains the whole network "
            "from the labels, three times as long an epoch."
        )
    print(
        f"Recipe {settings.recipe_name}: {counted(recipe.epochs, 'epoch')}, batch "
        f"{recipe.batch_size}, seed {settings.seed}; tasks {', '.join(settings.tasks)}",
        flush=True,
    )


def rate_report(run: Run) -> Callable[[float, float], str] | None:
    """What to print once the rate of the first epoch is known; None later on."""
    if run.epoch > 0:
        return None
    epochs = run.settings.recipe.epochs
    return lambda seconds, rate: (
        f"{rate:.0f} images/s: training takes about {spell_duration(seconds)} an epoch, "
        f"{spell_duration(seconds * epochs)} for {counted(epochs, 'epoch')}, evaluation not counted"
    )


def summary(results: dict, seconds: float) -> str:
    """One line about an epoch: the decisive metric of every task on every split."""
    tasks = [TASKS[name] for name in results["Training"]]
    parts = []
    for split in ("Training", *TEST_SPLITS):
        values = [results[split][task.name][task.rules.decisive] for task in tasks]
        parts.append(f"{split} {' '.join(f'{value:.3f}' for value in values)}")
    names = ", ".join(f"{task.rules.decisive}{task.letter}" for task in tasks)
    return f"epoch {results['epoch']} ({spell_duration(seconds)}) {names}: {' | '.join(parts)}"


def command_line() -> int:
    """Run `main` with the arguments of the command line; returns the exit code."""
    stopped = "Stopped. What was saved is complete; --resume continues from there."
    try:
        return exit_code(lambda: main(build_parser().parse_args()), stopped, quiet=not is_first())
    finally:
        shutdown()


if __name__ == "__main__":
    sys.exit(command_line())
