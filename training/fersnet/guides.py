"""Supervised trainings around FERSNet: the networks that guide it, and fine-tuning."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from data.batches import draw_crops, normalise, plan_epoch, training_batches
from data.subjects.pairs import shifts
from models.fersnet import SmallClassifier
from training.fersnet.views import random_blurred_view

PREPROCESSING = {"mean": 0.0, "std": 1.0}  # pixels in 0..1
BATCH = 32
GUIDE_EPOCHS = 30


@dataclass(frozen=True)
class Supervision:
    """How a network is trained with cross-entropy on shifted and mirrored faces.

    AdamW with a one-cycle learning rate. view: applied to the pictures of a batch first (see
    `views`); fixed_norms: keep the running statistics of batch norms, and normalise by them.
    """

    epochs: int
    rate: float = 1e-3
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    view: Callable | None = None
    fixed_norms: bool = False


def supervise(network, images, labels, how, seed, runtime):
    """Train a network, and yield it in evaluation mode after every epoch.

    network: (B, 1, S, S) in 0..1 to logits (B, classes), or a FERSNet, on runtime.device; images
    (N, S, S) uint8 and labels (N,) int64 there; how: `Supervision`.
    """
    size, device = images.shape[-1], images.device
    draw = partial(draw_crops, places=shifts(size))
    plans = [
        plan_epoch(len(images), BATCH, seed, epoch, draw, device) for epoch in range(how.epochs)
    ]
    steps = sum(plan.steps for plan in plans)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=how.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.rate, total_steps=steps)
    for plan in plans:
        network.train()
        for norm in batch_norms(network) if how.fixed_norms else ():
            norm.eval()
        for crops, targets in training_batches(plan, images, labels, size=size):
            pictures = normalise(crops, **PREPROCESSING)
            if how.view is not None:
                pictures = how.view(pictures)
            with runtime.autocast():
                outputs = network(pictures)
            logits = logits_of(outputs)
            F.cross_entropy(logits, targets, label_smoothing=how.label_smoothing).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        yield network.eval()


def batch_norms(network):
    """The batch norms in a network."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def logits_of(outputs):
    """The logits (B, classes) float32 of what a network returned, FERSNet or another."""
    return (outputs["classify"] if isinstance(outputs, dict) else outputs).float()


def identity_network(faces, seed, runtime, learn=True):
    """A `SmallClassifier` trained on the subjects of `faces` (training folds only).

    learn: whether to train it.
    """
    known, subjects = faces.subjects.unique(return_inverse=True)
    how = Supervision(GUIDE_EPOCHS if learn else 0)
    return _guide(faces.images, subjects, len(known), how, seed, runtime)


def expression_network(faces, seed, runtime, learn=True):
    """A `SmallClassifier` trained on the expressions of `faces`, as `identity_network` is.

    It learns from random views: blurred, shifted, noisy, as it will see synthesized faces.
    """
    how = Supervision(GUIDE_EPOCHS if learn else 0, view=random_blurred_view)
    return _guide(faces.images, faces.labels, len(faces.class_names), how, seed, runtime)


def _guide(images, labels, classes, how, seed, runtime):
    torch.manual_seed(seed)
    network = runtime.place(SmallClassifier(classes))
    if how.epochs:
        *_, network = supervise(network, images, labels, how, seed, runtime)
    return network
