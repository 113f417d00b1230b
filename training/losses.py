"""The objective: category and V/A/D losses, their consistency, orthogonal convolutions."""

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
    "Valence": {
        "Angry": "0+", "Disgust": "0+", "Fear": "0+", "Happy": "-0", "Sad": "0+", "Neutral": "-+",
    },
    "Arousal": {
        "Angry": "-", "Disgust": "-", "Happy": "-0", "Sad": "0+", "Surprise": "-0",
        "Neutral": "-+",
    },
    "Dominance": {"Disgust": "-0", "Fear": "0+", "Happy": "-", "Sad": "0+", "Surprise": "0+"},
}  # fmt: skip


def category_loss(logits, labels, smoothing=0.0, votes=None):
    """Cross-entropy, mean over images. logits (B, 7) float, labels (B,) int64 in 0..6.

    votes (B, 7) uint8: their shares are the target, see `data.votes.vote_shares`; None: the labels.
    """
    target = labels if votes is None else vote_shares(votes, labels)
    return F.cross_entropy(logits, target, label_smoothing=smoothing)


def dimension_loss(values, target, ccc_weight=0.0):
    """Mean squared error + ccc_weight * (1 - CCC of the batch).

    values (B, 1) float, target (B,) float, both in annotation units. The second term makes
    shrinking towards the mean costly: a constant prediction has CCC 0 whatever its squared error.
    Raises ValueError for other shapes.
    """
    if values.shape != (*target.shape, 1):
        raise ValueError(f"values must be {(*target.shape, 1)}, not {tuple(values.shape)}")
    values = values[:, 0]
    loss = F.mse_loss(values, target)
    if ccc_weight:
        loss = loss + ccc_weight * (1 - concordance(values, target))
    return loss


def sign_shares(labels, vad):
    """P(s | c, k): the share of class c whose dimension k is negative, zero or positive.

    labels (N,) int64, vad (N, 3) float -> (7, 3, 3) float32 indexed [class, dimension, sign], each
    [c, k] summing to 1. Laplace-smoothed: 1 is added to every count.
    """
    counts = torch.ones((len(EMOTIONS), vad.shape[1], len(SIGNS)), dtype=torch.float64)
    hits = F.one_hot(signs(vad) + 1, len(SIGNS)).cpu().double()  # (N, 3, 3); mps has no float64
    counts.index_add_(0, labels.cpu(), hits)
    return (counts / counts.sum(dim=2, keepdim=True)).float()


def sign_membership(values):
    """Smooth membership of values in negative, zero, positive: (B, K) -> (B, K, 3), sums to 1.

    Two sigmoids at the borders of the zero band; differentiable everywhere.
    """
    negative = torch.sigmoid((-ZERO_BAND - values) / SOFTNESS)
    positive = torch.sigmoid((values - ZERO_BAND) / SOFTNESS)
    return torch.stack((negative, 1 - negative - positive, positive), dim=-1)


def contradictions():
    """(7, 3, 3) float32 [class, dimension, sign]: 1 where `CONTRADICTIONS` has the sign, else 0."""
    table = torch.zeros(len(EMOTIONS), len(CONTRADICTIONS), len(SIGNS))
    for dimension, signs_of in enumerate(CONTRADICTIONS.values()):
        for emotion, contradicting in signs_of.items():
            table[EMOTIONS.index(emotion), dimension, [SIGNS.index(s) for s in contradicting]] = 1
    return table


def contradiction_loss(logits, values, penalty):
    """Mean over images of sum_{c,k,s} p_c q_s(y_k) T[c,k,s], between 0 and K.

    logits (B, 7), values (B, K) in annotation units, penalty T (7, K, 3) within 0..1. Small when
    the predicted category and the signs of the predicted V/A/D go together; both get gradients.
    """
    membership = sign_membership(values)
    return torch.einsum("bc,bks,cks->b", logits.softmax(dim=1), membership, penalty).mean()


