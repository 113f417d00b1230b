"""Run by test_parallel.py, alone or under torchrun: one training step in double precision.

The first process saves its gradients.
"""

import sys

import torch

from data.demo.demo import draw_faces
from data.faces import Faces
from models.multitask import MultiTask
from training.config import Recipe
from training.device import setup_device
from training.learner import MultiTaskLearner
from training.losses import Objective, constraint_table
from utils import distributed
from utils.tasks import TASKS


def main(path, sharing):
    runtime = setup_device("cpu", "fp32")
    faces = Faces.from_arrays(*draw_faces(24, seed=0))
    torch.manual_seed(0)
    changes = {"orthogonality": 0.01, "consistency": 1.0, "optimizer": "sgd"}
    recipe = Recipe(batch_size=12, sharing=sharing, **changes)
    model = MultiTask(sharing=sharing, base=4).double()
    learner = MultiTaskLearner(model, recipe, faces, 0, runtime)
    table = constraint_table("table", faces.labels, faces.vad).double()
    learner.objective = Objective(tuple(TASKS), recipe, table)
    learner.model.train()
    learner.optimizer.zero_grad = lambda **options: None  # to look at the gradients afterwards
    pictures, labels, vad, *_ = next(learner.batches(learner.plan(0)))
    loss, _ = learner.step((pictures.double(), labels, vad.double(), None, None), 0, 2)
    if distributed.is_first():
        gradients = {name: parameter.grad for name, parameter in learner.model.named_parameters()}
        buffers = {
            name: value for name, value in learner.model.named_buffers() if "running" in name
        }
        torch.save({"loss": loss.detach(), "gradients": gradients, "buffers": buffers}, path)
    distributed.wait_for_all()
    distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
