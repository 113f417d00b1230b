"""How far probabilities can be believed: a temperature for logits, and the usual measures of calibration."""

import torch
import torch.nn.functional as F

BINS = 15  # of the expected calibration error, as Guo et al. have them
TEMPERATURES = (0.05, 20.0)
HALVINGS = 40


def fit_temperature(logits, labels):
    """The T for which softmax(logits / T) has the least cross-entropy; a float within `TEMPERATURES`.

    logits (N, C) float, labels (N,) int64. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. The
    cross-entropy is convex in 1 / T; where its slope changes sign is found by halving, without waiting for the device
    before the end.
    """
    logits = logits.double()
    wanted = logits.gather(1, labels[:, None]).mean()
    low, high = (logits.new_tensor(1 / temperature) for temperature in reversed(TEMPERATURES))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = ((logits * middle).softmax(dim=1) * logits).sum(dim=1).mean() - wanted
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return 2 / (low + high).item()


def calibration_terms(logits, labels):
    """What calibration is measured from, per face, (N, 2 + BINS) float64: all that counts is their mean over faces.

    logits (N, C) float, labels (N,) int64. The cross-entropy; the Brier score (1950), which is the squared distance of
    the probabilities from the label's one-hot, 0 to 2; in the bin of the largest probability, else 0, whether that was
    right (1 or 0) less itself.
    """
    logits = logits.double()
    probabilities = logits.softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    entropy = F.cross_entropy(logits, labels, reduction="none")
    brier = (probabilities - F.one_hot(labels, logits.shape[1])).square().sum(dim=1)
    gaps = (predicted == labels).double() - confidence
    return torch.cat((entropy[:, None], brier[:, None], gaps[:, None] * confidence_bins(confidence)), dim=1)


def confidence_bins(confidence):
    """The bins of equal width of the largest probabilities (N,): one-hot, (N, BINS) float64."""
    return F.one_hot((confidence * BINS).long().clamp(max=BINS - 1), BINS).double()


def figures_of_terms(means):
    """{"cross-entropy", "Brier", "ECE"}: (...), of the means over faces (..., 2 + BINS) of `calibration_terms`."""
    return {"cross-entropy": means[..., 0], "Brier": means[..., 1], "ECE": calibration_error(means[..., 2:])}


def calibration_error(gaps):
    """ECE: the sum over bins of |rightness - confidence|, a mean over all faces. gaps: (..., BINS) -> (...)."""
    return gaps.abs().sum(dim=-1)
