"""Export the network to ONNX, or as a checkpoint in half precision to give away.

    python -m inference.export [--checkpoints DIR] [--out emotion.onnx]
    python -m inference.export --checkpoints RUN/PublicTest_model_classify.t7 --out released.t7

The input of the ONNX network is crops, float32 (N, 1, 44, 44), grey pixels 0..255; its outputs are
probabilities (N, 7) and, where it predicts them, vad (N, up to 3) in -2..2. Normalisation and
temperature are part of it; what each output means is in the metadata of the file.
"""

import argparse
import json
import sys

import torch
from torch import nn

from data import FACE_SIZE
from data.batches import CROP_SIZE, normalise
from inference.checkpoints import RELEASED, describe_files, load_networks, temperature_of
from models import checkpoint
from models.resnet import fold_batch_norms
from utils.files import (
    UserError,
    as_user_error,
    atomic_write,
    exit_code,
    new_file_argument,
    path_argument,
    sha256_of,
)
from utils.tasks import DIMENSIONS, EMOTIONS, TASKS, VAD_LIMIT


class ExportedNetwork(nn.Module):
    """Crops (N, 1, 44, 44) float32 of pixels 0..255 -> probabilities (N, 7), V/A/D (N, up to 3)."""

    def __init__(self, networks):
        super().__init__()
        self.networks, self.temperature = networks, temperature_of(networks)
        self.models = nn.ModuleList(network.model.eval() for network in networks)
        for model in self.models:
            fold_batch_norms(model)
        tasks = {name for network in networks for name in network.tasks}
        self.dimensions = [n for n in TASKS if n in tasks and TASKS[n].dimension is not None]

    def forward(self, crops):
        outputs = {}
        for model, network in zip(self.models, self.networks, strict=True):
            found = model(normalise(crops, **network.preprocessing))
            outputs |= {task: found[task] for task in network.tasks}
        probabilities = (outputs["classify"] / self.temperature).softmax(1)
        if not self.dimensions:
            return (probabilities,)
        return probabilities, torch.cat([outputs[name] for name in self.dimensions], dim=1)

    def metadata(self):
        """What a user of the file needs to know, as {name: text}."""
        names = [DIMENSIONS[TASKS[name].dimension] for name in self.dimensions]
        return {
            "input": f"crops: float32 (N, 1, {CROP_SIZE}, {CROP_SIZE}), grey pixels 0..255 of a "
            f"{FACE_SIZE}x{FACE_SIZE} face",
            "evaluation": "ten-crop: average V/A/D and log-probabilities over crops, then softmax",
            "emotions": json.dumps(EMOTIONS),
            "dimensions": json.dumps(names),
            "vad_range": json.dumps([-VAD_LIMIT, VAD_LIMIT]),
            "dataset": self.networks[0].dataset,
        }


def to_onnx(networks):
    """The ONNX model of networks, as `load_networks` returns them. Raises UserError."""
    try:
        import onnx
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise UserError("Export needs other packages: pip install onnx onnxscript") from error
    exported = ExportedNetwork(networks).eval()
    try:
        model = torch.onnx.export(
            exported,
            (torch.zeros(2, 1, CROP_SIZE, CROP_SIZE),),
            dynamo=True,
            verbose=False,
            input_names=["crops"],
            output_names=["probabilities", "vad"][: 1 + bool(exported.dimensions)],
            dynamic_shapes={"crops": {0: torch.export.Dim("N")}},
        ).model_proto
    except Exception as error:  # of many kinds: these packages work together in some versions only
        raise UserError(
            f"PyTorch {torch.__version__} and onnx {onnx.__version__} do not export together: "
            "pip install -U torch onnx onnxscript"
        ) from error
    onnx.helper.set_model_props(model, exported.metadata())
    return model


def to_half(path):
    """The content of the checkpoint at `path` with weights in half precision. Raises UserError."""
    _, content = checkpoint.load_model(path)
    net = {
        name: value.half() if value.is_floating_point() else value
        for name, value in content["net"].items()
    }
    return content | {"net": net}


def main(arguments):
    """Export. Returns the exit code."""
    out = arguments.out
    if out.suffix == ".t7":
        if arguments.checkpoints is None:
            raise UserError("--out FILE.t7 needs one file to convert: name it with --checkpoints.")
        checkpoint.save(out, to_half(arguments.checkpoints))
    else:
        networks = load_networks(arguments.checkpoints)
        print(f"Checkpoints: {describe_files(networks)}")
        model = to_onnx(networks)
        with as_user_error(out, "choose another --out"), atomic_write(out) as temporary:
            temporary.write_bytes(model.SerializeToString())
    print(f"Written: {out}, {out.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256_of(out)}")
    return 0


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.export",
        description="Export the network to ONNX, or in half precision.",
    )
    parser.add_argument(
        "--checkpoints", type=path_argument, metavar="DIR",
        help=f"folder of .t7 files, or one file (default: {RELEASED.name})",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=new_file_argument, default="emotion.onnx", metavar="FILE",
        help="FILE.onnx, or FILE.t7 for a checkpoint in half precision (default: emotion.onnx)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
