"""Muon: momentum with orthogonalised steps, for the kernels of convolutions.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(kellerjordan.github.io/posts/muon). PyTorch's own `torch.optim.Muon` takes matrices only.
"""

from collections import defaultdict

import torch

# Quintic Newton-Schulz iteration of the source: a round multiplies X by
# FIRST + SECOND X X^T + THIRD (X X^T)^2. It has five rounds; where the largest singular value
# starts near 1, four bring all that matter to between 0.7 and 1.2.
FIRST, SECOND, THIRD = 3.4445, -4.7750, 2.0315
PAIRS_OF_ROUNDS = 2


def orthogonalise(matrices, dtype=torch.float32):
    """The nearest orthogonal matrices, roughly: U V^T of U S V^T, singular values 0.7 to 1.2.

    matrices (n, rows, columns) -> the same shape, float32; dtype: of the multiplications.

    Kernels are matrices much longer than they are wide, so two rounds are made on the small X X^T
    before X is multiplied: after more, in bf16, the smaller singular values of X would be lost.
    """
    x = (matrices / _size(matrices)).to(dtype)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for number in range(PAIRS_OF_ROUNDS):
        gram = x @ x.mT
        if number == 0:  # sqrt(|X X^T|) bounds the largest singular value more tightly than |X|
            square = _size(gram)
            x, gram = x / square.sqrt(), gram / square
        one = _round(gram)
        other = _round(gram @ one @ one)  # all of these commute: they are polynomials of one matrix
        x = (other @ one) @ x
    return (x.mT if tall else x).float()


def _size(matrices):
    """The Frobenius norm of each, (n, 1, 1), never 0."""
    return torch.linalg.matrix_norm(matrices, keepdim=True).clamp_min(1e-7)


def _round(gram):
    """What a round multiplies X by, given X X^T."""
    factor = torch.baddbmm(gram, gram, gram, beta=SECOND, alpha=THIRD)
    factor.diagonal(dim1=1, dim2=2).add_(FIRST)
    return factor


class Muon(torch.optim.Optimizer):
    """Nesterov momentum; kernels (out, in, h, w) of groups with `orthogonal` are orthogonalised.

    Such a kernel counts as a matrix (out, in * h * w), and a step moves each of its singular
    directions by about the learning rate (times sqrt(rows / columns) where it is tall). Its weight
    decay shrinks it by learning rate * weight_decay; in other groups it is added to the gradient.

    lr: a float32 tensor () on the device of the parameters; changed in place, it is the rate of the
    next step, also of one that is replayed from a graph. dtype: of the matrix products.
    """

    def __init__(self, groups, lr, momentum, dtype):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False}
        super().__init__(groups, defaults)
        self.dtype = dtype
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self):
        """Update every parameter that has a gradient. The gradients are overwritten."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            updates = [p.grad for p in parameters]
            if not group["orthogonal"]:
                torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
            momenta = [self.state[p]["momentum"] for p in parameters]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, updates)
            torch._foreach_add_(updates, momenta, alpha=group["momentum"])
            if group["orthogonal"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                updates = self._orthogonal(updates)
            torch._foreach_mul_(updates, group["lr"])
            torch._foreach_sub_(parameters, updates)

    def _orthogonal(self, updates):
        """Orthogonalise the kernels of one shape at once: a GPU spends longer on launches."""
        steps, places = [None] * len(updates), defaultdict(list)
        for place, update in enumerate(updates):
            places[update.shape].append(place)
        for (rows, inputs, height, width), same in places.items():
            # The order of columns is free; in this one they are contiguous in channels-last layout.
            matrices = torch.stack([updates[place].permute(0, 2, 3, 1) for place in same])
            matrices = matrices.flatten(2)
            scale = max(1, rows / matrices.shape[2]) ** 0.5
            stacked = orthogonalise(matrices, self.dtype).mul_(scale)
            stacked = stacked.view(-1, rows, height, width, inputs)
            for place, step in zip(same, stacked, strict=True):
                steps[place] = step.permute(0, 3, 1, 2)
        return steps