CONSTRAINTS = ("table", "original")


def constraint_table(constraint, labels, vad):
    """The penalty (7, 3, 3) of a constraint, on the CPU; None without V/A/D annotations.

    "table" penalises what is rare among training faces, labels (N,) and vad (N, 3); "original" what
    its annotators call a contradiction.
    """
    if vad is None:
        return None
    return contradictions() if constraint == "original" else 1 - sign_shares(labels, vad)


def orthogonality(kernel, stride):
    """Distance of a convolution from having orthonormal rows: || Conv(K, K) - I ||, a scalar.

    kernel (out, in, k, k), in whose precision it is convolved; the norm is in float32 at least.
    Padding floor((k - 1) / S) * S and stride S sample the shifts at which two output positions
    overlap; I is the identity at shift 0. Wang et al., "Orthogonal Convolutional Neural Networks",
    CVPR 2020.
    """
    padding = (kernel.shape[-1] - 1) // stride * stride
    overlaps = F.conv2d(kernel, kernel, stride=stride, padding=padding)  # (out, out, h, w)
    overlaps = overlaps.to(torch.promote_types(kernel.dtype, torch.float32))
    middle = overlaps.shape[-1] // 2
    identity = torch.zeros_like(overlaps)
    identity[:, :, middle, middle].fill_diagonal_(1)
    return torch.linalg.vector_norm(overlaps - identity)


def orthogonality_loss(model, dtype=torch.float32):
    """Sum of the distances from orthogonality over the residual blocks of `model`, in `dtype`.

    As in the original project: the first convolution of every block, and the shortcuts as matrices,
    whose columns are compared as they have more rows; eleven kernels of a ResNet-18.
    """
    total = 0.0
    for block in model.modules():
        if isinstance(block, BasicBlock):
            total += orthogonality(block.conv1.weight.to(dtype), block.conv1.stride[0])
            for layer in block.shortcut.modules():
                if isinstance(layer, nn.Conv2d):
                    total += orthogonality(layer.weight.to(dtype).transpose(0, 1), 1)
    return total


class Objective:
    """The weighted sum that training minimises.

    tasks: names from `TASKS`. recipe: `training.config.Recipe`. table: of `constraint_table`, or
    None, on the device. dtype: of the convolutions of the orthogonality.
    """

    def __init__(self, tasks, recipe, table, dtype=torch.float32):
        self.recipe, self.dtype = recipe, dtype
        self.dimensions = [TASKS[name] for name in tasks if TASKS[name].dimension is not None]
        columns = [task.dimension for task in self.dimensions]
        is_constrained = recipe.consistency and "classify" in tasks and columns
        self.table = table[:, columns] if is_constrained and table is not None else None

    def __call__(self, model, outputs, labels, vad, teacher_probs=None, votes=None):
        """Total loss, a scalar, of the `outputs` of `model`.

        labels (B,), vad (B, 3), teacher_probs (B, 7), votes (B, 7); all but labels may be None.
        """
        recipe, total = self.recipe, 0.0
        if "classify" in outputs:
            logits = outputs["classify"]
            loss = category_loss(logits, labels, recipe.label_smoothing, votes)
            if teacher_probs is not None:
                taught = F.cross_entropy(logits, teacher_probs)
                loss = (1 - recipe.teacher) * loss + recipe.teacher * taught
            total = total + loss
        for task in self.dimensions:
            target = task_target(task, labels, vad)
            loss = dimension_loss(outputs[task.name], target, recipe.ccc_weight)
            total = total + recipe.dimension_weight * loss
        if self.table is not None:
            values = torch.cat([outputs[task.name] for task in self.dimensions], dim=1)
            penalty = contradiction_loss(outputs["classify"], values, self.table)
            total = total + recipe.consistency * penalty
        if recipe.orthogonality:
            total = total + recipe.orthogonality * orthogonality_loss(model, self.dtype)
        return total
