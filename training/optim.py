"""The optimizer, averaged weights, and a learning rate that is a pure function of the step."""

import math
from copy import deepcopy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.muon import Muon

MOMENTUM = 0.9


def learning_rate(recipe, step, steps_per_epoch):
    """Learning rate of `step` (from 0, over the whole run of recipe.epochs * steps_per_epoch)."""
    if recipe.schedule == "staircase":
        epoch = step // steps_per_epoch
        stairs = max(0, (epoch - recipe.decay_from) // recipe.decay_every + 1)
        return recipe.learning_rate * recipe.decay**stairs
    total = recipe.epochs * steps_per_epoch
    warmup = max(1, round(recipe.warmup * total))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class WeightAverage:
    """Exponential moving average of a network's weights and running statistics.

    `model` is a copy that holds the average, or the network itself where `share` is 0. The average
    covers about a `share` of the steps so far: the decay after `step` steps is
    (1 + step) / (1 + step + 1 / share), so that runs of any length average over the same part.
    """

    def __init__(self, model, share):
        self.model, self.share = deepcopy(model) if share else model, share
        states = self.model.state_dict().values(), model.state_dict().values()
        # The only integers in a state are the batch counts of batch norms, which nothing reads.
        pairs = [pair for pair in zip(*states, strict=True) if pair[0].is_floating_point()]
        self._averaged, self._current = [list(side) for side in zip(*pairs, strict=True)]

    def update(self, step):
        """Take in the weights as they are after step `step` (from 0) of the whole run."""
        if self.share:
            decay = (1 + step) / (1 + step + 1 / self.share)
            get_ema_multi_avg_fn(decay)(self._averaged, self._current, None)


def build_optimizer(model, recipe, rate, dtype=torch.float32):
    """The recipe's optimizer; norms and biases have weight decay only where the recipe says so.

    rate: the learning rate, a float32 tensor () that is changed in place. dtype: of the matrix
    products inside Muon.
    """
    weights, biases, kernels = [], [], []
    for parameter in model.parameters():
        if parameter.ndim <= 1:
            biases.append(parameter)
        # The stem of a grey picture has one input channel: nothing to orthogonalise.
        elif recipe.optimizer == "muon" and parameter.ndim == 4 and parameter.shape[1] > 1:
            kernels.append(parameter)
        else:
            weights.append(parameter)
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": biases, "weight_decay": recipe.weight_decay * recipe.decay_all},
    ]
    if kernels:
        groups.append({"params": kernels, "weight_decay": recipe.kernel_decay, "orthogonal": True})
        return Muon(groups, rate, MOMENTUM, dtype)
    return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=recipe.nesterov, fused=True)
