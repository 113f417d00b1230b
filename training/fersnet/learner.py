"""FERSNet while it learns: pairs, losses, one training step of network and discriminator.

Losses as in Zhao et al., "Deep Multi-task Learning for Facial Expression Recognition and Synthesis
Based on Selective Feature Sharing", ICPR 2020, arXiv 2007.04514. The identity features come from a
small network that learnt to tell the subjects of the training folds apart
(`training.fersnet.guides.identity_network`). Two additions are not in the paper, and
`--recipe paper` leaves them out: label smoothing, and another such network, which learnt the
expressions and reads random views of the synthesized face (`training.fersnet.views`).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from data.batches import draw_crops, normalise, plan_epoch, random_crops
from data.subjects.pairs import choose_targets, shifts
from training.fersnet.guides import PREPROCESSING, batch_norms
from training.fersnet.views import random_blurred_view
from training.learner import Learner
from training.metrics import sum_dtype

# {loss of synthesis: its weight in the recipe}
WEIGHTS = {
    "L1": "reconstruction", "Identity": "identity", "Expression": "expression",
    "Adversarial": "adversarial", "Cycle": "cycle",
}  # fmt: skip
VIEWS_PER_FACE = 2  # of each synthesized face, for the network that knows the expressions


class PairBatch(NamedTuple):
    """The input of one step, on the device.

    faces, real (B, 1, S, S) float in 0..1; labels, target_labels, real_labels (B,) int64; known
    (B,) bool. real is the target: a face of the same subject with the expression to be synthesized
    where one is known, else the face itself; real_labels are its expressions.
    """

    faces: torch.Tensor
    labels: torch.Tensor
    target_labels: torch.Tensor
    real: torch.Tensor
    real_labels: torch.Tensor
    known: torch.Tensor


def track_statistics(model, tracked):
    """Whether batch norms of `model` update their running statistics while they learn."""
    for norm in batch_norms(model):
        norm.track_running_stats = tracked


def masked_l1(synthesized, real, known):
    """Mean absolute difference over the faces that are `known` (B,); 0 where none is."""
    each = (synthesized - real).abs().mean(dim=(1, 2, 3))
    return (each * known).sum() / known.sum().clamp_min(1)


class FERSNetLearner(Learner):
    """Learns to recognize and, where it has a discriminator, to synthesize.

    model: `FERSNet`; helpers: a `Discriminator` and two trained `SmallClassifier`, of identities
    and of expressions, each None where the model does not synthesize, the last also where the
    recipe gives it no weight; recipe: `Recipe`; faces: `SubjectFaces` on the device.
    """

    metrics = (
        "Acc", "Loss", "L1", "Identity", "Expression", "Adversarial", "Cycle", "Discriminator",
    )  # fmt: skip

    def __init__(self, model, helpers, recipe, faces, seed, runtime):
        super().__init__(model, recipe, faces, seed, runtime)
        discriminator, identity, expression = helpers
        self.optimizer = self._adam(self.model)
        self.discriminator = self.discriminator_optimizer = self.identity = self.expression = None
        if discriminator is not None:
            self.discriminator = runtime.place(discriminator)
            self.discriminator_optimizer = self._adam(self.discriminator)
            self.identity = runtime.place(identity).eval().requires_grad_(False)
            if recipe.expression:
                self.expression = runtime.place(expression).eval().requires_grad_(False)

    def _adam(self, model):
        return torch.optim.Adam(
            model.parameters(), self.rate, betas=(0.5, 0.999),
            weight_decay=self.recipe.weight_decay, fused=True,
        )  # fmt: skip

    def parts(self):
        """See `Learner`."""
        names = ("discriminator", "discriminator_optimizer", "identity", "expression")
        mine = {name: getattr(self, name) for name in names}
        return super().parts() | {name: part for name, part in mine.items() if part is not None}

    def to_dict(self, means):
        """See `Learner`. Without a discriminator there are only the metrics of recognition."""
        metrics = super().to_dict(means)
        if self.discriminator is None:
            return {name: metrics[name] for name in ("Acc", "Loss")}
        return metrics

    def plan(self, epoch):
        """See `Learner`. The columns `target` and `target_class` are of `choose_targets`."""
        faces = self.faces

        def draw(order, generator):
            classes = len(faces.class_names)
            targets = choose_targets(faces.labels, faces.subjects, classes, generator)
            crops = draw_crops(order, generator, shifts(faces.size))
            return {"target": targets[0][order], "target_class": targets[1][order], **crops}

        device = faces.labels.device
        return plan_epoch(len(faces), self.recipe.batch_size, self.seed, epoch, draw, device)

    def batches(self, plan, first=0):
        """Yield a `PairBatch` a step; a face and its target are cropped alike."""
        faces = self.faces
        for step in range(first, plan.steps):
            parts = plan.batch(step)
            order, target = parts.pop("order"), parts.pop("target")
            target_labels, known = parts.pop("target_class"), target >= 0
            target = torch.where(known, target, order)
            sources, real = (
                random_crops(faces.images[rows], **parts, size=faces.size)
                for rows in (order, target)
            )
            sources, real = normalise(sources, **PREPROCESSING), normalise(real, **PREPROCESSING)
            labels, real_labels = faces.labels[order], faces.labels[target]
            yield PairBatch(sources, labels, target_labels, real, real_labels, known)

    def seed_device(self, global_step):
        """See `Learner`. The processor's random state is in every checkpoint, a GPU's is not."""
        if self.runtime.device.type != "cpu":
            torch.manual_seed(int(torch.randint(2**62, ())))

    def device_step(self, batch):
        """See `Learner`. batch: the fields of a `PairBatch`.

        The discriminator learns `discriminator_steps` times from the same faces, synthesized in
        evaluation mode; then the network learns once.
        """
        batch, recipe = PairBatch(*batch), self.recipe
        parts = dict.fromkeys(self.metrics, batch.faces.new_zeros(()))
        if self.discriminator is not None and recipe.discriminator_steps:
            synthesized = self._synthesize(batch)
            for _ in range(recipe.discriminator_steps):
                parts["Discriminator"] = self._discriminator_step(batch, synthesized)
        target_labels = None if self.discriminator is None else batch.target_labels
        with self.runtime.autocast():
            outputs = self.model(batch.faces, target_labels)
        logits, labels = outputs["classify"], batch.labels
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if self.discriminator is not None:
            parts |= self._synthesis_losses(batch, outputs["synthesized"])
            loss = loss + self._weighted(parts)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        parts["Loss"] = F.cross_entropy(logits.detach(), labels)
        parts["Acc"] = 100 * (logits.argmax(dim=1) == labels).float().mean()
        means = torch.stack([parts[name].detach() for name in self.metrics])
        return loss.detach(), means.to(sum_dtype(means.device)) * len(labels)

    def _weighted(self, parts):
        return sum(getattr(self.recipe, weight) * parts[name] for name, weight in WEIGHTS.items())

    @torch.no_grad()
    def _synthesize(self, batch):
        self.model.eval()
        with self.runtime.autocast():
            synthesized = self.model(batch.faces, batch.target_labels)["synthesized"]
        self.model.train()
        return synthesized

    def _discriminator_step(self, batch, synthesized):
        self.discriminator.requires_grad_(True)
        faces = torch.cat((batch.real, synthesized))
        expressions = torch.cat((batch.real_labels, batch.target_labels))
        with self.runtime.autocast():
            real, false = self.discriminator(faces, expressions).chunk(2)
        loss = 0.5 * ((real - 1).square().mean() + false.square().mean())
        loss.backward()
        self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        return loss

    def _synthesis_losses(self, batch, synthesized):
        self.discriminator.requires_grad_(False)  # its input gets a gradient, its weights none
        with self.runtime.autocast():
            scores = self.discriminator(synthesized, batch.target_labels)
        features, wanted = self.identity.embed(synthesized), self.identity.embed(batch.real)
        losses = {
            "L1": masked_l1(synthesized, batch.real, batch.known),
            "Identity": (features - wanted).square().sum(dim=1).mean(),
            "Adversarial": (scores - 1).square().mean(),
        }
        if self.recipe.cycle:
            track_statistics(self.model, False)  # which are to describe real faces alone
            with self.runtime.autocast():
                again = self.model(synthesized, batch.labels)["synthesized"]
            track_statistics(self.model, True)
            losses["Cycle"] = F.mse_loss(again, batch.faces)
        if self.expression is not None:
            views = [random_blurred_view(synthesized) for _ in range(VIEWS_PER_FACE)]
            read = self.expression(torch.cat(views))
            targets = batch.target_labels.repeat(VIEWS_PER_FACE)
            losses["Expression"] = F.cross_entropy(read, targets)
        return losses
