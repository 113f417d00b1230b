"""Calibration: a temperature for logits, and the usual measures of how far probabilities hold."""

import torch
import torch.nn.functional as F

BINS = 15  # of the expected calibration error, as in Guo et al.
TEMPERATURES = (0.05, 20.0)
HALVINGS = 40


def fit_temperature(logits, labels):
    """The T within `TEMPERATURES` for which softmax(logits / T) has the least cross-entropy.

    logits (N, C) float, labels (N,) int64. Guo et al., "On Calibration of Modern Neural Networks",
    ICML 2017. The cross-entropy is convex in 1 / T: its slope is bisected, on the device.
    """
    logits = logits.double()
    target = logits.gather(1, labels[:, None]).mean()
    low, high = (logits.new_tensor(1 / bound) for bound in reversed(TEMPERATURES))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = ((logits * middle).softmax(dim=1) * logits).sum(dim=1).mean() - target
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return 2 / (low + high).item()


def calibration_terms(logits, labels):
    """Terms per face, (N, 2 + BINS) float64, whose means `calibration_metrics` takes.

    logits (N, C) float, labels (N,) int64. The cross-entropy; the Brier score (1950), the squared
    distance of the probabilities from the one-hot label, 0 to 2; then, in the bin of the largest
    probability, whether the prediction is right (1 or 0) minus that probability.
    """
    logits = logits.double()
    probabilities = logits.softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    entropy = F.cross_entropy(logits, labels, reduction="none")
    brier = (probabilities - F.one_hot(labels, logits.shape[1])).square().sum(dim=1)
    bins = F.one_hot((confidence * BINS).long().clamp(max=BINS - 1), BINS)  # of equal width
    gaps = ((predicted == labels).double() - confidence)[:, None] * bins
    return torch.cat((entropy[:, None], brier[:, None], gaps), dim=1)


def calibration_metrics(means):
    """{"cross-entropy", "Brier", "ECE"}: (...), of mean `calibration_terms` (..., 2 + BINS).

    ECE is the sum over bins of |accuracy - confidence|.
    """
    error = means[..., 2:].abs().sum(dim=-1)
    return {"cross-entropy": means[..., 0], "Brier": means[..., 1], "ECE": error}
