"""How good it is: figures per task, computed where the predictions are, once per epoch.

Every figure is finite. Degenerate inputs have these values: CCC and PCC of a constant are 0 (also
for one image); the F1 of a class that neither occurs nor is predicted is left out of the macro mean,
as scikit-learn does it.
"""

import torch
import torch.nn.functional as F

from training.calibration import fit_temperature
from utils.tasks import EMOTIONS, ZERO_BAND

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
    """Pearson correlation coefficient, in [-1, 1], 0 if one is constant: (..., N) and (..., N) -> (...)."""
    x, y = (values - values.mean(-1, keepdim=True) for values in (prediction, target))
    # A constant far from 0 leaves rounding noise after centring; that is not variation.
    constant = (prediction == prediction[..., :1]).all(-1) | (target == target[..., :1]).all(-1)
    scale = ((x * x).sum(-1) * (y * y).sum(-1)).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
    return torch.where(constant, torch.zeros_like(scale), (x * y).sum(-1) / scale)


def signs(values):
    """-1, 0 or 1 (int64) of V/A/D values of any shape; 0 within the band that counts as zero."""
    return (values >= ZERO_BAND).long() - (values <= -ZERO_BAND).long()


def sign_agreement(prediction, target):
    """SAGR: share of images whose predicted and true values have the same of the three `signs`: (..., N) -> (...)."""
    return (signs(prediction) == signs(target)).to(prediction.dtype).mean(-1)


def confusion_matrix(predicted, labels, classes=CLASSES):
    """(N,) and (N,) int64 -> (classes, classes) int64; rows are true classes, columns predicted."""
    return torch.bincount(labels * classes + predicted, minlength=classes * classes).view(classes, classes)


def macro_f1(confusion):
    """Mean of the per-class F1 = 2 TP / (true + predicted) over the classes in either; (..., C, C) -> (...)."""
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    total = (confusion.sum(dim=-2) + confusion.sum(dim=-1)).double()
    return (2 * hits / total.clamp_min(1)).sum(dim=-1) / (total > 0).sum(dim=-1).clamp_min(1)


def classification_metrics(logits, labels):
    """Acc (percent), Loss (mean cross-entropy), F1 (macro, 0..1), the confusion matrix as lists, and the temperature
    that fits these logits best; of the faces whose label is not -1.
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
    """Loss (mean squared error, annotation units squared), CCC, PCC and SAGR; values (N, 1), target (N,)."""
    x, y = values[:, 0].double(), target.double()
    return {
        "Loss": F.mse_loss(x, y).item(),
        "CCC": concordance(x, y).item(),
        "PCC": pearson(x, y).item(),
        "SAGR": sign_agreement(x, y).item(),
    }


METRICS = {"classification": classification_metrics, "regression": regression_metrics}


def task_target(task, labels, vad):
    """What `task` predicts: the labels (N,) int64, or its column of vad (N, 3)."""
    return labels if task.dimension is None else vad[:, task.dimension]


def measure(tasks, outputs, labels, vad):
    """{task name: metrics} over a whole split. outputs: {task name: (N, width)}, all on one device."""
    return {task.name: METRICS[task.kind](outputs[task.name].float(), task_target(task, labels, vad)) for task in tasks}


# {(kind of task, training metric): its sum over a batch, from outputs (B, width) and targets (B,)}
TRAINING_SUMS = {
    ("classification", "Acc"): lambda logits, labels: 100 * (logits.argmax(dim=1) == labels).sum(),
    ("classification", "Loss"): lambda logits, labels: F.cross_entropy(logits, labels, reduction="sum"),
    ("regression", "Loss"): lambda values, target: (values[:, 0] - target).square().sum(),
}


def sum_dtype(device):
    """The type of number in which a device adds up: float64, which Apple's GPUs lack."""
    return torch.float32 if device.type == "mps" else torch.float64


class TrainingFigures:
    """Training figures of an epoch, to be summed over its batches on the device and read once, at the end.

    The weights change during the epoch, so these are means over what each step saw (augmented images, before its
    update). tasks: list of `Task`; names: [(task name, metric)].
    """

    def __init__(self, tasks):
        self._measured = [(task, metric) for task in tasks for metric in task.rules.training_metrics]
        self.names = [(task.name, metric) for task, metric in self._measured]

    @torch.no_grad()
    def of_batch(self, outputs, labels, vad):
        """Sums over a batch, (n,) of `sum_dtype`: outputs {task name: (B, width)}, labels (B,), vad (B, 3) or None."""
        sums = [
            TRAINING_SUMS[task.kind, metric](outputs[task.name], task_target(task, labels, vad))
            for task, metric in self._measured
        ]
        return torch.stack([part.to(sum_dtype(labels.device)) for part in sums])

    def by_task(self, means):
        """{task name: {metric: mean per image}}. means: n floats."""
        result = {task: {} for task, _ in self.names}
        for (task, metric), value in zip(self.names, means, strict=True):
            result[task][metric] = value
        return result
