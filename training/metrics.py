"""Metrics per task, computed where the predictions are, once per epoch.

Every metric is finite. Degenerate inputs have these values: CCC and PCC of a constant are 0 (also
for one image); the F1 of a class that neither occurs nor is predicted is left out of the macro
mean, as scikit-learn does it.
"""

import torch
import torch.nn.functional as F

from training.calibration import fit_temperature
from utils.tasks import EMOTIONS, TASKS, ZERO_BAND

CLASSES = len(EMOTIONS)


def concordance(prediction, target):
    """Concordance correlation coefficient (Lin 1989), in [-1, 1]: (..., N) and (..., N) -> (...).

    2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))^2); 0 where that is 0 / 0. Differentiable.
    """
    means = prediction.mean(-1, keepdim=True), target.mean(-1, keepdim=True)
    x, y = prediction - means[0], target - means[1]
    spread = (x * x).mean(-1) + (y * y).mean(-1) + (means[0] - means[1])[..., 0].square()
    return 2 * (x * y).mean(-1) / spread.clamp_min(torch.finfo(spread.dtype).tiny)


def pearson(prediction, target):
    """Pearson correlation coefficient, in [-1, 1], 0 if one is constant; (..., N) -> (...)."""
    x, y = (values - values.mean(-1, keepdim=True) for values in (prediction, target))
    # A constant far from 0 leaves rounding noise after centring; that is not variation.
    constant = (prediction == prediction[..., :1]).all(-1) | (target == target[..., :1]).all(-1)
    scale = ((x * x).sum(-1) * (y * y).sum(-1)).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
    return torch.where(constant, torch.zeros_like(scale), (x * y).sum(-1) / scale)


def signs(values):
    """-1, 0 or 1 (int64) of V/A/D values of any shape; 0 within the band that counts as zero."""
    return (values >= ZERO_BAND).long() - (values <= -ZERO_BAND).long()


def sign_agreement(prediction, target):
    """SAGR: the share of images whose prediction has the sign of the target; (..., N) -> (...)."""
    return (signs(prediction) == signs(target)).to(prediction.dtype).mean(-1)


def confusion_matrix(predicted, labels, classes=CLASSES):
    """(N,) and (N,) int64 -> (classes, classes) int64; rows are true classes, columns predicted."""
    counts = torch.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.view(classes, classes)


def macro_f1(confusion):
    """Mean over classes of F1 = 2 TP / (true + predicted), where defined; (..., C, C) -> (...)."""
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    total = (confusion.sum(dim=-2) + confusion.sum(dim=-1)).double()
    return (2 * hits / total.clamp_min(1)).sum(dim=-1) / (total > 0).sum(dim=-1).clamp_min(1)


def classification_metrics(logits, labels):
    """Metrics of logits (N, C) on the faces whose label (N,) is not -1.

    Acc (percent), Loss (mean cross-entropy), F1 (macro, 0..1), the confusion matrix as lists, and
    the temperature that fits these logits best.
    """
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    confusion = confusion_matrix(logits.argmax(dim=1), labels, logits.shape[1])
    return {
        "Acc": 100 * (confusion.diagonal().sum().double() / len(labels)).item(),
        "Loss": F.cross_entropy(logits.double(), labels).item(),
        "F1": macro_f1(confusion).item(),
        "confusion": confusion.tolist(),
        "temperature": fit_temperature(logits, labels),
    }


def regression_metrics(values, target):
    """Loss (mean squared error), CCC, PCC and SAGR of values (N, 1) and a target (N,)."""
    x, y = values[:, 0].double(), target.double()
    return {
        "Loss": F.mse_loss(x, y).item(),
        "CCC": concordance(x, y).item(),
        "PCC": pearson(x, y).item(),
        "SAGR": sign_agreement(x, y).item(),
    }


def task_target(task, labels, vad):
    """What `task` predicts: the labels (N,) int64, or its column of vad (N, 3)."""
    return labels if task.dimension is None else vad[:, task.dimension]


METRICS = {"classification": classification_metrics, "regression": regression_metrics}


def measure(outputs, labels, vad):
    """{task name: metrics} of a whole split. outputs: {task name: (N, width)}, on one device."""
    metrics = {}
    for name, output in outputs.items():
        task = TASKS[name]
        metrics[name] = METRICS[task.kind](output.float(), task_target(task, labels, vad))
    return metrics


# {(kind of task, metric): its sum over a batch, from outputs (B, width) and targets (B,)}
TRAINING_SUMS = {
    ("classification", "Acc"): lambda x, labels: 100 * (x.argmax(dim=1) == labels).sum(),
    ("classification", "Loss"): lambda x, labels: F.cross_entropy(x, labels, reduction="sum"),
    ("regression", "Loss"): lambda x, target: (x[:, 0] - target).square().sum(),
}


def sum_dtype(device):
    """The dtype of sums on a device: float64, which Apple's GPUs lack."""
    return torch.float32 if device.type == "mps" else torch.float64


def training_metrics(tasks):
    """[(`Task`, metric)] of what is summed while training. tasks: names from `TASKS`."""
    every = [TASKS[name] for name in tasks]
    return [(task, metric) for task in every for metric in task.rules.training_metrics]


@torch.no_grad()
def batch_sums(metrics, outputs, labels, vad):
    """Sums over a batch of `training_metrics`, (n,) of `sum_dtype`, on the device.

    Read once, at the end of an epoch, they are sums over what each step saw: augmented images,
    before its update. outputs {task name: (B, width)}, labels (B,), vad (B, 3) or None.
    """
    sums = []
    for task, metric in metrics:
        measured = TRAINING_SUMS[task.kind, metric]
        sums.append(measured(outputs[task.name], task_target(task, labels, vad)))
    return torch.stack([value.to(sum_dtype(labels.device)) for value in sums])
