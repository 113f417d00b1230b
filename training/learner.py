"""A network and all that changes with it while it learns: its batches, one step of training, its whole state."""

import numpy as np
import torch

from data.batches import normalise, plan_epoch, training_batches
from training.losses import Objective
from training.metrics import TrainingFigures
from training.optim import WeightAverage, build_optimizer, learning_rate, set_learning_rate
from utils.distributed import distribute, gather, ranks


class Learner:
    """What `train_one_epoch` works on; the base of every way to learn.

    model: a network as `MODELS` builds it; recipe: how it is trained; runtime: `Runtime`. `model` is the network being
    trained, `averaged` the one with its averaged weights, to evaluate and save.

    A way to learn adds its optimizer and gives `figures`, the names of what a step measures, `plan`, `batches` and
    `step`. Of each batch `step` returns (loss, sums): the scalar that it minimised and the sums over the batch of the
    `figures`, (n,) float64 (float32 on mps), both on the device; it waits for nothing.
    """

    figures = ()

    def __init__(self, model, recipe, runtime):
        self.recipe, self.runtime = recipe, runtime
        self.model = runtime.place(model)
        self.average = WeightAverage(self.model, recipe.averaging)

    @property
    def averaged(self):
        """The network with the averaged weights."""
        return self.average.model

    def plan(self, faces, seed, epoch):
        """The `EpochPlan` of `faces` as the recipe wants it; this process's part of it."""
        raise NotImplementedError

    def batches(self, faces, plan, first=0):
        """What `step` takes, from step `first` of the plan on, on the device."""
        raise NotImplementedError

    def step(self, batch, number, steps_per_epoch):
        """Learn from one batch; number: of this step in the whole run."""
        raise NotImplementedError

    def as_figures(self, means):
        """The mean per image of each of the `figures` as the records take it."""
        return dict(zip(self.figures, means, strict=True))

    def parts(self):
        """{name: everything that changes while learning}, each with a `state_dict`."""
        return {"net": self.model, "averaged": self.averaged, "optimizer": self.optimizer}

    def state_dict(self):
        """Everything that a checkpoint needs to go on from here."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state):
        """Load what `state_dict` gave. Raises what PyTorch does when it does not fit."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])


class MultiTaskLearner(Learner):
    """Learns categories and V/A/D together.

    tasks: names from `TASKS`; recipe: `Recipe`; tables: of the constraints (see `losses.constraint_tables`);
    preprocessing: {"mean", "std"} of the pixels in 0..1; taught (N, 7): a teacher's probabilities of the training
    faces, where these are, or None. What dropout hides derives from the seed last given to `torch.manual_seed`.
    """

    def __init__(self, model, tasks, recipe, tables, preprocessing, runtime, taught=None):
        super().__init__(model, recipe, runtime)
        self.preprocessing, self.taught, self.seed = preprocessing, taught, torch.initial_seed()
        self.network = runtime.compile(distribute(self.model, runtime.device))
        self.optimizer = build_optimizer(self.model, recipe, runtime.matrix_dtype)
        self.scaler = runtime.scaler()
        tables = {name: table.to(runtime.device) for name, table in tables.items()}
        self.objective = Objective(tasks, recipe, tables, runtime.matrix_dtype)
        self.measured = TrainingFigures(self.objective.tasks)
        self.figures, self.as_figures = self.measured.names, self.measured.by_task

    def parts(self):
        """See `Learner`."""
        return super().parts() | {"scaler": self.scaler}

    def load_state_dict(self, state):
        """See `Learner`. The scaler of a run in another precision may have been at rest, with nothing to load."""
        super().load_state_dict(state | {"scaler": state["scaler"] or self.scaler.state_dict()})

    def plan(self, faces, seed, epoch):
        """See `Learner`. faces: `Faces` as `Runtime.keep` gives them."""
        recipe, device = self.recipe, faces.labels.device
        return plan_epoch(
            len(faces), recipe.batch_size, seed, epoch, device, *ranks(),
            rotation=recipe.rotation, scaling=recipe.scaling, corruption=recipe.corruption,
        )  # fmt: skip

    def batches(self, faces, plan, first=0):
        """Yield (pictures (B, 1, 44, 44) float, labels (B,), and vad (B, 3), taught (B, 7), votes (B, 7) or None)."""
        annotations = faces.labels, faces.vad, self.taught, faces.votes
        for crops, *targets in training_batches(plan, self.runtime.device, faces.images, *annotations, first=first):
            yield normalise(crops, **self.preprocessing), *targets

    def step(self, batch, number, steps_per_epoch):
        """See `Learner`. batch: as `batches` yields it; loss and sums are those of the batch of all processes."""
        if self.recipe.dropout:
            self._set_chance(number)
        set_learning_rate(self.optimizer, learning_rate(self.recipe, number, steps_per_epoch))
        pictures, *targets = batch
        with self.runtime.autocast():
            outputs = self.network(pictures)
        outputs = {name: gather(output) for name, output in outputs.items()}
        labels, vad, taught, votes = (None if target is None else gather(target) for target in targets)
        loss = self.objective(self.model, outputs, labels, vad, taught, votes)
        self.scaler.scale(loss).backward()
        if self.recipe.clip_value is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_value_(self.model.parameters(), self.recipe.clip_value)
        self.scaler.step(self.optimizer)  # in fp16 this waits for the device, to leave out a step that overflowed
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(number)
        return loss, self.measured.of_batch(outputs, labels, vad)

    def _set_chance(self, number):
        """Make chance on every device a function of the seed, the step and this process, so that a run can go on."""
        mixed = np.random.SeedSequence((self.seed, number, ranks()[0])).generate_state(1)
        torch.manual_seed(int(mixed[0]))
