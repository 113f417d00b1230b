"""Where and how it runs: device, precision, threads, compilation. Decided once, with the reason."""

import contextlib
import os
import platform
from dataclasses import dataclass

import torch

from utils.files import UserError

DEVICES = ("auto", "cuda", "cpu")
PRECISIONS = ("auto", "bf16", "fp32")
SWITCHES = ("auto", "on", "off")


@dataclass(frozen=True)
class Runtime:
    """What was decided. `reasons` are sentences to print; the rest is used by the engine."""

    device: torch.device
    precision: str
    compiled: bool
    threads: int
    reasons: tuple

    def autocast(self):
        """The context in which the network runs: bf16 autocast, or nothing for fp32."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def place(self, model):
        """Move the model to the device in channels-last layout, the faster one for convolutions."""
        return model.to(self.device).to(memory_format=torch.channels_last)

    def compile(self, model):
        """The model that training calls. The raw module stays the one to save."""
        return torch.compile(model) if self.compiled else model

    def describe(self):
        """One line for data.txt: what the numbers depend on, without anything that changes by the hour."""
        if self.device.type == "cuda":
            return f"cuda ({torch.cuda.get_device_name()}), {self.precision}"
        return f"cpu ({platform.machine()}, {self.threads} threads), {self.precision}"


def decide(device="auto", precision="auto", compile_switch="auto"):
    """Choose the runtime and apply its process-wide settings (threads, determinism).

    Raises UserError when CUDA was asked for and is not there.
    """
    reasons = []
    device = _choose_device(device, reasons)
    precision = _choose_precision(device, precision, reasons)
    threads = _choose_threads(reasons) if device.type == "cpu" else torch.get_num_threads()
    compiled = compile_switch == "on"
    if compile_switch == "auto":
        reasons.append("compilation off: it has not been shown to pay here (--compile on tries it)")
    # Denormal numbers slow a processor down by orders of magnitude and carry no information here.
    torch.set_flush_denormal(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return Runtime(device, precision, compiled, threads, tuple(reasons))


def _choose_device(asked, reasons):
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: this PyTorch finds no CUDA device. Install a CUDA build of PyTorch and the "
            "driver, or use --device cpu."
        )
    if asked == "auto":
        found = torch.cuda.is_available()
        reasons.append("CUDA device found" if found else "no CUDA device: running on the processor")
        asked = "cuda" if found else "cpu"
    return torch.device(asked)


def _choose_precision(device, asked, reasons):
    if asked != "auto":
        return asked
    if device.type == "cuda":
        native = torch.cuda.get_device_capability() >= (8, 0)
    else:
        native = processor_has_bf16()
    if native:
        reasons.append("bf16: the hardware multiplies it natively")
        return "bf16"
    reasons.append("fp32: the hardware has no native bf16")
    return "fp32"


def processor_has_bf16():
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX); emulation is slower."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def _choose_threads(reasons):
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, min(torch.get_num_threads(), available))
    torch.set_num_threads(threads)
    reasons.append(f"{threads} threads: the processor cores this process may use")
    return threads
