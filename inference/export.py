"""The networks of a recognizer as one ONNX file, and that in whole numbers of 8 bits."""

import json
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from data import FACE_SIZE
from data.batches import CROP_SIZE, center_crop, normalise
from inference.networks import temperature_of
from inference.videos.places import placing
from models.resnet import fold_batch_norms
from utils.files import UserError
from utils.tasks import DIMENSIONS, EMOTIONS, TASKS, VAD_LIMIT

CALIBRATION_BATCH = 8


class Exported(nn.Module):
    """Crops (N, 1, 44, 44) float32 of pixels 0..255 -> (probabilities (N, 7), V/A/D (N, up to 3)).

    networks: [`inference.networks.Network`]. Normalisation is part of it, and so is the temperature.
    """

    def __init__(self, networks):
        super().__init__()
        self.models = nn.ModuleList(deepcopy(network.model).eval() for network in networks)
        for model in self.models:
            fold_batch_norms(model)
        self.plans = [(network.preprocessing, network.tasks) for network in networks]
        self.temperature = temperature_of(networks)

    def forward(self, crops):
        outputs = {}
        for model, (preprocessing, tasks) in zip(self.models, self.plans, strict=True):
            found = model(normalise(crops, **preprocessing))
            outputs |= {task: found[task] for task in tasks}
        values = [outputs[name] for name in TASKS if name in outputs and TASKS[name].dimension is not None]
        probabilities = (outputs["classify"] / self.temperature).softmax(1)
        return (probabilities, torch.cat(values, dim=1)) if values else (probabilities,)


def metadata(networks):
    """What somebody needs to use the file, as {name: text}."""
    asked = [TASKS[task] for network in networks for task in network.tasks]
    dimensions = sorted(task.dimension for task in asked if task.dimension is not None)
    return {
        "input": f"crops: float32 (N, 1, {CROP_SIZE}, {CROP_SIZE}), grey pixels 0..255, of a {FACE_SIZE}x{FACE_SIZE} "
        "face; normalisation is part of the network",
        "crops": "the evaluation's ten-crop: four corners and the centre, and the same of the mirror image; average "
        "the V/A/D and the logarithms of the probabilities over them, then softmax",
        "emotions": json.dumps(EMOTIONS),
        "dimensions": json.dumps([DIMENSIONS[dimension] for dimension in dimensions]),
        "vad_range": json.dumps([-VAD_LIMIT, VAD_LIMIT]),
        "preprocessing": json.dumps([network.preprocessing for network in networks]),
        "dataset": networks[0].dataset,
    }  # fmt: skip


def export_onnx(networks, path):
    """Write the networks (as `load_networks` gives them, on the CPU in float32) to `path`. Raises UserError."""
    try:
        import onnx
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise UserError("--export onnx needs two packages: pip install onnx onnxscript") from error
    network = Exported(networks).eval()
    names = ["probabilities", "vad"][: len(network(torch.zeros(1, 1, CROP_SIZE, CROP_SIZE)))]
    try:
        program = torch.onnx.export(
            network, (torch.zeros(2, 1, CROP_SIZE, CROP_SIZE),), dynamo=True, input_names=["crops"],
            output_names=names, dynamic_shapes={"crops": {0: torch.export.Dim("N")}}, verbose=False,
        )  # fmt: skip
        model = program.model_proto
    except Exception as error:  # of many kinds: these packages only work together in some versions
        raise UserError(
            f"PyTorch {torch.__version__}, onnx {onnx.__version__} and onnxscript do not export together: "
            "pip install -U torch onnx onnxscript"
        ) from error
    for name, text in metadata(networks).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    with placing(path) as temporary:
        onnx.save(model, str(temporary))


class _Calibration:
    """Batches of crops in the form in which onnxruntime asks for them. images: uint8 (N, 48, 48)."""

    def __init__(self, images):
        crops = center_crop(images).float()
        self._batches = iter(crops.split(CALIBRATION_BATCH))

    def get_next(self):
        """{"crops": float32 (8, 1, 44, 44)}, None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"crops": batch.numpy()}


def export_int8(source, path, images):
    """Write the ONNX file `source` with 8-bit convolutions to `path`: a scale for each channel of the weights, static
    ones for what flows between, from the range that it has for `images`, uint8 (N, 48, 48) faces of training.

    Raises UserError.
    """
    try:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise UserError("an 8-bit network needs another package: pip install onnxruntime") from error
    with TemporaryDirectory() as folder, placing(path) as temporary:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared))
        quantize_static(
            str(prepared), str(temporary), _Calibration(images), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Relu", "Add"], calibrate_method=CalibrationMethod.MinMax,
        )  # fmt: skip
