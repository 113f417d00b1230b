"""Synthesize faces of photographs with other expressions, by a FERSNet.

    python -m inference.synthesize photo.jpg [--expressions Happy Sad] [--out synthesized.png]

Writes a grid of pictures with a row per face: the face, then one column per expression.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from inference.checkpoints import RELEASED_SYNTHESIZER
from inference.detection import FaceDetector, crop_faces
from models import checkpoint
from training.device import DEVICES, PRECISIONS, select_device
from training.fersnet.engine import synthesize_each
from utils.files import (
    UserError,
    as_user_error,
    atomic_write,
    exit_code,
    new_file_argument,
    path_argument,
)
from utils.images import read_image, to_grey

TRAIN = "train one with python mainpro_FER.py --dataset CK+"


class FaceSynthesizer:
    """Synthesizes faces with other expressions.

    path: a .t7 file of a FERSNet, or a folder: the first of a run's files is taken, else
    released.t7. class_names: its expressions; size: height and width of its faces. Raises
    UserError.
    """

    def __init__(self, path=RELEASED_SYNTHESIZER, device="auto", precision="auto"):
        file = Path(path)
        if file.is_dir():
            files = [*sorted(file.glob("Fold*_model_*.t7")), *file.glob("released.t7")]
            if not files:
                raise UserError(f"{path} has no checkpoint of a FERSNet: {TRAIN}.")
            file = files[0]
        network, content = checkpoint.load_model(file)
        if not getattr(network, "synthesizes", False):
            raise UserError(f"{file} holds no network that synthesizes: {TRAIN}.")
        self._runtime = select_device(device, precision)
        self._network = self._runtime.for_inference(self._runtime.place(network))
        self.class_names, self.size = tuple(content["class_names"]), content["options"]["size"]

    def synthesize(self, faces, expressions):
        """uint8 (N, S, S) NumPy, S = self.size; names -> uint8 (N, expressions, S, S) NumPy."""
        unknown = set(expressions) - set(self.class_names)
        if unknown:
            names = ", ".join(self.class_names)
            raise UserError(f"{', '.join(sorted(unknown))} cannot be synthesized, only {names}.")
        numbers = [self.class_names.index(name) for name in expressions]
        images = torch.from_numpy(faces).to(self._runtime.device)
        return synthesize_each(self._network, images, numbers, self._runtime).cpu().numpy()


def main(arguments):
    """Find the faces, synthesize them, write the grid. Returns the exit code."""
    from torchvision.utils import make_grid  # slow to import

    synthesizer = FaceSynthesizer(arguments.checkpoints, arguments.device, arguments.precision)
    detector, faces = FaceDetector(), []
    expressions = synthesizer.class_names
    if arguments.expressions:
        expressions = [name.capitalize() for name in arguments.expressions]
    for path in arguments.inputs:
        grey = to_grey(read_image(path))
        found = crop_faces(grey, detector.detect(grey), synthesizer.size)
        print(f"{path}: faces found: {len(found)}")
        faces.append(found)
    faces = np.concatenate(faces)
    if not len(faces):
        raise UserError("No face was found: give other photographs.")
    synthesized = synthesizer.synthesize(faces, expressions)
    pictures = torch.from_numpy(np.concatenate((faces[:, None], synthesized), axis=1))
    grid = make_grid(pictures.flatten(0, 1)[:, None], 1 + len(expressions), pad_value=255)
    remedy = "make room, or choose another --out"
    with as_user_error(arguments.out, remedy), atomic_write(arguments.out) as temporary:
        Image.fromarray(grid[0].numpy()).save(temporary, "PNG")
    print(f"Written: {arguments.out} (columns: face, {', '.join(expressions)})")
    return 0


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.synthesize",
        description="Synthesize faces of photographs with other expressions, by a FERSNet.",
    )
    parser.add_argument("inputs", nargs="+", type=path_argument, metavar="FILE", help="photographs")
    parser.add_argument(
        "--expressions", nargs="+", metavar="NAME", help="such as Happy Sad (default: all it knows)"
    )
    parser.add_argument(
        "--checkpoints", type=path_argument, default=RELEASED_SYNTHESIZER, metavar="DIR",
        help=f"a FERSNet's .t7 file, or a folder of some (default: {RELEASED_SYNTHESIZER.name})",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=new_file_argument, default="synthesized.png", metavar="FILE",
        help="the PNG to write (default: synthesized.png)",
    )  # fmt: skip
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
