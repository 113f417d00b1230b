"""Accuracy of checkpoints on private test faces that are corrupted as cameras corrupt them.

    python benchmarks/corruptions.py CHECKPOINT ... [--data PATH] [--limit N] [--out FILE.json]
    python benchmarks/corruptions.py CHECKPOINT ... --figure FILE.png --face PHOTOGRAPH

A checkpoint is a .t7 file or the folder of a run, of which the network that the public split chose
is measured. The 21 corruptions are fixed, made by OpenCV and NumPy from the whole face of 48x48;
the network sees the centre crop. Accuracy (percent) is against FER2013's label and against the
majority of the FER+ votes, the latter over the faces that have one. `uncertain` is said of a face
as in visualize.py. ECE is that of the probabilities that visualize.py shows. Intervals: 95%,
bootstrap over faces; a difference is paired, from the first checkpoint.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (
    describe_machine,
    mean_interval,
    print_table,
    spell,
    write_json,
)
from data import DATASETS
from data.votes import majority_votes
from inference.checkpoints import (
    load_networks,
    predict_tasks,
    ready_to_predict,
    temperature_of,
)
from inference.recognizer import UNCERTAIN_MARGIN, EmotionRecognizer
from training.calibration import calibration_metrics, calibration_terms
from training.device import DEVICES, setup_device
from utils.files import UserError, atomic_write, exit_code, path_argument
from utils.tasks import EMOTIONS, TEST_SPLITS

FIGURE = "blur 1.5,as 16 pixels,motion 5,JPEG 10,noise 25,gamma 2,contrast 0.3,turned 25".split(",")


def blur(face, sigma):
    return cv2.GaussianBlur(face, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def resize(face, side):
    small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, face.shape[::-1], interpolation=cv2.INTER_CUBIC)


def move_camera(face, length):
    return cv2.blur(face, (length, 1), borderType=cv2.BORDER_REPLICATE)


def compress(face, quality):
    _, encoded = cv2.imencode(".jpg", face, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)


def transform(face, degrees=0.0, zoom=1.0, right=0, down=0):
    """Turn counter-clockwise and enlarge about the centre, then move."""
    centre = (face.shape[1] - 1) / 2, (face.shape[0] - 1) / 2
    matrix = cv2.getRotationMatrix2D(centre, degrees, zoom)
    matrix[:, 2] += right, down
    return cv2.warpAffine(face, matrix, face.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def change_contrast(face, factor):
    return to_pixels(face.mean() + factor * (face - face.mean()))


def add_noise(faces, sigma):
    return to_pixels(faces + np.random.default_rng(0).normal(0, sigma, faces.shape))


def change_gamma(faces, gamma):
    return to_pixels(255 * (faces / 255) ** gamma)


def to_pixels(values):
    return values.round().clip(0, 255).astype(np.uint8)


def for_each(change, *arguments):
    """Apply a function of one face, (48, 48), to all of (N, 48, 48)."""
    return lambda faces: np.stack([change(face, *arguments) for face in faces])


# {name: (N, 48, 48) uint8 -> the same}
CORRUPTIONS = {
    **{f"blur {sigma}": for_each(blur, sigma) for sigma in (0.6, 1.0, 1.5)},
    **{f"as {side} pixels": for_each(resize, side) for side in (32, 24, 16)},
    "motion 5": for_each(move_camera, 5),
    **{f"JPEG {quality}": for_each(compress, quality) for quality in (30, 10)},
    "noise 10": lambda faces: add_noise(faces, 10),
    "noise 25": lambda faces: add_noise(faces, 25),
    "gamma 0.5": lambda faces: change_gamma(faces, 0.5),
    "gamma 2": lambda faces: change_gamma(faces, 2),
    "contrast 0.3": for_each(change_contrast, 0.3),
    **{f"zoom {zoom}": for_each(transform, 0, zoom) for zoom in (0.85, 1.15)},
    **{f"turned {degrees}": for_each(transform, degrees) for degrees in (15, 25)},
    "moved 4 up": for_each(transform, 0, 1, 0, -4),
    "moved 4 down": for_each(transform, 0, 1, 0, 4),
    "moved 5 aside": for_each(transform, 0, 1, 5, 0),
}
CONDITIONS = ("clean", *CORRUPTIONS)


def predict(checkpoint, faces, conditions, runtime):
    """(C, N, 7) logits, divided by the temperature, of faces (N, 48, 48) under C conditions."""
    networks = ready_to_predict(load_networks(checkpoint, TEST_SPLITS), runtime)
    networks = [network for network in networks if "classify" in network.tasks]

    def logits_of(name):
        images = CORRUPTIONS[name](faces) if name in CORRUPTIONS else faces
        images = torch.from_numpy(images)
        return predict_tasks(networks, images, runtime, "center", name)["classify"]

    return torch.stack([logits_of(name) for name in conditions]) / temperature_of(networks)


def measure(logits, targets):
    """{figure: values} of logits (22, N, 7) in the order of `CONDITIONS`.

    targets: {name: (N,) int64}, -1 where a face has none.
    """
    best = logits.softmax(dim=2).topk(2, dim=2).values
    is_uncertain = (best[:, :, 0] - best[:, :, 1] < UNCERTAIN_MARGIN).double()
    said = F.one_hot(logits.argmax(dim=2), len(EMOTIONS)).double().mean(dim=1)
    shares = [dict(zip(EMOTIONS, row, strict=True)) for row in (100 * said).tolist()]
    figures = {
        "uncertain": by_condition(100 * is_uncertain.mean(dim=1)),
        "said": dict(zip(CONDITIONS, shares, strict=True)),
    }
    for name, target in targets.items():
        rows = target >= 0
        right = 100 * is_right(logits, target)
        figures[name] = {
            "faces": len(target[rows]),
            "accuracy": by_condition(right.mean(dim=1)),
            "clean": mean_interval(right[0]),
            "mean of 21": mean_interval(right[1:].mean(dim=0)),
            "ECE clean": calibration(logits[:1, rows], target[rows]),
            "ECE corrupted": calibration(logits[1:, rows], target[rows]),
        }
    return figures


def is_right(logits, target):
    """(C, M) float64: 1 where a face that has a target is predicted right, else 0."""
    rows = target >= 0
    return (logits[:, rows].argmax(dim=2) == target[rows]).double()


def by_condition(values):
    return dict(zip(CONDITIONS, values.tolist(), strict=True))


def calibration(logits, target):
    """Expected calibration error, 0..1, of logits (C, M, 7) together; target (M,)."""
    terms = calibration_terms(logits.flatten(0, 1), target.repeat(len(logits)))
    return calibration_metrics(terms.mean(dim=0))["ECE"].item()


def differences(logits, first, targets):
    """{target: {figure: value and interval}}: accuracy of logits minus that of `first`."""
    gained = {name: 100 * (is_right(logits, t) - is_right(first, t)) for name, t in targets.items()}
    return {
        name: {"clean": mean_interval(gain[0]), "mean of 21": mean_interval(gain[1:].mean(dim=0))}
        for name, gain in gained.items()
    }


def print_figures(checkpoint, figures, targets):
    """Print a row for each condition and the summary of each target."""
    rows = []
    for name in CONDITIONS:
        accuracies = [f"{figures[target]['accuracy'][name]:.1f}" for target in targets]
        said = figures["said"][name]
        most = max(said, key=said.get)
        uncertain = f"{figures['uncertain'][name]:.1f}"
        rows.append([name, *accuracies, uncertain, f"{said[most]:.0f}% {most}"])
    print(f"\n{checkpoint}")
    print_table(["", *(f"{name} %" for name in targets), "uncertain %", "said most often"], rows)
    for name in targets:
        found = figures[name]
        print(
            f"{name} ({found['faces']} faces): clean {spell(found['clean'])}, mean of 21 "
            f"{spell(found['mean of 21'])}, ECE {found['ECE clean']:.3f} clean, "
            f"{found['ECE corrupted']:.3f} corrupted"
        )


def load_faces(arguments):
    """(images (N, 48, 48) uint8, {target: (N,)}, description) of the private split."""
    dataset = DATASETS["FER2013"](arguments.data, out=arguments.out.parent)
    faces = dataset.splits["PrivateTest"].spaced(arguments.limit)
    targets = {"labels": faces.labels}
    if faces.votes is not None:
        targets["majority"] = majority_votes(faces.votes)
    return faces.images.numpy(), targets, f"{len(faces)} PrivateTest faces; {dataset.description}"


def draw(arguments, runtime):
    """Draw one face, clean and under eight corruptions, and what each checkpoint says of it."""
    import matplotlib.pyplot as plt

    found = EmotionRecognizer(arguments.checkpoints[0]).recognize(arguments.face)
    if not found:
        raise UserError(f"{arguments.face} shows no face: give another photograph with --face.")
    face, conditions = found[0].crop[None], ("clean", *FIGURE)
    texts = [""] * len(conditions)
    for checkpoint in arguments.checkpoints:
        best = predict(checkpoint, face, conditions, runtime)[:, 0].softmax(dim=1).max(dim=1)
        for number, (share, label) in enumerate(zip(*best, strict=True)):
            texts[number] += f"{EMOTIONS[label]} {100 * share:.0f}%\n"
    figure, axes = plt.subplots(1, len(conditions), figsize=(1.3 * len(conditions), 2))
    for name, text, axis in zip(conditions, texts, axes, strict=True):
        picture = CORRUPTIONS[name](face)[0] if name in CORRUPTIONS else face[0]
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[], title=name, xlabel=text)
    with atomic_write(arguments.figure) as temporary:
        figure.savefig(temporary, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)
    print(f"written: {arguments.figure} (a line under each picture for each checkpoint)")


def main(arguments):
    """Measure, print and write, or draw the figure. Returns the exit code."""
    runtime = setup_device(arguments.device)
    if arguments.figure is not None:
        draw(arguments, runtime)
        return 0
    faces, targets, description = load_faces(arguments)
    report = {"machine": describe_machine(), "precision": runtime.precision, "faces": description}
    print("\n".join(report.values()))
    logits = {
        str(path): predict(path, faces, CONDITIONS, runtime) for path in arguments.checkpoints
    }
    first, *others = logits
    for name, values in logits.items():
        report[name] = measure(values, targets)
        print_figures(name, report[name], targets)
    for name in others:
        found = differences(logits[name], logits[first], targets)
        report[f"{name}, difference from {first}"] = found
        for target, gained in found.items():
            spelled = ", ".join(f"{figure} {spell(value)}" for figure, value in gained.items())
            print(f"\n{name}, {target}, difference from {first}: {spelled}")
    write_json(report, arguments.out)
    return 0


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", type=path_argument, metavar="CHECKPOINT")
    parser.add_argument("--data", type=path_argument, metavar="PATH", help="as for mainpro_FER.py")
    parser.add_argument("--limit", type=int, metavar="N", help="of the faces, evenly spaced")
    parser.add_argument(
        "--out", type=path_argument, default=Path("corruptions.json"), metavar="FILE"
    )
    parser.add_argument("--figure", type=path_argument, metavar="FILE", help="draw --face instead")
    parser.add_argument("--face", type=path_argument, metavar="PHOTOGRAPH", help="of one person")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
