"""Cross-validation of FERSNet over folds of subjects: per fold and epoch train, test, record."""

import time
from contextlib import suppress
from dataclasses import replace

from data.subjects.folds import FOLDS
from training.engine import train_one_epoch
from training.fersnet.engine import evaluate_fold
from training.fersnet.run import FoldRun
from utils.distributed import ranks
from utils.files import UserError
from utils.interrupt import Stopped, StopRequest
from utils.lock import exclusive_run
from utils.text import counted, spell_duration


def cross_validate(settings, faces, runtime, out, resume=False):
    """Train and test one fold, or all that are not finished; returns the exit code.

    faces: `SubjectFaces`; runtime: `Runtime`; out: output folder; resume: whether to continue where
    an earlier run in `out` was interrupted. Raises UserError for a user's mistake.
    """
    if ranks()[1] > 1:
        raise UserError(
            f"{settings.model} trains in one process: start a fold in each with --fold, without "
            "torchrun."
        )
    if runtime.precision == "fp16":  # its many losses were balanced without scaled gradients
        reasons = (*runtime.reasons, "fp32 instead: FERSNet needs its range")
        runtime = replace(runtime, precision="fp32", reasons=reasons)
    print_plan(settings, faces, runtime)
    faces = faces.to(runtime.device)
    for fold in [settings.fold] if settings.fold else range(1, FOLDS + 1):
        with exclusive_run(out, fold):
            run = FoldRun(settings, faces, runtime, out, fold)
            code = train(run, resume)
            if code:
                return code
    run.finished()
    return 0


def train(run, resume):
    """Train a fold: every epoch train, test, record. Returns 0, or 130 when stopped by the user."""
    with StopRequest() as stop, suppress(Stopped):
        with stop.at_once():
            learner = run.begin(resume)
        if learner is None:
            print(f"Fold {run.fold} is finished: {run.result_file}", flush=True)
            return 0
        for epoch in range(run.epoch, run.recipe.epochs):
            label = f"fold {run.fold}, epoch {epoch}"
            metrics, state = train_one_epoch(learner, epoch, label, run.mid_epoch, stop)
            if metrics is None:
                run.save(learner, state)
                return run.interrupted()
            began = time.perf_counter()
            network = run.runtime.for_inference(learner.averaged)
            tested = evaluate_fold(network, run.held_out, run.runtime)
            seconds = state["seconds"] + time.perf_counter() - began
            run.record(metrics, tested, learner, seconds)
            print(f"{label} ({spell_duration(seconds)}) {summary(metrics, tested)}", flush=True)
            if stop():
                run.save(learner)
                return run.interrupted()
        with stop.at_once():
            run.finish(learner)
        return 0
    return run.interrupted()


def print_plan(settings, faces, runtime):
    """Print what is trained, on what, and why it runs as it does."""
    recipe = settings.recipe
    print(faces.description)
    print("Runs with: " + "; ".join(runtime.reasons))
    print(
        f"Recipe {settings.recipe_name}: {counted(recipe.epochs, 'epoch')}, batch "
        f"{recipe.batch_size}, sharing {recipe.sharing}, seed {settings.seed}; "
        f"fold {settings.fold or 'all'}",
        flush=True,
    )


def summary(metrics, tested):
    """One line about an epoch."""
    text = f"Acc: training {metrics['Acc']:.2f}, held out {tested['Acc']:.2f}"
    if tested.get("L1") is not None:
        text += f" | synthesized faces: L1 {tested['L1']:.4f}, SSIM {tested['SSIM']:.4f}"
    return text
