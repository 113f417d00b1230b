"""FERSNet while it learns: its losses, one training step of network and discriminator, and its whole state.

Losses as in Zhao et al., "Deep Multi-task Learning for Facial Expression Recognition and Synthesis Based on Selective
Feature Sharing", ICPR 2020, arXiv 2007.04514. The identity features come from a small network that learnt to tell
the subjects of the training folds apart (`training.fersnet.guides.identity_network`). Three things are not from there:
another such network, which learnt the expressions, reads the drawn face; the discriminator also learns to refuse real
faces with a wrong expression (Reed et al., "Generative adversarial text to image synthesis", ICML 2016, section 4.1);
and some faces are drawn with an expression that their subject does not show (`data.subjects.pairs`).
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from training.optim import WeightAverage, learning_rate, set_learning_rate

FIGURES = ("Acc", "Loss", "L1", "Identity", "Expression", "Adversarial", "Cycle", "Discriminator")


@dataclass(frozen=True)
class PairBatch:
    """What one step sees, on the device.

    faces, targets (B, 1, S, S) float in -1..1; labels, target_labels (B,) int64; known (B,) bool: whether there is
    a real target face (targets holds any face where not).
    """

    faces: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    target_labels: torch.Tensor
    known: torch.Tensor


@contextmanager
def without_running_statistics(model):
    """Batch norms normalise by their batch but do not take it into their running statistics.

    Those are to describe real faces, which are all that the network is tested on.
    """
    norms = [(module, module.momentum) for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module, _ in norms:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in norms:
            module.momentum = momentum


@contextmanager
def frozen(module):
    """The weights of `module` get no gradient; what goes through it does."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in module.parameters():
            parameter.requires_grad_(True)


def masked_l1(drawn, targets, known):
    """Mean absolute difference over the faces that are `known` (B,) to have a real target; 0 without any."""
    each = (drawn - targets).abs().mean(dim=(1, 2, 3))
    return (each * known).sum() / known.sum().clamp_min(1)


class FERSNetLearner:
    """What a training step works on.

    model: `FERSNet`; discriminator, identity, expression: `Discriminator` and two trained `SmallClassifier`, or None
    where the model does not draw; recipe: `FERSNetRecipe`; runtime: `Runtime`.
    """

    def __init__(self, model, discriminator, identity, expression, recipe, runtime):
        self.recipe, self.runtime = recipe, runtime
        self.model = runtime.place(model)
        self.average = WeightAverage(self.model, recipe.averaging)
        self.optimizer = self._adam(self.model)
        self.discriminator = self.identity = self.expression = None
        if discriminator is not None:
            self.discriminator = runtime.place(discriminator)
            self.discriminator_optimizer = self._adam(self.discriminator)
            self.identity = runtime.place(identity).eval().requires_grad_(False)
            self.expression = runtime.place(expression).eval().requires_grad_(False)

    def _adam(self, model):
        recipe = self.recipe
        return torch.optim.Adam(
            model.parameters(), recipe.learning_rate, betas=(0.5, 0.999), weight_decay=recipe.weight_decay, fused=True
        )

    @property
    def averaged(self):
        """The network with the averaged weights: the one to test and save."""
        return self.average.model

    def step(self, batch, number, steps_per_epoch):
        """Learn from a `PairBatch`; number: of this step in the whole run of the fold.

        The faces are drawn once; the discriminator learns from them `discriminator_steps` times, then the network.
        Returns (loss, figures): the scalar that the network minimised and the sums over the batch of `FIGURES`,
        (8,) float64, both on the device. Waits for nothing.
        """
        rate = learning_rate(self.recipe, number, steps_per_epoch)
        set_learning_rate(self.optimizer, rate)
        draws = self.discriminator is not None
        with self.runtime.autocast():
            outputs = self.model(batch.faces, batch.target_labels if draws else None)
        recognition = F.cross_entropy(outputs["classify"], batch.labels)
        parts = dict.fromkeys(FIGURES, recognition.new_zeros(()))
        loss = recognition
        if draws:
            set_learning_rate(self.discriminator_optimizer, rate)
            for _ in range(self.recipe.discriminator_steps):
                parts["Discriminator"] = self._discriminator_step(batch, outputs["drawn"].detach())
            parts |= self._synthesis_losses(batch, outputs["drawn"])
            loss = loss + self._weighted(parts)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(number)
        parts["Loss"] = recognition
        parts["Acc"] = 100 * (outputs["classify"].argmax(dim=1) == batch.labels).double().mean()
        return loss, torch.stack([parts[name].detach().double() for name in FIGURES]) * len(batch.labels)

    def _weighted(self, parts):
        recipe = self.recipe
        return (
            recipe.reconstruction * parts["L1"]
            + recipe.identity * parts["Identity"]
            + recipe.expression * parts["Expression"]
            + recipe.adversarial * parts["Adversarial"]
            + recipe.cycle * parts["Cycle"]
        )

    def _discriminator_step(self, batch, drawn):
        with self.runtime.autocast():
            real = self.discriminator(batch.faces, batch.labels)
            false = self.discriminator(drawn, batch.target_labels)
        refused = false.square().mean()
        if self.recipe.mismatched:
            with self.runtime.autocast():
                wrong = self.discriminator(batch.faces, batch.target_labels)
            refused = torch.lerp(refused, wrong.square().mean(), self.recipe.mismatched)
        loss = 0.5 * ((real - 1).square().mean() + refused)
        loss.backward()
        self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        return loss

    def _synthesis_losses(self, batch, drawn):
        with self.runtime.autocast(), frozen(self.discriminator), without_running_statistics(self.model):
            scores = self.discriminator(drawn, batch.target_labels)
            again = self.model(drawn, batch.labels)["drawn"]
            features, wanted = self.identity.embed(drawn), self.identity.embed(batch.faces)
            read = self.expression(drawn)
        return {
            "L1": masked_l1(drawn, batch.targets, batch.known),
            "Identity": (features - wanted).square().sum(dim=1).mean(),
            "Expression": F.cross_entropy(read, batch.target_labels),
            "Adversarial": (scores - 1).square().mean(),
            "Cycle": F.mse_loss(again, batch.faces),
        }

    def state_dict(self):
        """Everything that a checkpoint needs to go on from here."""
        state = {
            "net": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.discriminator is not None:
            state["discriminator"] = self.discriminator.state_dict()
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
            state["identity"] = self.identity.state_dict()
            state["expression"] = self.expression.state_dict()
        return state

    def load_state_dict(self, state):
        """Load what `state_dict` gave. Raises what PyTorch does when it does not fit."""
        self.model.load_state_dict(state["net"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
            self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
            self.identity.load_state_dict(state["identity"])
            self.expression.load_state_dict(state["expression"])
