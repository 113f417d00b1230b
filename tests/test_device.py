"""What `setup_device` changes in the process: memory that large tensors use again."""

import os
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from data.faces import Faces
from models.multitask import MultiTask
from models.resnet import ResNet18
from tests.conftest import ROOT
from training.config import RECIPES
from training.device import has_gpu, has_kernels, setup_device, why_no_gpu
from training.engine import predict
from training.learner import MultiTaskLearner
from training.losses import sign_shares
from utils.files import UserError

FAULTS = """
import resource
import torch
from training.device import setup_device

def count():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

reasons = setup_device("cpu", "fp32", training=True).reasons
for _ in range(4):
    count()  # until the pieces that alignment leaves fit together
print(count(), any("freed memory" in reason for reason in reasons))
"""

ONE_PICTURE = """
import torch
from models.resnet import ResNet18
from training.device import setup_device

runtime = setup_device("cpu", "{precision}")
torch.set_num_threads(2)
for _ in range(12):
    network = runtime.place(ResNet18(base=8))
    for size in (44, 48):
        with runtime.autocast():
            loss = network(torch.randn(1 if size == 44 else 2, 1, size, size)).float().square().sum()
        loss.backward()
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(
    ("tuned", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "4"}, False), ({"GLIBC_TUNABLES": "glibc.rtld.nns=4"}, False)]
)
def test_large_tensors_use_freed_memory_again_unless_the_user_tuned_it(tuned, kept):
    chosen = ("LD_PRELOAD", "GLIBC_TUNABLES")
    environment = {k: v for k, v in os.environ.items() if k not in chosen and not k.startswith("MALLOC_")} | tuned
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    faults, told = done.stdout.split()
    assert told == str(kept)
    pages = 5 * 64 // 2  # of the largest size, 2 MB; usually they have 4 kB
    assert int(faults) < pages / 5 if kept else int(faults) >= pages


def test_whoever_does_not_train_keeps_nothing():
    assert not any("freed memory" in reason for reason in setup_device("cpu", "fp32").reasons)


@pytest.mark.parametrize(("channels", "layout"), [(8, torch.contiguous_format), (16, torch.channels_last)])
def test_few_channels_keep_their_layout(channels, layout):
    placed = setup_device("cpu", "fp32").place(ResNet18(base=channels))
    assert placed.layer1[0].conv1.weight.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_narrow_network_learns_from_one_picture_without_crashing(precision):
    """In a process of its own: in channels-last layout it was aborted, or died of a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", ONE_PICTURE.format(precision=precision)], cwd=ROOT)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("capability", "kernels", "runs"),
    [
        ((7, 5), ["sm_75", "sm_80"], True),
        ((8, 6), ["sm_80"], True),  # a later minor version of the same major one
        ((8, 0), ["sm_86"], False),
        ((6, 1), ["sm_75", "sm_80", "compute_90"], False),  # a Pascal card with a recent PyTorch
        ((9, 0), ["sm_80"], False),
        ((12, 0), ["sm_80", "compute_90"], True),  # the driver translates
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_100"], True),
        ((9, 0), ["gfx900", "gfx90a", "gfx1100"], False),  # AMD's names
        ((9, 0), ["gfx900", "sm_90"], True),
    ],
)
def test_which_gpus_have_kernels(capability, kernels, runs):
    assert has_kernels(capability, kernels) == runs


def test_a_gpu_without_kernels_falls_back_to_the_processor_with_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (3, 7))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90", "compute_90"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla K80")
    runtime = setup_device("auto", "fp32")
    assert runtime.device.type == "cpu"
    assert "no kernels for Tesla K80 (compute capability 3.7), only sm_75, sm_90, compute_90" in runtime.reasons[0]
    assert not has_gpu("auto") and has_gpu("cuda")


def test_a_gpu_of_amd_is_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["gfx900", "gfx90a", "gfx1100"])
    monkeypatch.setattr(torch.version, "hip", "6.3")
    assert why_no_gpu() is None and has_gpu("auto")


def test_more_processes_than_gpus_is_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match="3 processes need a GPU each, and there are 2: start 2"):
        setup_device("cuda", "fp32")


