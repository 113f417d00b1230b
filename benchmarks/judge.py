"""An independent network that reads the expressions of synthesized faces, in several views."""

import torch
import torch.nn.functional as F
from torch import nn

from models.resnet import ResNet18
from training.fersnet.engine import recognize, synthesize
from training.fersnet.guides import Supervision, supervise
from training.fersnet.views import SIDE, blur_matrix

EPOCHS = 25
CHANNELS = 32
SEED = 1_000_000  # added to that of a fold


def halved(pictures):
    """Pictures reduced to 24x24, each pixel the mean of what it covers, and enlarged again."""
    small = F.interpolate(pictures, size=SIDE // 2, mode="area")
    return F.interpolate(small, size=pictures.shape[-1], mode="bilinear", align_corners=False)


def blurred(pictures):
    """Pictures after a Gaussian blur of a pixel of 48x48, mirrored at their edges."""
    sigma = torch.ones((), device=pictures.device)
    matrix = blur_matrix(sigma, pictures.shape[-1]).to(pictures.dtype)
    return matrix @ pictures @ matrix.T


# {suffix of a metric's name: the view of the pictures that it is about}
VIEWS = {"": lambda pictures: pictures, "Halved": halved, "Blurred": blurred}


def random_view(pictures):
    """Pictures in one of the `VIEWS`, at random."""
    return list(VIEWS.values())[int(torch.randint(len(VIEWS), ()))](pictures)


def judge_network(faces, seed, runtime):
    """A narrow ResNet-18 trained on the expressions of `faces` (training folds only), in all views.

    It shares nothing with FERSNet nor with its guides, not even their random numbers, and so can
    say what a synthesized face looks like to another network.
    """
    seed += SEED
    torch.manual_seed(seed)
    trunk = ResNet18(base=CHANNELS, pooled=True)
    head = nn.Linear(trunk.width, len(faces.class_names))
    network = runtime.place(nn.Sequential(trunk, head))
    how = Supervision(EPOCHS, view=random_view)
    *_, network = supervise(network, faces.images, faces.labels, how, seed, runtime)
    return network


def synthesize_others(network, faces, runtime):
    """Each face with every other expression: (images (M, S, S) uint8, expressions (M,) int64)."""
    classes = len(faces.class_names)
    wanted = torch.arange(classes, device=faces.labels.device).repeat(len(faces))
    source = torch.arange(len(faces), device=wanted.device).repeat_interleave(classes)
    is_other = wanted != faces.labels[source]
    source, wanted = source[is_other], wanted[is_other]
    return synthesize(network, faces.images[source], wanted, runtime), wanted


def judged(judge, faces, synthesized, wanted, runtime):
    """What `judge` reads in held-out faces and in what `synthesize_others` returned, in percent.

    For each of the `VIEWS` {"TargetShare" + view: synthesized faces read as the wanted expression,
    "JudgeAcc" + view: real faces read correctly}.
    """
    shares = {}
    read = (("TargetShare", synthesized, wanted), ("JudgeAcc", faces.images, faces.labels))
    for suffix, view in VIEWS.items():
        for name, images, labels in read:
            logits = recognize(lambda pictures, view=view: judge(view(pictures)), images, runtime)
            hits = logits.argmax(dim=1) == labels
            shares[name + suffix] = 100 * hits.float().mean().item()
    return shares
