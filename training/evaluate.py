"""Evaluate the chosen checkpoints of a run."""

from models import checkpoint
from training.engine import evaluate
from utils.tasks import TEST_SPLITS


def evaluate_chosen(files, splits, runtime):
    """Ten-crop metrics of the chosen checkpoints on both test splits.

    files: {task name: path of its checkpoint}; splits: {split: `Faces`}. A network that several
    tasks share is evaluated once. Returns {task name: {"epoch": int, "PublicTest": metrics,
    "PrivateTest": metrics}}.
    """
    evaluated, chosen = {}, {}
    for task, path in files.items():
        model, content = checkpoint.load_model(path)
        network = content["epoch"], tuple(content["tasks"])
        if network not in evaluated:
            evaluated[network] = _evaluate_tencrop(model, content, splits, runtime)
        metrics = {split: evaluated[network][split][task] for split in TEST_SPLITS}
        chosen[task] = {"epoch": content["epoch"], **metrics}
    return chosen


def _evaluate_tencrop(model, content, splits, runtime):
    network = runtime.for_inference(runtime.place(model))
    pixels, epoch = content["preprocessing"], content["epoch"]
    return {
        split: evaluate(
            network, splits[split], content["tasks"], pixels, runtime, "tencrop",
            f"{split}, epoch {epoch}",
        )
        for split in TEST_SPLITS
    }  # fmt: skip