def test_the_records_say_how_many_processes_there_are(monkeypatch):
    runtime = setup_device("cpu", "fp32")
    assert "process" not in runtime.describe()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert runtime.describe().endswith(", fp32, 2 processes")


class OnAppleGpu(torch.Tensor):
    """Stands in for a tensor on an Apple GPU, which has no float64; what is made of it is there, too."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")


@pytest.mark.parametrize(
    "measured", [lambda faces: faces.pixel_statistics(), lambda faces: sign_shares(faces.labels, faces.vad).tolist()]
)
def test_what_is_measured_before_training_makes_no_float64_on_an_apple_gpu(measured):
    faces = Faces(torch.arange(7)[:, None, None].expand(7, 48, 48).byte(), torch.arange(7), torch.ones(7, 3))
    there = Faces(*(values.as_subclass(OnAppleGpu) for values in (faces.images, faces.labels, faces.vad)))
    assert measured(there) == measured(faces)


def test_an_apple_gpu_that_is_not_there_is_a_sentence():
    if torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match="--device mps: this PyTorch finds no Apple GPU"):
        setup_device("mps")


def make_learner(precision="fp16"):
    torch.manual_seed(0)
    recipe = replace(RECIPES["demo"], learning_rate=0.1, consistency=0.0)
    runtime = setup_device("cpu", precision, "off")
    tasks, tables, pixels = ("classify", "regressV"), {}, {"mean": 0.5, "std": 0.25}
    return MultiTaskLearner(MultiTask(tasks, base=16), tasks, recipe, tables, pixels, runtime)


def weights_of(learner):
    return torch.cat([value.detach().flatten() for value in learner.model.parameters()])


def test_a_step_in_fp16_is_that_of_fp32_and_one_that_overflows_is_left_out():
    generator = torch.Generator().manual_seed(1)
    batch = (
        torch.randn(8, 1, 44, 44, generator=generator),
        torch.arange(8) % 7,
        torch.randn(8, 3, generator=generator),
        None,
    )
    steps = {}
    for precision in ("fp16", "fp32"):
        learner = make_learner()
        learner.runtime = replace(learner.runtime, precision=precision)
        learner.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=precision == "fp16")
        before = weights_of(learner)
        learner.model.train()
        learner.step(batch, 50, 100)
        steps[precision] = weights_of(learner) - before
    similarity = torch.nn.functional.cosine_similarity(steps["fp16"], steps["fp32"], dim=0)
    assert similarity > 0.99 and steps["fp16"].norm() / steps["fp32"].norm() == pytest.approx(1, abs=0.05)

    learner = make_learner()
    learner.model.train()
    learner.step(batch, 0, 100)
    before, scale = weights_of(learner), learner.scaler.get_scale()
    broken = (torch.full_like(batch[0], float("inf")), *batch[1:])
    learner.step(broken, 1, 100)
    assert torch.equal(weights_of(learner), before) and learner.scaler.get_scale() == scale / 2
    again = make_learner()
    again.load_state_dict(learner.state_dict())
    assert again.scaler.get_scale() == scale / 2


@pytest.mark.parametrize(("before", "after"), [("fp32", "fp16"), ("bf16", "fp16"), ("fp16", "fp32"), ("fp16", "fp16")])
def test_a_run_can_go_on_in_another_precision(before, after):
    earlier, later = make_learner(before), make_learner(after)
    with torch.no_grad():
        earlier.model.heads["classify"].bias.fill_(3)
    later.load_state_dict(earlier.state_dict())
    assert torch.equal(weights_of(later), weights_of(earlier))
    assert later.scaler.is_enabled() == (after == "fp16")


def test_running_out_of_memory_while_evaluating_is_a_sentence():
    def network(pixels):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    runtime = setup_device("cpu", "fp32", "off")
    with pytest.raises(UserError, match="Memory ran out while faces were evaluated"):
        predict(network, torch.zeros(2, 48, 48, dtype=torch.uint8), {"mean": 0.5, "std": 0.25}, runtime)
