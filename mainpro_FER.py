"""Train a network for seven emotions and for valence, arousal and dominance together.

    python mainpro_FER.py                  # FER2013 where data/ holds its archive, else drawn faces
    python mainpro_FER.py --epochs 9       # a shorter run
    python mainpro_FER.py --resume         # go on after an interruption
    python mainpro_FER.py --help           # all options

Per epoch it trains, evaluates both test splits, records the results (AccProcess_*.csv, AccProcess.xlsx,
AccProcess.png, data.txt) and saves checkpoints in <dataset>_<model>/. The README reports what is reached.
"""

import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import torch

from data import DATASETS, default_dataset
from data.votes import with_targets
from inference import networks
from models import MODELS
from training.device import setup_device
from training.engine import evaluate, share_of, train_one_epoch
from training.fersnet.cross_validation import cross_validate
from training.learner import MultiTaskLearner
from training.run import Run, load_last
from training.settings import build_parser, resolve, resumed
from utils.distributed import AgreedStop, check_share, gather_unequal, is_first, rank0_first, shutdown, wait_for_all
from utils.files import UserError, exit_code
from utils.interrupt import Stopped, StopRequest
from utils.lock import exclusive_run
from utils.tasks import TASKS, TEST_SPLITS
from utils.text import counted, spell_duration


def main(arguments):
    """Load, build, train. Returns the exit code. Raises UserError for what the user can put right."""
    if arguments.resume:
        saved, last = load_last(arguments.out, arguments.dataset, arguments.model)
        settings = resumed(arguments, saved)
    else:
        settings, last = resolve(arguments, arguments.dataset or default_dataset(arguments.data)), None
    precision = arguments.precision or (last or {}).get("precision", "auto")
    runtime = setup_device(arguments.device, precision, arguments.compile, training=True)
    load = DATASETS[settings.dataset]
    if load.has_subjects:
        faces = load(settings.data, largest_face)
        return cross_validate(settings, faces, runtime, arguments.out, last, arguments.processes)
    with rank0_first():  # of several processes one prepares data.h5
        dataset = load(settings.data, settings.drop_duplicates, settings.limit, arguments.out)
    dataset = with_targets(dataset, settings.recipe.targets)
    check_share(settings.recipe.batch_size, min(map(len, dataset.splits.values())))
    settings = supported(settings, dataset, arguments.tasks)
    faces = runtime.move_to_device(dataset.splits)
    announce(settings, dataset, runtime.reasons)

    with exclusive_run(arguments.out) if is_first() else nullcontext():
        taught = teacher_of(settings, faces["Training"], runtime, last)
        run = Run(settings, replace(dataset, splits=faces), runtime, arguments.out, taught, arguments.tensorboard)
        torch.manual_seed(settings.seed)
        model = MODELS[settings.model](settings.tasks, settings.recipe.sharing, **run.options)
        learner = MultiTaskLearner(
            model, settings.tasks, settings.recipe, run.tables, run.preprocessing, runtime, taught
        )
        if last is None:
            run.begin()
        else:
            run.resume(last, learner)
        code = train(run, learner)
        wait_for_all()
        return code


def teacher_of(settings, training, runtime, last):
    """(N, 7): the released network's probabilities of the training faces, where the recipe wants them, else None.

    Where several processes run, each predicts its part of the faces and all get the whole.
    last: content of the last.t7 of the run to resume, which has them already, or None.
    """
    if last is not None:
        taught = last.get("taught")
        return None if taught is None else taught.to(training.labels.device)
    if not settings.recipe.teacher or "classify" not in settings.tasks:
        return None
    mine = networks.taught_probabilities(share_of(training).images, runtime)
    return gather_unequal(mine.to(runtime.device)).to(training.labels.device)


def largest_face(grey):
    """(left, top, side) of the largest face in a frame, uint8 (H, W), or None; the detector is slow to import."""
    from inference.detector import find_faces

    boxes = find_faces(grey)
    return (boxes[0].left, boxes[0].top, boxes[0].side) if boxes else None


