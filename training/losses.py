"""What is minimised: category and V/A/D losses, their consistency, and orthogonal convolutions."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import nn

from data.votes import vote_shares
from models.resnet import BasicBlock
from training.metrics import concordance, signs, task_target
from utils.tasks import EMOTIONS, TASKS, ZERO_BAND

SIGNS = "-0+"  # negative, zero, positive
SOFTNESS = 0.25  # of the borders between them, in annotation units
# The signs of each dimension that contradict each emotion, by the original project's annotators.
CONTRADICTIONS = {
    "Valence": {"Angry": "0+", "Disgust": "0+", "Fear": "0+", "Happy": "-0", "Sad": "0+", "Neutral": "-+"},
    "Arousal": {"Angry": "-", "Disgust": "-", "Happy": "-0", "Sad": "0+", "Surprise": "-0", "Neutral": "-+"},
    "Dominance": {"Disgust": "-0", "Fear": "0+", "Happy": "-", "Sad": "0+", "Surprise": "0+"},
}


def check_shapes(output, target, width):
    """Raise ValueError unless output is (B, width) and target is (B,): nothing may broadcast."""
    if output.ndim != 2 or output.shape[1] != width or target.shape != output.shape[:1]:
        raise ValueError(
            f"expected an output of shape (B, {width}) and a target of shape (B,), "
            f"got {tuple(output.shape)} and {tuple(target.shape)}"
        )


def category_loss(logits, labels, smoothing=0.0, votes=None):
    """Cross-entropy, mean over images. logits (B, 7) float, labels (B,) int64 in 0..6. ValueError for other shapes.

    votes (B, 7) uint8: what counts are their shares, see `data.votes.vote_shares`; None: the labels.
    """
    check_shapes(logits, labels, len(EMOTIONS))
    target = labels if votes is None else vote_shares(votes, labels)
    return F.cross_entropy(logits, target, label_smoothing=smoothing)


def dimension_loss(values, target, mse_weight=1.0, ccc_weight=0.0):
    """mse_weight * mean squared error + ccc_weight * (1 - CCC of the batch).

    values (B, 1) float, target (B,) float, both in annotation units. The second term makes shrinking
    towards the mean costly: a constant prediction has CCC 0 whatever its squared error. Raises ValueError for other
    shapes.
    """
    check_shapes(values, target, 1)
    values = values[:, 0]
    loss = mse_weight * F.mse_loss(values, target)
    if ccc_weight:
        loss = loss + ccc_weight * (1 - concordance(values, target))
    return loss


def sign_shares(labels, vad):
    """P(s | c, k): the share of class c whose dimension k is negative, zero or positive.

    labels (N,) int64, vad (N, 3) float -> (7, 3, 3) float32 indexed [class, dimension, sign], each
    [c, k] summing to 1. Laplace-smoothed: 1 is added to every count, so a class without faces is uniform.
    """
    counts = torch.ones((len(EMOTIONS), vad.shape[1], len(SIGNS)), dtype=torch.float64)
    hits = F.one_hot(signs(vad) + 1, len(SIGNS)).cpu().double()  # (N, 3, 3); Apple's GPUs have no float64
    counts.index_add_(0, labels.cpu(), hits)
    return (counts / counts.sum(dim=2, keepdim=True)).float()


def sign_membership(values):
    """Smooth membership of V/A/D values in negative, zero, positive: (B, K) -> (B, K, 3), sums to 1.

    Two sigmoids at the borders of the zero band; differentiable everywhere.
    """
    negative = torch.sigmoid((-ZERO_BAND - values) / SOFTNESS)
    positive = torch.sigmoid((values - ZERO_BAND) / SOFTNESS)
    return torch.stack((negative, 1 - negative - positive, positive), dim=-1)


def contradictions():
    """(7, 3, 3) float32 indexed [class, dimension, sign]: 1 where `CONTRADICTIONS` has the sign, else 0."""
    table = [[[sign in of.get(name, "") for sign in SIGNS] for of in CONTRADICTIONS.values()] for name in EMOTIONS]
    return torch.tensor(table, dtype=torch.float32)


def contradiction_loss(logits, values, penalty):
    """Mean over images of sum_{c,k,s} p_c q_s(y_k) T[c,k,s]; gradients reach logits and values.

    logits (B, 7), values (B, K) in annotation units, penalty T (7, K, 3) within 0..1. It is small when the predicted
    category and the signs of the predicted V/A/D go together. Between 0 and K. Raises ValueError for other shapes.
    """
    _check_table(logits, values, penalty)
    return torch.einsum("bc,bks,cks->b", logits.softmax(dim=1), sign_membership(values), penalty).mean()


def sign_score_loss(logits, values, shares):
    """Mean over images of sum_{k,s} (sum_c p_c P(s | c, k) - q_s(y_k))^2; gradients reach logits and values.

    logits (B, 7), values (B, K) in annotation units, shares P (7, K, 3) as in `sign_shares`. The quadratic score
    (Brier 1950) of the signs that the predicted category implies, with those of the predicted V/A/D as what occurred:
    a proper one, least where what is implied is the true distribution of the signs, whichever class that favours.
    Between 0 and 2 K. Raises ValueError for other shapes.
    """
    _check_table(logits, values, shares)
    implied = torch.einsum("bc,cks->bks", logits.softmax(dim=1), shares)
    return (implied - sign_membership(values)).square().sum(dim=(1, 2)).mean()


def _check_table(logits, values, table):
    if table.shape != (logits.shape[1], values.shape[1], len(SIGNS)) or len(logits) != len(values):
        raise ValueError(
            f"shapes do not fit: logits {tuple(logits.shape)}, values {tuple(values.shape)}, table {tuple(table.shape)}"
        )


@dataclass(frozen=True)
class Constraint:
    """How categories and V/A/D are tied.

    table: from labels and vad of the training faces to (7, 3, 3), indexed [class, dimension, sign]. loss: from logits
    (B, 7), values (B, K) and the table's K columns to a scalar.
    """

    table: Callable
    loss: Callable


CONSTRAINTS = {
    # What is rare among the training annotations is penalised.
    "table": Constraint(lambda labels, vad: 1 - sign_shares(labels, vad), contradiction_loss),
    # What the original project's annotators call a contradiction is.
    "original": Constraint(lambda labels, vad: contradictions(), contradiction_loss),
    "score": Constraint(sign_shares, sign_score_loss),
}


def constraint_tables(labels, vad):
    """{name of a constraint: its table (7, 3, 3)} from the training annotations; {} without V/A/D."""
    return {} if vad is None else {name: tie.table(labels, vad) for name, tie in CONSTRAINTS.items()}


def orthogonality(kernel, stride):
    """Distance of a convolution from having orthonormal rows, a scalar.

    kernel (out, in, k, k), of any precision, in which matrices are multiplied; what they give is squared and added up
    in float32 at least. Wang et al., "Orthogonal Convolutional Neural Networks", CVPR 2020:
    || Conv(K, K, padding=P, stride=S) - I_r0 || with P = floor((k - 1) / S) * S, so that exactly
    the shifts at which two output positions overlap are sampled, and I_r0 is the identity at shift 0.
    Calculated as a matrix product of what overlaps at each shift, a fifth of the work of that convolution: opposite
    shifts give transposed products.
    """
    size = kernel.shape[-1]
    kernel = kernel.permute(0, 2, 3, 1)  # slices in space are faster where the channels lie together
    precise = torch.promote_types(kernel.dtype, torch.float32)

    def facing(down, across):
        rows, columns = (slice(max(0, shift), size + min(0, shift)) for shift in (down, across))
        return kernel[:, rows, columns].flatten(1)

    def overlap(down, across):
        return (facing(down, across) @ facing(-down, -across).T).to(precise)

    shifts = range(-((size - 1) // stride * stride), size, stride)
    total = (overlap(0, 0) - torch.eye(len(kernel), dtype=precise, device=kernel.device)).square().sum()
    for down, across in product(shifts, shifts):
        if (down, across) > (0, 0):
            total = total + 2 * overlap(down, across).square().sum()
    return total.clamp_min(torch.finfo(precise).tiny).sqrt()  # its gradient at 0 would not be finite


def matrix_orthogonality(kernel):
    """|| W W^T - I || of a 1x1 convolution as a matrix W (out, in), or || W^T W - I || where it has more rows."""
    matrix = kernel.flatten(1)
    matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    return orthogonality(matrix[:, :, None, None], 1)


def orthogonality_loss(model, dtype=torch.float32):
    """Sum over the residual blocks of `model` of the distances of their kernels from orthogonality, in `dtype`.

    As the original project has it: the first convolution of every block, and the shortcuts as matrices; eleven kernels
    of a ResNet-18.
    """
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock)]
    total = sum(orthogonality(block.conv1.weight.to(dtype), block.conv1.stride[0]) for block in blocks)
    shortcuts = [layer for block in blocks for layer in block.shortcut.modules() if isinstance(layer, nn.Conv2d)]
    return total + sum(matrix_orthogonality(shortcut.weight.to(dtype)) for shortcut in shortcuts)


def taught_loss(recipe, logits, labels, taught, votes):
    """Category loss of labels or votes, and with weight `recipe.teacher` that of a teacher's probabilities (B, 7)."""
    loss = category_loss(logits, labels, recipe.label_smoothing, votes)
    if taught is None:
        return loss
    return (1 - recipe.teacher) * loss + recipe.teacher * F.cross_entropy(logits, taught)


