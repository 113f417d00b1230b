"""FERSNet on one fold: recognize, synthesize, measure. All return values; none knows files."""

import torch
import torch.nn.functional as F

from data.batches import normalise
from training.engine import check_predictions
from training.fersnet.guides import PREPROCESSING, logits_of
from training.fersnet.similarity import structural_similarity
from training.metrics import classification_metrics

BATCH = 64  # faces of a forward pass without learning
SYNTHESIS_METRICS = ("L1", "SSIM", "CopyL1", "CopySSIM")


@torch.inference_mode()
def recognize(network, images, runtime):
    """Logits (N, classes) float32 of faces (N, S, S) uint8.

    network: in evaluation mode, on runtime.device.
    """
    logits = []
    for part in images.split(BATCH):
        with runtime.autocast():
            outputs = network(normalise(part[:, None], **PREPROCESSING))
        logits.append(logits_of(outputs))
    return torch.cat(logits)


@torch.inference_mode()
def synthesize(network, images, expressions, runtime):
    """The faces (N, S, S) uint8 with the expressions (N,) int64, synthesized: (N, S, S) uint8."""
    synthesized = []
    for part, wanted in zip(images.split(BATCH), expressions.split(BATCH), strict=True):
        with runtime.autocast():
            pictures = network(normalise(part[:, None], **PREPROCESSING), wanted)["synthesized"]
        synthesized.append(to_bytes(pictures))
    return torch.cat(synthesized)


def to_bytes(pictures):
    """Pictures (N, 1, S, S), floats whose range is 0..1, as uint8 (N, S, S)."""
    return (pictures[:, 0] * 255).round().clamp(0, 255).to(torch.uint8)


def synthesize_each(network, images, expressions, runtime):
    """Faces (N, S, S) uint8 with each expression (class ids): (N, expressions, S, S) uint8."""
    wanted = torch.tensor(list(expressions), device=images.device)
    sources = images.repeat_interleave(len(wanted), dim=0)
    synthesized = synthesize(network, sources, wanted.repeat(len(images)), runtime)
    return synthesized.view(len(images), len(wanted), *images.shape[1:])


def counterparts(faces):
    """(N, classes) int64: the row of a face of the same subject with each expression, or -1.

    Of several the last is taken, which in a dataset of sequences is where the expression is
    strongest; a face's own expression has -1.
    """
    classes, rows = len(faces.class_names), torch.arange(len(faces), device=faces.labels.device)
    table = torch.full((len(faces.subject_names) * classes,), -1, device=rows.device)
    table.scatter_reduce_(0, faces.subjects * classes + faces.labels, rows, "amax")
    return table.view(-1, classes)[faces.subjects].scatter(1, faces.labels[:, None], -1)


def sequence_accuracy(logits, labels, sequences):
    """Percent of the sequences whose expression is what most of their frames are read as.

    logits (N, classes), labels and sequences (N,) int64; a sequence has one label. Ties go to the
    expression with the greatest sum of probabilities.
    """
    numbers = sequences.unique(return_inverse=True)[1]
    votes = F.one_hot(logits.argmax(dim=1), logits.shape[1]).double()
    weights = votes + logits.double().softmax(dim=1) / (2 * len(logits))  # less than a vote
    sums = weights.new_zeros(int(numbers.max()) + 1, logits.shape[1])
    sums.index_add_(0, numbers, weights)
    true = labels.new_zeros(len(sums)).index_copy_(0, numbers, labels)
    return 100 * (sums.argmax(dim=1) == true).double().mean().item()


def recognition_metrics(network, faces, runtime):
    """`classification_metrics` of a network on held-out `SubjectFaces`, and SeqAcc by sequence.

    Raises UserError when a prediction is not finite.
    """
    logits = recognize(network, faces.images, runtime).cpu()  # mps has no float64
    check_predictions({"classify": logits}, "held-out faces")
    labels = faces.labels.cpu()
    by_sequence = sequence_accuracy(logits, labels, faces.sequences.cpu())
    return classification_metrics(logits, labels) | {"SeqAcc": by_sequence}


def synthesis_metrics(network, faces, runtime):
    """What is between each synthesized face and the real one of the same subject.

    L1 (mean absolute difference, pixels in 0..1) and SSIM; CopyL1 and CopySSIM, the same for the
    face that it was synthesized from: what a network reaches that changes nothing. None where the
    `SubjectFaces` have no such pair.
    """
    real = counterparts(faces)
    source, expression = (real >= 0).nonzero(as_tuple=True)
    if not len(source):
        return dict.fromkeys(SYNTHESIS_METRICS)
    synthesized = synthesize(network, faces.images[source], expression, runtime)
    wanted = _unit(faces.images[real[source, expression]])
    values = []
    for images in (synthesized, faces.images[source]):
        pictures = _unit(images)
        values.append((pictures - wanted).abs().mean().item())
        values.append(structural_similarity(pictures, wanted).mean().item())
    return dict(zip(SYNTHESIS_METRICS, values, strict=True))


def evaluate_fold(network, faces, runtime):
    """`recognition_metrics` of held-out faces, and `synthesis_metrics` where it synthesizes."""
    metrics = recognition_metrics(network, faces, runtime)
    return metrics | (synthesis_metrics(network, faces, runtime) if network.synthesizes else {})


def _unit(images):
    """uint8 (N, S, S) to float (N, 1, S, S) in 0..1, on the CPU: they are measured in float64."""
    return images[:, None].cpu().float() / 255


def synthesize_to_balance(network, faces, count, seed, runtime):
    """`count` synthesized faces that enlarge `faces` and make its classes as equal as can be.

    Returns (images (count, S, S) uint8, labels (count,) int64) on the faces' device. Each is
    synthesized from a random face of another expression.
    """
    generator = torch.Generator().manual_seed(seed)
    labels, device = faces.labels.cpu(), faces.labels.device
    shares = shares_to_balance(torch.bincount(labels, minlength=len(faces.class_names)), count)
    sources = []
    for label, share in enumerate(shares):
        others = (labels != label).nonzero()[:, 0]
        sources.append(others[torch.randint(len(others), (share,), generator=generator)])
    wanted = torch.arange(len(shares)).repeat_interleave(torch.tensor(shares)).to(device)
    images = faces.images[torch.cat(sources).to(device)]
    return synthesize(network, images, wanted, runtime), wanted


def shares_to_balance(present, count):
    """How many of `count` new faces each class gets, each in turn the smallest: a list.

    present: (classes,) int64, faces there are.
    """
    level = present.numpy().copy()
    for _ in range(count):
        level[level.argmin()] += 1
    return (level - present.numpy()).tolist()
