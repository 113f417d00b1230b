"""A network and all that changes with it while it learns: one step of training, and its whole state."""

import torch

from data.batches import plan_epoch
from training.losses import Objective
from training.optim import WeightAverage, build_optimizer, learning_rate, set_learning_rate
from utils.parallel import distribute, gather, ranks


class Learner:
    """What a training step works on.

    model: a network as `MODELS` builds it; tasks: names from `TASKS`; recipe: `Recipe`; tables: of the constraints
    (see `losses.constraint_tables`); runtime: `Runtime`.
    `model` is the network being trained, `averaged` the one with its averaged weights, to evaluate and save.
    """

    def __init__(self, model, tasks, recipe, tables, runtime):
        self.recipe, self.runtime = recipe, runtime
        self.model = runtime.place(model)
        self.average = WeightAverage(self.model, recipe.averaging)
        self.network = runtime.compile(distribute(self.model, runtime.device))
        self.optimizer = build_optimizer(self.model, recipe, runtime.dtype)
        tables = {name: table.to(runtime.device) for name, table in tables.items()}
        self.objective = Objective(tasks, recipe, tables, runtime.dtype)

    @property
    def averaged(self):
        """The network with the averaged weights."""
        return self.average.model

    def plan(self, count, seed, epoch, device):
        """The `EpochPlan` of `count` images, on `device`, as the recipe wants it; this process's part of it."""
        recipe = self.recipe
        return plan_epoch(
            count, recipe.batch_size, seed, epoch, device, *ranks(), rotation=recipe.rotation, scaling=recipe.scaling
        )

    def step(self, pictures, labels, vad, number, steps_per_epoch):
        """Learn from one batch, on the device; this process's part of it where there are several.

        pictures (B, 1, H, W) float, labels (B,), vad (B, 3) or None; number: of this step in the whole run.
        Returns (loss, outputs, labels, vad) of the batch of all processes. Waits for nothing.
        """
        set_learning_rate(self.optimizer, learning_rate(self.recipe, number, steps_per_epoch))
        with self.runtime.autocast():
            outputs = self.network(pictures)
        outputs = {name: gather(output) for name, output in outputs.items()}
        labels, vad = gather(labels), None if vad is None else gather(vad)
        loss = self.objective(self.model, outputs, labels, vad)
        loss.backward()
        if self.recipe.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self.model.parameters(), self.recipe.clip_value)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(number)
        return loss, outputs, labels, vad

    def state_dict(self):
        """Everything that a checkpoint needs to go on from here."""
        return {
            "net": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state):
        """Load what `state_dict` gave. Raises what PyTorch does when it does not fit."""
        self.model.load_state_dict(state["net"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
