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
        epoch, pixels = content["epoch"], content["preprocessing"]
        network = runtime.for_inference(runtime.place(model))
        metrics = {"epoch": epoch}
        for split in TEST_SPLITS:
            key = epoch, model.tasks, split
            if key not in evaluated:
                label = f"{split}, epoch {epoch}"
                evaluated[key] = evaluate(network, splits[split], pixels, runtime, "tencrop", label)
            metrics[split] = evaluated[key][task]
        chosen[task] = metrics
    return chosen
