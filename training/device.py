"""Where and how it runs: device, precision, threads, memory. Decided once, with the reason."""

import contextlib
import os
import platform
import shutil
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import nn

from models.resnet import fold_batch_norms
from utils import distributed
from utils.files import UserError, one_line
from utils.text import counted

DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("auto", "bf16", "fp16", "fp32")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MIN_CHANNELS = 16  # for the channels-last layout on a processor


@dataclass(frozen=True)
class Runtime:
    """The decisions. `reasons` are sentences to print, `asked` is the --device given."""

    device: torch.device
    precision: str
    compiled: bool
    threads: int
    reasons: tuple
    asked: str = "auto"

    @property
    def dtype(self):
        """The dtype that the hardware multiplies fastest at this precision."""
        return DTYPES[self.precision]

    @property
    def matrix_dtype(self):
        """The same for what needs the range of float32: sums of squares, powers of matrices."""
        return torch.float32 if self.precision == "fp16" else self.dtype

    @property
    def replays_steps(self):
        """Whether a training step is captured as a CUDA graph: fp16's scaler reads values back."""
        alone = distributed.ranks()[1] == 1
        return self.device.type == "cuda" and self.precision != "fp16" and alone

    def autocast(self):
        """The context in which the network runs: autocast to the precision, nothing for fp32."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def scaler(self):
        """The gradient scaler of fp16; with other precisions it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def place(self, model):
        """Move the model to the device in channels-last layout, the faster one for convolutions.

        A network of few channels keeps its layout on a processor: training one in channels-last
        layout, oneDNN writes out of bounds (PyTorch 2.13, up to 12 channels).
        """
        model = model.to(self.device)
        channels = [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        is_narrow = any(1 < count < MIN_CHANNELS for count in channels)
        if is_narrow and self.device.type == "cpu":
            return model
        return model.to(memory_format=torch.channels_last)

    def for_inference(self, model):
        """A copy of the model for prediction: batch norms folded, kernels in `precision`."""
        copy = deepcopy(model).eval()
        fold_batch_norms(copy)
        for module in copy.modules():
            if isinstance(module, nn.Conv2d):
                module.to(self.dtype)  # once; autocast would do it in every forward pass
        return copy

    def describe(self):
        """One line for data.txt: what numbers depend on, without anything that varies by time."""
        kind, place = self.device.type, platform.machine()
        if kind == "cpu":
            place = f"{place}, {counted(self.threads, 'thread')}"
        if kind == "cuda":
            place = torch.cuda.get_device_name()
        description = f"{kind} ({place}), {self.precision}" + ", TF32 off" * (kind == "cuda")
        processes = distributed.ranks()[1]
        return f"{description}, {processes} processes" if processes > 1 else description


def select_device(device="auto", precision="auto", *, compiled=False):
    """The `Runtime` for this machine. Changes nothing in the process.

    compiled: whether training goes through torch.compile, which has not been measured to pay.
    Raises UserError for a device that is not there, and for fewer GPUs than processes.
    """
    asked, reasons = device, []
    device = _find_device(asked, reasons)
    if precision == "auto":
        precision, reason = _choose_precision(device)
        reasons.append(reason)
    return Runtime(device, precision, compiled, torch.get_num_threads(), tuple(reasons), asked)


def setup_device(device="auto", precision="auto", *, compiled=False):
    """`select_device`, then apply its settings to the process and join the other processes."""
    selected = select_device(device, precision, compiled=compiled)
    device, threads, reasons = selected.device, selected.threads, [*selected.reasons]
    if device.type == "cuda":
        torch.cuda.set_device(device)
        reasons.append("deterministic cuDNN, TF32 off: equal seeds give equal numbers")
    if device.type == "cpu":
        threads = _set_threads()
        reasons.append(counted(threads, "thread"))
    if distributed.ranks()[1] > 1:
        reasons.append(f"data-parallel: {distributed.ranks()[1]} processes share every batch")
    distributed.join(device)
    torch.set_flush_denormal(True)  # denormal numbers are slow and carry no information here
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # it would choose algorithms by their speed that day
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return replace(selected, threads=threads, reasons=tuple(reasons))


def _find_device(asked, reasons):
    """The torch.device for --device as asked; why is added to `reasons`."""
    if asked == "auto":
        missing = why_no_gpu()
        asked = "cpu" if missing else "cuda"
        reasons.append(missing or "CUDA device found")
    elif asked == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device cuda: {why_no_gpu()}. Use --device cpu.")
    elif asked == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("--device mps: this PyTorch finds no Apple GPU. Use --device cpu.")
        reasons.append("Apple GPU: not tested; should it fail, use --device cpu")
    if asked != "cuda":
        return torch.device(asked)
    rank, processes = distributed.local_ranks()
    gpus = torch.cuda.device_count()
    if processes > gpus:
        raise UserError(
            f"{processes} processes need a GPU each, and there are {gpus}: start {gpus} "
            f"(torchrun --nproc_per_node={gpus}), or use --device cpu."
        )
    return torch.device("cuda", rank)


def _choose_precision(device):
    """(precision, reason): what the device multiplies natively."""
    if device.type == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        return "fp16", "fp16 with scaled gradients: this GPU has no native bf16"
    if device.type == "cuda" or device.type == "cpu" and processor_has_bf16():
        return "bf16", "bf16: the hardware multiplies it natively"
    return "fp32", "fp32: the hardware has no native bf16"


def has_gpu(asked="auto"):
    """Whether --device as asked means a GPU: a named one, or a CUDA device that works here."""
    return asked in ("cuda", "mps") or asked == "auto" and why_no_gpu() is None


def why_no_gpu():
    """Why no CUDA device is used, with what to do; None where one works."""
    if torch.cuda.is_available():
        try:
            torch.ones(1, device="cuda").add_(1)  # fails where this PyTorch has no kernels for it
        except RuntimeError as error:
            name = torch.cuda.get_device_name()
            return f"{name} does not work with this PyTorch ({one_line(error)}): on the processor"
        return None
    if torch.version.cuda is None and torch.version.hip is None and shutil.which("nvidia-smi"):
        return (
            "this PyTorch cannot use the NVIDIA GPU: install one that can, with pip install "
            "--force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cu126"
        )
    return "no CUDA device: running on the processor"


def processor_has_bf16():
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def _set_threads():
    """Use the cores that this process may run on, its share where torchrun started several."""
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    processes = distributed.local_ranks()[1]
    is_chosen = os.environ.get("OMP_NUM_THREADS", "1") != "1"  # torchrun itself sets 1
    threads = min(torch.get_num_threads(), cores)
    if processes > 1 and not is_chosen:
        threads = max(1, cores // processes)
    torch.set_num_threads(threads)
    return threads
