"""A network and all that changes while it learns: its batches, one training step, its state."""

from functools import partial

import numpy as np
import torch

from data.batches import draw_crops, normalise, plan_epoch, training_batches
from training.captured import CapturedStep
from training.losses import Objective, constraint_table
from training.metrics import batch_sums, training_metrics
from training.optim import WeightAverage, build_optimizer, learning_rate
from utils.distributed import distribute, gather, ranks


class Learner:
    """What `train_one_epoch` works on; the base class of every way to learn.

    model: a network as `MODELS` builds it; recipe: `Recipe`; faces: what it learns from, on the
    device of `runtime`; seed: of the order of the faces and all that is random about them. `model`
    is the network being trained, `averaged` the one with averaged weights, to evaluate and save.

    A subclass adds `optimizer`, whose learning rate is the tensor `rate`; `metrics`, the names of
    what a step measures; `plan(epoch)`, the `EpochPlan` of this process; `batches(plan, first)`,
    which yields what `step` takes, tensors on the device or None, from step `first` on; and
    `device_step(batch)`, the part of a step that runs on the device. That never reads a value back,
    so that it replays, and returns (loss, sums) on the device: the scalar that was minimised and
    the sums over the batch of the `metrics`, (n,) float64 (float32 on mps).
    """

    def __init__(self, model, recipe, faces, seed, runtime):
        self.recipe, self.faces, self.seed, self.runtime = recipe, faces, seed, runtime
        self.model = runtime.place(model)
        self.average = WeightAverage(self.model, recipe.averaging)
        self.averaged = self.average.model
        self.rate = torch.zeros((), device=runtime.device)
        self._captured = None

    def step(self, batch, global_step, steps_per_epoch):
        """Learn from one batch; returns what `device_step` returns. Does not wait for the device.

        global_step: of the whole run, from 0. On CUDA the device's part is captured as a graph at
        the first step and replayed from then on, where the runtime allows it.
        """
        if self._captured is None and self.runtime.replays_steps:
            self._captured = CapturedStep(self, batch)  # uses random numbers: before the seeds
        self.rate.fill_(learning_rate(self.recipe, global_step, steps_per_epoch))
        self.seed_device(global_step)
        result = (self._captured or self.device_step)(batch)
        self.average.update(global_step)
        return result

    def seed_device(self, global_step):
        """Make the random numbers of the next step reproducible after an interruption."""

    def to_dict(self, means):
        """The mean per image of each of the `metrics` as {name: value}."""
        return dict(zip(self.metrics, means, strict=True))

    def parts(self):
        """{name: everything that changes while learning}, each with a `state_dict`."""
        return {"net": self.model, "averaged": self.averaged, "optimizer": self.optimizer}

    def optimizers(self):
        """The optimizers among the `parts`."""
        return [part for part in self.parts().values() if isinstance(part, torch.optim.Optimizer)]

    def state_dict(self):
        """Everything that a checkpoint needs to continue from here."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state):
        """Load what `state_dict` returned. Raises what PyTorch raises when it does not fit."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        for optimizer in self.optimizers():  # which now have rates of their own
            for group in optimizer.param_groups:
                self.rate.copy_(torch.as_tensor(group["lr"]))
                group["lr"] = self.rate
        self._captured = None  # its addresses are those of the state before


class MultiTaskLearner(Learner):
    """Learns emotions and V/A/D together.

    faces: `Faces`, of which it takes `preprocessing`, {"mean", "std"} of the pixels in 0..1, and
    `constraint_table`, see `training.losses`. teacher_probs (N, 7): a teacher's probabilities of
    the faces, on their device, or None.
    """

    def __init__(self, model, recipe, faces, seed, runtime, teacher_probs=None):
        super().__init__(model, recipe, faces, seed, runtime)
        self.teacher_probs = teacher_probs
        self.preprocessing = faces.pixel_statistics()
        self.constraint_table = constraint_table(recipe.constraint, faces.labels, faces.vad)
        self.network = distribute(self.model, runtime.device)
        if runtime.compiled:  # the raw module stays the one to save
            self.network = torch.compile(self.network)
        self.optimizer = build_optimizer(self.model, recipe, self.rate, runtime.matrix_dtype)
        self.scaler = runtime.scaler()
        table = self.constraint_table
        table = None if table is None else table.to(runtime.device)
        self.objective = Objective(model.tasks, recipe, table, runtime.matrix_dtype)
        self.metrics = training_metrics(model.tasks)

    def to_dict(self, means):
        """{task name: {metric: mean per image}}."""
        found = {task.name: {} for task, _ in self.metrics}
        for (task, metric), value in zip(self.metrics, means, strict=True):
            found[task.name][metric] = value
        return found

    def parts(self):
        """See `Learner`."""
        return super().parts() | {"scaler": self.scaler}

    def load_state_dict(self, state):
        """See `Learner`. The scaler of a run in another precision has nothing to load."""
        scaler = state["scaler"] or self.scaler.state_dict()
        super().load_state_dict(state | {"scaler": scaler})

    def plan(self, epoch):
        """See `Learner`."""
        recipe, faces = self.recipe, self.faces
        changes = {name: getattr(recipe, name) for name in ("rotation", "scaling", "corruption")}
        draw, device = partial(draw_crops, **changes), faces.labels.device
        return plan_epoch(len(faces), recipe.batch_size, self.seed, epoch, draw, device)

    def batches(self, plan, first=0):
        """Yield (pictures (B, 1, 44, 44) float, labels (B,), vad, teacher_probs, votes).

        vad (B, 3), teacher_probs (B, 7) and votes (B, 7) are None where there are none.
        """
        faces = self.faces
        annotations = faces.labels, faces.vad, self.teacher_probs, faces.votes
        for crops, *targets in training_batches(plan, faces.images, *annotations, first=first):
            yield normalise(crops, **self.preprocessing), *targets

    def seed_device(self, global_step):
        """See `Learner`. Dropout is a function of the seed, the step and this process."""
        if self.recipe.dropout:
            mixed = np.random.SeedSequence((self.seed, global_step, ranks()[0])).generate_state(1)
            torch.manual_seed(int(mixed[0]))

    def device_step(self, batch):
        """See `Learner`. batch: as `batches` yields it; the result is that of all processes."""
        pictures, *targets = batch
        with self.runtime.autocast():
            outputs = self.network(pictures)
        outputs = {name: gather(output) for name, output in outputs.items()}
        targets = [None if target is None else gather(target) for target in targets]
        loss = self.objective(self.model, outputs, *targets)
        self.scaler.scale(loss).backward()
        if self.recipe.clip_value is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_value_(self.model.parameters(), self.recipe.clip_value)
        self.scaler.step(self.optimizer)  # in fp16 this waits: a step that overflowed is left out
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), batch_sums(self.metrics, outputs, *targets[:2])
