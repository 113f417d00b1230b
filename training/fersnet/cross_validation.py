"""Cross-validation of FERSNet over folds of subjects: per fold and epoch train, test, record, save."""

import time
from contextlib import suppress
from dataclasses import replace

from training.engine import train_one_epoch
from training.fersnet.engine import evaluate_fold
from training.fersnet.processes import are_under_way, train_in_processes
from training.fersnet.run import FoldRun
from utils.distributed import ranks
from utils.files import UserError
from utils.interrupt import Stopped, StopRequest
from utils.lock import exclusive_run
from utils.text import counted, spell_duration


def cross_validate(settings, faces, runtime, out, last=None, processes=None):
    """Train and test the folds that `settings` asks for; returns the exit code.

    faces: `SubjectFaces`; runtime: `Runtime`; out: output folder; last: content of the last.t7 to go on from, None
    for a new run; processes: how many folds at a time, each in a process of its own, None for all in this one. Raises
    UserError for what the user can put right.
    """
    if ranks()[1] > 1:
        raise UserError(f"{settings.model} trains in one process: start a fold in each with --fold, without torchrun.")
    if runtime.precision == "fp16":  # its many losses were balanced without scaled gradients
        runtime = replace(
            runtime, precision="fp32", reasons=(*runtime.reasons, "fp32 instead: FERSNet needs its range")
        )
    print(faces.description)
    print("Runs with: " + "; ".join(runtime.reasons))
    recipe = settings.recipe
    print(f"Recipe {settings.recipe_name}: {counted(recipe.epochs, 'epoch')}, batch {recipe.batch_size}, "
          f"sharing {recipe.sharing}, seed {settings.seed}; fold {settings.fold}", flush=True)  # fmt: skip
    with exclusive_run(out):
        run = FoldRun(settings, faces.to(runtime.device), runtime, out, processes)
        if last is None:
            run.begin()
        else:
            run.resume(last)
        several = processes or are_under_way(run)
        folds = run.remaining
        if several:  # but what this process was in the middle of it goes on with itself
            folds = folds[:1] if run.is_within_a_fold else []
        code = train(run, folds)
        if several and code == 0:
            code = train_in_processes(run, processes or 1, cross_validate)
        if code == 0:
            run.finished()
        return code


def train(run, folds):
    """The loop: per fold and epoch train, test, record, save. Returns 0, or 130 when stopped by the user."""
    with StopRequest() as stop, suppress(Stopped):
        for fold in folds:
            training, held_out = run.split(fold)
            with stop.at_once():
                learner = run.learner(fold, training)
            for epoch in range(run.epoch(fold), run.recipe.epochs):
                label = f"fold {fold + 1}, epoch {epoch}"
                plan = learner.plan(training, run.seed(fold), epoch)
                figures, position = train_one_epoch(learner, training, plan, epoch, label, run.position, stop)
                if figures is None:
                    run.save_last(learner, position)
                    return run.interrupted()
                trained = time.perf_counter()
                network = run.runtime.for_inference(learner.averaged)
                tested = evaluate_fold(network, held_out, run.runtime)
                seconds = position["seconds"] + time.perf_counter() - trained
                run.record(fold, figures, tested, learner, network, held_out, seconds)
                print(f"{label} ({spell_duration(seconds)}) {summary(figures, tested)}", flush=True)
                if stop():
                    run.save_last(learner)
                    return run.interrupted()
            with stop.at_once():
                run.finish_fold(fold, learner, training, held_out)
            if stop() and run.remaining:
                return run.interrupted()
        return 0
    return run.interrupted()


def summary(figures, tested):
    """One line about an epoch."""
    text = f"Acc: training {figures['Acc']:.2f}, held out {tested['Acc']:.2f}"
    if tested.get("L1") is not None:
        text += f" | synthesized faces: L1 {tested['L1']:.4f}, SSIM {tested['SSIM']:.4f}"
    return text
