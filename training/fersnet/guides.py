"""Small supervised trainings around FERSNet: its guides, an independent judge of synthesized faces, fine-tuning."""

import torch
import torch.nn.functional as F
from torch import nn

from data.batches import normalise, plan_epoch, training_batches
from data.subjects.pairs import shifts
from models.fersnet import SmallClassifier
from models.resnet import ResNet18
from training.fersnet.views import random_view, random_blurred_view

PREPROCESSING = {"mean": 0.0, "std": 1.0}  # pixels in 0..1
BATCH = 32
GUIDE_EPOCHS = 30
JUDGE_EPOCHS = 25
JUDGE_CHANNELS = 32
JUDGE_SEED = 1_000_000  # added to that of a fold


def train_classifier(
    network, images, labels, epochs, seed, runtime,
    rate=1e-3, weight_decay=0.01, label_smoothing=0.0, view=None, fixed_norms=False, after_epoch=None,
):  # fmt: skip
    """Train a network with cross-entropy on shifted and mirrored faces: AdamW, one cycle of the learning rate.

    network: (B, 1, S, S) in 0..1 to logits (B, classes), or a FERSNet, on runtime.device; images (N, S, S) uint8 and
    labels (N,) int64 there. view: what to make of the pictures of a batch before it sees them (see `views`).
    fixed_norms: batch norms normalise by their running statistics, which stay as they are. after_epoch: called with
    the network in evaluation mode. Returns it in this mode.
    """
    size, device = images.shape[-1], images.device
    plans = [plan_epoch(len(images), BATCH, seed, epoch, device, places=shifts(size)) for epoch in range(epochs)]
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=sum(plan.steps for plan in plans))
    for plan in plans:
        network.train()
        for norm in batch_norms(network) if fixed_norms else ():
            norm.eval()
        for crops, wanted in training_batches(plan, images, labels, size=size):
            pictures = normalise(crops, **PREPROCESSING)
            with runtime.autocast():
                outputs = network(pictures if view is None else view(pictures))
            F.cross_entropy(logits_of(outputs), wanted, label_smoothing=label_smoothing).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        network.eval()
        if after_epoch is not None:
            after_epoch(network)
    return network.eval()


def batch_norms(network):
    """The batch norms in a network."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def logits_of(outputs):
    """The logits (B, classes) float32 that a network gave, FERSNet or another."""
    return (outputs["classify"] if isinstance(outputs, dict) else outputs).float()


def identity_network(faces, seed, runtime):
    """An `SmallClassifier` that learnt to tell the subjects of `faces` (`SubjectFaces`, training folds only) apart."""
    known, subjects = faces.subjects.unique(return_inverse=True)
    return _guide(faces.images, subjects, len(known), seed, runtime)


def expression_network(faces, seed, runtime):
    """A `SmallClassifier` that learnt the expressions of `faces` (`SubjectFaces`, training folds only).

    It learnt from random views: blurred, shifted, noisy, as it will see what is synthesized.
    """
    return _guide(faces.images, faces.labels, len(faces.class_names), seed, runtime, random_blurred_view)


def _guide(images, labels, classes, seed, runtime, view=None):
    torch.manual_seed(seed)
    network = runtime.place(SmallClassifier(classes))
    return train_classifier(network, images, labels, GUIDE_EPOCHS, seed, runtime, view=view)


def judge_network(faces, seed, runtime):
    """A narrow ResNet-18 that learnt the expressions of `faces` (`SubjectFaces`, training folds only).

    It shares nothing with FERSNet nor with what guided it, and so can say what a face synthesized by it looks like to
    another network. It learnt from all of the `VIEWS`, and so can judge each. Nor does it share their chance: weights
    at the beginning, order of the faces, shifts.
    """
    seed += JUDGE_SEED
    torch.manual_seed(seed)
    trunk = ResNet18(base=JUDGE_CHANNELS, pooled=True)
    network = runtime.place(nn.Sequential(trunk, nn.Linear(trunk.width, len(faces.class_names))))
    return train_classifier(network, faces.images, faces.labels, JUDGE_EPOCHS, seed, runtime, view=random_view)
