"""The most that this machine's convolutions allow: the trunk's convolutions alone, forward and
backward.

    python benchmarks/convolution_ceiling.py [--quick]

Nothing between the convolutions (no normalisation, activation, loss or optimizer), inputs ready in
memory.
"""

import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import TRAINING_FLOP, asked_for_quick, describe_machine, print_table
from training.device import setup_device


def trunk_convolutions(size=44):
    """(in, out, input size, kernel, stride) of all 20 convolutions."""
    layers, inputs = [(1, 64, size, 3, 1)], 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        out = -(-size // stride)
        layers += [(inputs, width, size, 3, stride), *[(width, width, out, 3, 1)] * 3]
        if stride != 1:
            layers.append((inputs, width, size, 1, stride))
        inputs, size = width, out
    return layers


def ceiling(runtime, batch, rounds=3, backward=True):
    """Images per second of all convolutions together: each is timed alone, median of `rounds`, and
    summed.

    backward: forward and backward, or forward alone.
    """
    total = 0.0
    for inputs, outputs, size, kernel, stride in trunk_convolutions():
        make = dict(device=runtime.device, dtype=runtime.dtype)
        x = torch.randn(batch, inputs, size, size, **make).to(memory_format=torch.channels_last)
        weight = torch.randn(outputs, inputs, kernel, kernel, **make).to(
            memory_format=torch.channels_last
        )
        x.requires_grad_(backward and inputs > 1), weight.requires_grad_(backward)
        gradient = torch.randn_like(F.conv2d(x, weight, None, stride, kernel // 2))
        seconds = []
        for _ in range(rounds + 1):
            x.grad = weight.grad = None  # adding to earlier gradients is no convolution
            _wait(runtime)
            start = time.perf_counter()
            result = F.conv2d(x, weight, None, stride, kernel // 2)
            if backward:
                result.backward(gradient)
            _wait(runtime)
            seconds.append(time.perf_counter() - start)
        total += statistics.median(seconds[1:])
    return batch / total


def _wait(runtime):
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()


def main():
    quick = asked_for_quick(__doc__)
    print(describe_machine())
    rows = []
    for precision in ("fp32", "bf16"):
        runtime = setup_device(precision=precision)
        for batch in (128,) if quick else (32, 64, 128, 256):
            rate = ceiling(runtime, batch, 3 if quick else 7)
            rows.append(
                [f"{precision}, batch {batch}", f"{rate:.0f}", f"{rate * TRAINING_FLOP / 1e12:.2f}"]
            )
    print_table(["convolutions alone", "images/s", "TFLOP/s"], rows)


if __name__ == "__main__":
    main()
