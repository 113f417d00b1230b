"""FaceSynthesizer: faces in, the same faces with other expressions out, synthesized by a trained FERSNet."""

from pathlib import Path

import torch

from inference.networks import RELEASED_SYNTHESIZER
from models import checkpoint
from training.device import setup_device
from training.fersnet.engine import synthesize_each
from utils.files import UserError

ALL = "all"


class FaceSynthesizer:
    """Synthesizes faces with other expressions.

    path: a .t7 file of a FERSNet that synthesizes, or a folder: of a run's files the first is taken, else released.t7.
    Raises UserError when there is none. size: height and width of the faces; class_names: the expressions that it knows.
    """

    def __init__(self, path=RELEASED_SYNTHESIZER, device="auto", precision="auto"):
        self._runtime = setup_device(device, precision)
        network, content = checkpoint.load_model(_first(Path(path)))
        if not getattr(network, "synthesizes", False):
            raise UserError(
                f"{path} holds no network that synthesizes: train one with python mainpro_FER.py --dataset CK+, and "
                "give its .t7 file with --checkpoints."
            )
        self._network = self._runtime.for_inference(self._runtime.place(network))
        self.class_names, self.size = tuple(content["class_names"]), content["options"]["size"]

    def expressions(self, names):
        """The expressions that are meant by `names`, in whatever case, or by "all". Raises UserError for others."""
        if [name.lower() for name in names] == [ALL]:
            return self.class_names
        known = {name.lower(): name for name in self.class_names}
        for name in names:
            if name.lower() not in known:
                choices = ", ".join(self.class_names)
                raise UserError(f"{name} is no expression that can be synthesized: {ALL}, or {choices}.")
        return tuple(known[name.lower()] for name in names)

    def synthesize(self, faces, expressions):
        """faces uint8 (N, S, S) NumPy, S = self.size; names of expressions -> uint8 (N, expressions, S, S)."""
        numbers = [self.class_names.index(name) for name in expressions]
        images = torch.from_numpy(faces).to(self._runtime.device)
        return synthesize_each(self._network, images, numbers, self._runtime).cpu().numpy()


def _first(path):
    if not path.is_dir():
        return path
    files = [*sorted(path.glob("Fold*_model_*.t7")), *path.glob("released.t7")]
    if not files:
        raise UserError(
            f"{path} has no checkpoint of a FERSNet (such as Fold01_model_classify.t7): train one with python "
            "mainpro_FER.py --dataset CK+, or give its .t7 file with --checkpoints."
        )
    return files[0]
