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
    """What calibration is measured from, per face, (N, 4) float64: cross-entropy, Brier score, confidence, rightness.

    logits (N, C) float, labels (N,) int64. The Brier score (1950) is the squared distance of the probabilities from
    the label's one-hot, 0 to 2; confidence the largest probability.
    """
    logits = logits.double()
    probabilities = logits.softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    entropy = F.cross_entropy(logits, labels, reduction="none")
    brier = (probabilities - F.one_hot(labels, logits.shape[1])).square().sum(dim=1)
    return torch.stack((entropy, brier, confidence, (predicted == labels).double()), dim=1)


def figures_of_terms(terms):
    """{"cross-entropy", "Brier", "ECE"}: floats, from terms (N, 4) as `calibration_terms` gives them.

    ECE: the mean over faces of |accuracy - mean confidence| of their bin, of `BINS` bins of equal width.
    """
    entropy, brier, confidence, right = terms.unbind(dim=1)
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=terms.dtype).index_add_(0, bins, right - confidence)
    return {
        "cross-entropy": entropy.mean().item(),
        "Brier": brier.mean().item(),
        "ECE": (gaps.abs().sum() / len(terms)).item(),
    }