def train(run, learner):
    """The loop: per epoch train, evaluate, record, save. Returns 0, or 130 when stopped by the user."""
    settings, runtime, faces = run.settings, run.runtime, run.dataset.splits
    training, recipe = faces["Training"], settings.recipe
    with StopRequest() as request:
        stop = AgreedStop(request, runtime.device)
        for epoch in range(run.epoch, recipe.epochs):
            plan = learner.plan(training, settings.seed, epoch)
            figures, position = train_one_epoch(
                learner, training, plan, epoch, f"epoch {epoch}", run.position, stop, duration_report(run)
            )
            if figures is None:
                run.save_last(learner, position)
                return run.interrupted()
            trained = time.perf_counter()
            network = runtime.for_inference(learner.averaged)
            results = {"epoch": epoch, "Training": figures}
            for split in TEST_SPLITS:
                results[split] = evaluate(
                    network, faces[split], settings.tasks, run.preprocessing, runtime, run.crops, split
                )
            run.record(results, learner, position["seconds"], time.perf_counter() - trained)
            print(summary(results, position["seconds"] + time.perf_counter() - trained), flush=True)
            if epoch + 1 < recipe.epochs and stop(now=True):
                return run.interrupted()
        try:
            with request.at_once():
                run.finish(learner)
        except Stopped:
            return run.interrupted()
    run.finished()
    if settings.dataset == "Demo":
        print("These were drawn faces. Put the FER2013 archive into data/ to train on real ones (see README).")
    return 0


def supported(settings, dataset, asked):
    """The settings with the tasks that the data has labels for; says which are left out.

    Raises UserError when one of them was asked for by name.
    """
    tasks = tuple(name for name in settings.tasks if TASKS[name].dimension is None)
    if dataset.has_vad or tasks == settings.tasks:
        return settings
    if asked is not None:
        raise UserError("The data has no valence, arousal and dominance, so only --tasks classify can be trained.")
    print("The data has no valence, arousal and dominance: training the classification only.")
    return replace(settings, tasks=tasks)


def announce(settings, dataset, reasons):
    """Say what is trained, on what, and why it runs the way it does (`reasons`, the first names the device)."""
    counts = ", ".join(f"{split} {len(faces):,}" for split, faces in dataset.splits.items())
    print(f"{settings.dataset}: {dataset.description}. {counts} faces")
    print("Runs with: " + "; ".join(reasons))
    recipe = settings.recipe
    if settings.recipe_name == "fast":
        print("Recipe fast: for a computer without a GPU; it learns from the labels and, unless --teacher 0, from the "
              "released network. --recipe default trains the whole network from the labels, three times as long an "
              "epoch.")  # fmt: skip
    print(f"Recipe {settings.recipe_name}: {counted(recipe.epochs, 'epoch')}, batch {recipe.batch_size}, "
          f"seed {settings.seed}; tasks {', '.join(settings.tasks)}", flush=True)  # fmt: skip


def duration_report(run):
    """What to say once the rate of the first epoch is known; None later on."""
    if run.epoch > 0:
        return None
    epochs = run.settings.recipe.epochs
    return lambda seconds, rate: (
        f"{rate:.0f} images/s: training takes about {spell_duration(seconds)} an epoch, "
        f"{spell_duration(seconds * epochs)} for {counted(epochs, 'epoch')}, evaluation not counted"
    )


def summary(results, seconds):
    """One line about an epoch: the decisive figure of every task on every split."""
    parts = []
    for split, figures in results.items():
        if split != "epoch":
            values = [f"{metrics[TASKS[name].rules.decisive]:.3f}" for name, metrics in figures.items()]
            parts.append(f"{split} {' '.join(values)}")
    names = ", ".join(f"{TASKS[name].rules.decisive}{TASKS[name].letter}" for name in results["Training"])
    return f"epoch {results['epoch']} ({spell_duration(seconds)}) {names}: " + " | ".join(parts)


def command_line():
    """Run `main` with the arguments of the command line; returns the exit code."""
    stopped = "Stopped. What was saved is complete; --resume goes on from there."
    try:
        return exit_code(lambda: main(build_parser().parse_args()), stopped, quiet=not is_first())
    finally:
        shutdown()


if __name__ == "__main__":
    sys.exit(command_line())
