"""Where and how it runs: device, precision, threads, memory, compilation. Decided once, with the reason."""

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
FEWEST_CHANNELS = 16  # for the channels-last layout on a processor
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt, from glibc's malloc.h


@dataclass(frozen=True)
class Runtime:
    """What was decided. `reasons` are sentences to print, `asked` is the --device given; the rest is for the engine."""

    device: torch.device
    precision: str
    compiled: bool
    threads: int
    reasons: tuple
    asked: str = "auto"

    @property
    def dtype(self):
        """The type of number that the hardware multiplies fastest at this precision."""
        return DTYPES[self.precision]

    @property
    def matrix_dtype(self):
        """The same for what needs the range of float32: sums of squares, and products of many matrices."""
        return torch.float32 if self.precision == "fp16" else self.dtype

    @property
    def replays_steps(self):
        """Whether a training step is captured as a CUDA graph: fp16's scaler reads values back."""
        alone = distributed.ranks()[1] == 1
        return self.device.type == "cuda" and self.precision != "fp16" and alone

    def autocast(self):
        """The context in which the network runs: autocast to the precision, or nothing for fp32."""
        if self.precision != "fp32":
            return torch.autocast(self.device.type, self.dtype)
        return contextlib.nullcontext()

    def scaler(self):
        """What keeps small gradients from vanishing in fp16; with other precisions it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def place(self, model):
        """Move the model to the device in channels-last layout, the faster one for convolutions.

        A network of few channels stays as it is on a processor: learning with them in that layout, oneDNN writes
        beyond its memory (seen with PyTorch 2.13 and up to 12 channels).
        """
        model = model.to(self.device)
        channels = [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
        few = any(1 < count < FEWEST_CHANNELS for count in channels)
        if few and self.device.type == "cpu":
            return model
        return model.to(memory_format=torch.channels_last)

    def for_inference(self, model):
        """A copy of the model that only predicts, and does so faster: batch norms folded, weights in `precision`."""
        copy = deepcopy(model).eval()
        fold_batch_norms(copy)
        for module in copy.modules():
            if isinstance(module, nn.Conv2d):
                module.to(self.dtype)  # once, where autocast would do it in every forward pass
        return copy

    def compile(self, model):
        """The model that training calls. The raw module stays the one to save."""
        return torch.compile(model) if self.compiled else model

    def describe(self):
        """One line for data.txt: what the numbers depend on, without anything that changes by the hour."""
        told = f"cpu ({platform.machine()}, {counted(self.threads, 'thread')}), {self.precision}"
        if self.device.type == "cuda":
            told = f"cuda ({torch.cuda.get_device_name()}), {self.precision}, TF32 off"
        if self.device.type == "mps":
            told = f"mps ({platform.machine()}), {self.precision}"
        processes = distributed.ranks()[1]
        return f"{told}, {processes} processes" if processes > 1 else told

    def keep(self, splits):
        """({split: `Faces`} where training reads them, a sentence that says where that is and why).

        On the device of the network, unless that is a GPU and they would fill more than half of its free memory.
        splits: {split: `Faces`} on the CPU.
        """
        if self.device.type == "cuda":
            needed = sum(faces.images.numel() for faces in splits.values())
            free = torch.cuda.mem_get_info(self.device)[0]
            if needed > free / 2:
                room = f"they are {needed / 1e6:,.0f} MB, and the GPU has {free / 1e6:,.0f} MB free"
                return splits, f"faces in the host's memory: {room}"
        return {name: faces.to(self.device) for name, faces in splits.items()}, f"faces in memory ({self.device.type})"


def choose(device="auto", precision="auto", compile_switch="auto"):
    """The `Runtime` for this machine. Nothing in the process is changed.

    Raises UserError when CUDA was asked for and is not there, or has fewer GPUs than there are processes.
    """
    reasons, asked = [], device
    device = _choose_device(device, reasons)
    precision = _choose_precision(device, precision, reasons)
    if compile_switch == "auto":
        reasons.append("compilation off: it has not been shown to pay here (--compile on tries it)")
    return Runtime(device, precision, compile_switch == "on", torch.get_num_threads(), tuple(reasons), asked)


def decide(device="auto", precision="auto", compile_switch="auto", training=False):
    """Choose the runtime and apply its process-wide settings (threads, memory, determinism); meet the other processes.

    training: its steps need the same memory again and again, where whoever looks at pictures of any size would only
    keep what the largest needed. Raises UserError as `choose` does, and when compilation was asked for and fails.
    """
    chosen = choose(device, precision, compile_switch)
    device, threads, reasons = chosen.device, chosen.threads, []
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if device.type == "cpu":
        threads = _choose_threads(reasons)
        if training:
            _keep_freed_memory(reasons)
    if chosen.compiled:
        _check_compilation(device)
    if distributed.ranks()[1] > 1:
        reasons.append(f"data-parallel: {distributed.ranks()[1]} processes share every batch")
    distributed.join(device)
    # Denormal numbers slow a processor down by orders of magnitude and carry no information here.
    torch.set_flush_denormal(True)
    if device.type == "cuda":
        reasons.append("cuDNN's deterministic algorithms, TF32 off: equal seeds give equal numbers, fp32 is fp32")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # it would choose algorithms by how fast they happen to be
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return replace(chosen, threads=threads, reasons=(*chosen.reasons, *reasons))


def _choose_device(asked, reasons):
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: this PyTorch finds no CUDA device. Install a CUDA build of PyTorch and the "
            "driver, or use --device cpu."
        )
    if asked == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("--device mps: this PyTorch finds no Apple GPU. Use --device cpu.")
        reasons.append("Apple GPU: not tested; should it fail, use --device cpu")
    if asked == "auto":
        asked = "cuda" if has_gpu() else "cpu"
        reasons.append("CUDA device found" if asked == "cuda" else why_no_gpu())
    if asked == "cuda":
        rank, processes = distributed.local_ranks()
        gpus = torch.cuda.device_count()
        if processes > gpus:
            raise UserError(f"{processes} processes need a GPU each, and there are {gpus}: start {gpus} "
                            f"(torchrun --nproc_per_node={gpus}), or use --device cpu.")  # fmt: skip
        return torch.device("cuda", rank)
    return torch.device(asked)


def _check_compilation(device):
    """Raise UserError where `torch.compile` does not work: it needs a C++ compiler, on a GPU Triton."""
    try:
        torch.compile(nn.Tanh())(torch.ones(2, device=device))
    except Exception as error:  # of any kind, others in each version of PyTorch
        reason = str(error).partition("\n")[0]
        raise UserError(f"--compile on does not work here ({reason}): leave it out.") from error


def _choose_precision(device, asked, reasons):
    if asked != "auto":
        return asked
    if device.type == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        reasons.append("fp16 with scaled gradients: this GPU has no native bf16")
        return "fp16"
    native = device.type == "cuda" or device.type == "cpu" and processor_has_bf16()
    if native:
        reasons.append("bf16: the hardware multiplies it natively")
        return "bf16"
    reasons.append("fp32: the hardware has no native bf16")
    return "fp32"


def has_gpu(asked="auto"):
    """Whether `--device` as asked means a GPU: one that was asked for, or a CUDA device that can be used here."""
    return asked in ("cuda", "mps") or asked == "auto" and why_no_gpu() is None


def why_no_gpu():
    """Why no CUDA device is used: there is none, or this PyTorch has no kernels for it. None when one is."""
    if not torch.cuda.is_available():
        return "no CUDA device: running on the processor"
    if torch.version.hip:  # PyTorch for AMD's GPUs, whose kernels are not named by compute capability
        return None
    capability, kernels = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
    if has_kernels(capability, kernels):
        return None
    name = f"{torch.cuda.get_device_name()} (compute capability {'.'.join(map(str, capability))})"
    return f"this PyTorch has no kernels for {name}, only {', '.join(kernels)}: running on the processor"


def has_kernels(capability, kernels):
    """Whether a GPU of compute capability (major, minor) runs any of the `kernels` that PyTorch names.

    `sm_75` is machine code, for the same major version and the same or a later minor one; `compute_90` is code that the
    driver translates for any later GPU (NVIDIA, CUDA C++ Programming Guide, "Application Compatibility"). Other names
    say nothing about such a GPU.
    """
    for kind, digits in re.findall(r"\b(sm|compute)_(\d+)", " ".join(kernels)):
        made_for = divmod(int(digits), 10)
        if made_for <= capability and (kind == "compute" or made_for[0] == capability[0]):
            return True
    return False


def processor_has_bf16():
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX); emulation is slower."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def _choose_threads(reasons):
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = distributed.local_ranks()[1]
    share = max(1, available // processes)
    asked = os.environ.get("OMP_NUM_THREADS", "1") != "1"  # torchrun itself sets 1
    threads = share if processes > 1 and not asked else min(torch.get_num_threads(), available)
    torch.set_num_threads(threads)
    why = "its share" if threads == share else "as PyTorch or OMP_NUM_THREADS has it,"
    among = f" for {processes} processes" if processes > 1 else ""
    reasons.append(f"{counted(threads, 'thread')}: {why} of the {counted(available, 'processor core')}{among}")
    return threads


def _keep_freed_memory(reasons):
    """Let glibc keep freed memory, where it otherwise maps large tensors, page by page, anew in every step.

    Other C libraries are left alone, and so is an allocator that the user has chosen or tuned.
    """
    tuned = any(name in ("LD_PRELOAD", "GLIBC_TUNABLES") or name.startswith("MALLOC_") for name in os.environ)
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or tuned:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1):
        reasons.append("freed memory is kept for the next step: mapping it anew takes time")
