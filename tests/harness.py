"""Small networks and their files, and programs run in this process."""

import torch

from models import checkpoint
from models.multitask import MultiTask
from utils.tasks import TASKS

PREPROCESSING = {"mean": 0.5, "std": 0.25}


def make_model(seed=0, tasks=tuple(TASKS), sharing="trunk"):
    """An untrained network of few channels whose outputs differ from face to face."""
    torch.manual_seed(seed)
    model = MultiTask(tasks, sharing, base=8)
    for name, head in model.heads.items():
        torch.nn.init.normal_(head.weight, std=1 if name == "classify" else 8)
    model(torch.randn(64, 1, 44, 44))
    return model.eval()


def save_checkpoints(folder, model, tasks=tuple(TASKS), split="PrivateTest", epoch=3, **changes):
    """Save a network as the files of a run that are best on `split`; returns the folder."""
    description = {"dataset": "FER2013", "model": "Narrow", "preprocessing": PREPROCESSING}
    for name in tasks:
        content = checkpoint.task_checkpoint(model, name, epoch, {}, description | changes)
        checkpoint.save(folder / TASKS[name].checkpoint(split), content)
    return folder


def run_module(module, *arguments):
    """Call a program's `main` with command-line arguments; returns its exit code."""
    return module.main(module.build_parser().parse_args([str(text) for text in arguments]))