# {kind of task: its weighted loss, from a recipe, outputs (B, width), targets (B,), and a teacher's probabilities and
# votes, (B, 7) each or None}
LOSSES = {
    "classification": taught_loss,
    "regression": lambda recipe, values, target, taught, votes: (
        recipe.dimension_weight * dimension_loss(values, target, recipe.mse_weight, recipe.ccc_weight)
    ),
}


class Objective:
    """The weighted sum that training minimises.

    tasks: names from `TASKS`. recipe: a `training.recipes.Recipe`. tables: as `constraint_tables` gives them, on the
    device; {} where the data has no V/A/D. dtype: of the matrix products of the orthogonality.
    """

    def __init__(self, tasks, recipe, tables, dtype=torch.float32):
        self.dtype = dtype
        self.tasks = [TASKS[name] for name in tasks]
        self.recipe = recipe
        self.dimensions = [task for task in self.tasks if task.kind == "regression"]
        categories = any(task.kind == "classification" for task in self.tasks)
        self.table, self.constraint = None, CONSTRAINTS[recipe.constraint]
        if tables and recipe.consistency and categories and self.dimensions:
            self.table = tables[recipe.constraint][:, [task.dimension for task in self.dimensions]]

    def __call__(self, model, outputs, labels, vad, taught=None, votes=None):
        """Total loss, a scalar.

        outputs: what the model returned; labels (B,), vad (B, 3), taught (B, 7), votes (B, 7), all but labels or None.
        """
        recipe = self.recipe
        total = sum(
            LOSSES[task.kind](recipe, outputs[task.name], task_target(task, labels, vad), taught, votes)
            for task in self.tasks
        )
        if self.table is not None:
            values = torch.cat([outputs[task.name] for task in self.dimensions], dim=1)
            total = total + recipe.consistency * self.constraint.loss(outputs["classify"], values, self.table)
        if recipe.orthogonality:
            total = total + recipe.orthogonality * orthogonality_loss(model, self.dtype)
        return total
