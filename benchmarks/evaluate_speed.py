"""Ten-crop throughput: this project against the original design, and against its ceiling.

python benchmarks/evaluate_speed.py [--quick]
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (
    FORWARD_FLOP,
    asked_for_quick,
    describe_machine,
    print_rates,
    time_in_turn,
)
from benchmarks.convolution_ceiling import ceiling
from benchmarks.references import original_ten_crop
from data.demo.demo import draw_faces
from models import MODELS
from training.config import DEFAULT_MODEL
from training.device import setup_device
from training.engine import EVALUATION_CROPS, predict


def main():
    quick = asked_for_quick(__doc__)
    rounds, count = (1, 48) if quick else (5, 480)
    runtime = setup_device()
    print(describe_machine())
    print("; ".join(runtime.reasons))

    images, labels, _ = draw_faces(count, seed=0)
    model = runtime.for_inference(runtime.place(MODELS[DEFAULT_MODEL]()))
    ours = torch.from_numpy(images).to(runtime.device)

    def tencrop():
        predict(model, ours, {"mean": 0.5, "std": 0.25}, runtime, "tencrop")["classify"].cpu()
        return count

    ceilings = []

    def measure_ceiling():
        ceilings.append(
            ceiling(runtime, EVALUATION_CROPS[runtime.device.type], backward=False) / 10
        )
        return 0

    few = count // 16 + 1 if quick else count // 8
    programs = {
        "this project": tencrop,
        "original design": original_ten_crop(images[:few], labels[:few]),
        "convolutions alone (ceiling)": measure_ceiling,
    }
    rates = time_in_turn(programs, rounds)
    rates["convolutions alone (ceiling)"] = ceilings[-rounds:]
    title = f"ten-crop evaluation, ours in {runtime.precision}"
    print_rates(title, "faces/s", rates, "this project", 10 * FORWARD_FLOP)


if __name__ == "__main__":
    main()
