"""The optimizer, and a learning rate that is a pure function of the step."""

import math

import torch


def learning_rate(recipe, step, steps_per_epoch):
    """Learning rate of `step` (from 0, over the whole run of recipe.epochs * steps_per_epoch steps)."""
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


def build_optimizer(model, recipe):
    """SGD with momentum; weight decay for convolution and linear weights only, not norms and biases."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True
    )


def set_learning_rate(optimizer, value):
    """Give every parameter group the learning rate `value`."""
    for group in optimizer.param_groups:
        group["lr"] = value
