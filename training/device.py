"""Where and how it runs: device, precision, threads, memory. Decided once, with the reason."""

import contextlib
import ctypes
import os
import platform
import re
import sys
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import nn

from models.resnet import fold_batch_norms
from utils import distributed
from utils.files import UserError
from utils.text import counted

DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("auto", "bf16", "fp16", "fp32")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SWITCHES = ("auto", "on", "off")
MIN_CHANNELS = 16  # for the channels-last layout on a processor
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt, from glibc's malloc.h


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

    def compile(self, model):
        """The model that training calls. The raw module stays the one to save."""
        return torch.compile(model) if self.compiled else model

    def move_to_device(self, splits):
        """{split: `Faces`} on the device, from anywhere."""
        return {name: faces.to(self.device) for name, faces in splits.items()}

    def describe(self):
        """One line for data.txt: what numbers depend on, without anything that varies by time."""
        description = f"{self.device.type} ({platform.machine()}), {self.precision}"
        if self.device.type == "cpu":
            threads = counted(self.threads, "thread")
            description = f"cpu ({platform.machine()}, {threads}), {self.precision}"
        if self.device.type == "cuda":
            description = f"cuda ({torch.cuda.get_device_name()}), {self.precision}, TF32 off"
        processes = distributed.ranks()[1]
        return f"{description}, {processes} processes" if processes > 1 else description


def select_device(device="auto", precision="auto", compile_switch="auto"):
    """The `Runtime` for this machine. Changes nothing in the process.

    Raises UserError for a device that is not there, and for fewer GPUs than processes.
    """
    asked, reasons = device, []
    device = _select_device(asked, reasons)
    if precision == "auto":
        precision = _select_precision(device, reasons)
    if compile_switch == "auto":
        reasons.append("torch.compile is off: no measured speed-up")
    compiled = compile_switch == "on"
    return Runtime(device, precision, compiled, torch.get_num_threads(), tuple(reasons), asked)


def setup_device(device="auto", precision="auto", compile_switch="auto", training=False):
    """`select_device`, then apply its settings to the process and join the other processes.

    training: whether steps of equal size follow, which need the same memory again and again.
    """
    selected = select_device(device, precision, compile_switch)
    device, threads, reasons = selected.device, selected.threads, []
    if device.type == "cuda":
        torch.cuda.set_device(device)
        reasons.append("deterministic cuDNN, TF32 off: equal seeds give equal numbers")
    if device.type == "cpu":
        threads = _set_threads(reasons)
        if training:
            _keep_freed_memory(reasons)
    if distributed.ranks()[1] > 1:
        reasons.append(f"data-parallel: {distributed.ranks()[1]} processes share every batch")
    distributed.join(device)
    torch.set_flush_denormal(True)  # denormal numbers are slow and carry no information here
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # it would choose algorithms by their speed that day
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return replace(selected, threads=threads, reasons=(*selected.reasons, *reasons))


def _select_device(asked, reasons):
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: this PyTorch finds no CUDA device. Install a CUDA build of PyTorch and "
            "the driver, or use --device cpu."
        )
    if asked == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("--device mps: this PyTorch finds no Apple GPU. Use --device cpu.")
        reasons.append("Apple GPU: not tested; should it fail, use --device cpu")
    if asked == "auto":
        asked = "cuda" if has_gpu() else "cpu"
        reasons.append("CUDA device found" if asked == "cuda" else why_no_gpu())
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


def _select_precision(device, reasons):
    if device.type == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        reasons.append("fp16 with scaled gradients: this GPU has no native bf16")
        return "fp16"
    if device.type == "cuda" or device.type == "cpu" and processor_has_bf16():
        reasons.append("bf16: the hardware multiplies it natively")
        return "bf16"
    reasons.append("fp32: the hardware has no native bf16")
    return "fp32"


def has_gpu(asked="auto"):
    """Whether --device as asked means a GPU: a named one, or a CUDA device that works here."""
    return asked in ("cuda", "mps") or asked == "auto" and why_no_gpu() is None


def why_no_gpu():
    """Why no CUDA device is used: none is there, or this PyTorch has no kernels for it; or None."""
    if not torch.cuda.is_available():
        return "no CUDA device: running on the processor"
    if torch.version.hip:  # PyTorch for AMD's GPUs, whose kernels have other names
        return None
    capability, kernels = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
    if has_kernels(capability, kernels):
        return None
    gpu = f"{torch.cuda.get_device_name()} (compute capability {'.'.join(map(str, capability))})"
    compiled = ", ".join(kernels)
    return f"this PyTorch has no kernels for {gpu}, only {compiled}: running on the processor"


def has_kernels(capability, kernels):
    """Whether a GPU of compute capability (major, minor) runs any of the `kernels` of PyTorch.

    `sm_75` is machine code, for the same major version and the same or a later minor one;
    `compute_90` is code that the driver translates for any later GPU (NVIDIA, CUDA C++ Programming
    Guide, "Application Compatibility").
    """
    for kind, digits in re.findall(r"\b(sm|compute)_(\d+)", " ".join(kernels)):
        made_for = divmod(int(digits), 10)
        if made_for <= capability and (kind == "compute" or made_for[0] == capability[0]):
            return True
    return False


def processor_has_bf16():
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def _set_threads(reasons):
    available = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    processes = distributed.local_ranks()[1]
    share = max(1, available // processes)
    is_chosen = os.environ.get("OMP_NUM_THREADS", "1") != "1"  # torchrun itself sets 1
    threads = min(torch.get_num_threads(), available)
    if processes > 1 and not is_chosen:
        threads = share
    torch.set_num_threads(threads)
    reasons.append(f"{counted(threads, 'thread')} on {counted(available, 'processor core')}")
    return threads


def _keep_freed_memory(reasons):
    """Let glibc keep freed memory; by default it maps large tensors anew in every step.

    Other C libraries are left alone, and so is an allocator that the user chose or tuned.
    """
    chosen = ("LD_PRELOAD", "GLIBC_TUNABLES")
    is_tuned = any(name in chosen or name.startswith("MALLOC_") for name in os.environ)
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or is_tuned:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1):
        reasons.append("freed memory is kept for the next step: mapping it anew takes time")
