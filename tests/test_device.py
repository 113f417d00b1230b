"""Which device, precision and layout are taken, and why; another precision when a run goes on."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from data.faces import Faces
from models.multitask import MultiTask
from tests.conftest import ROOT
from training.config import RECIPES
from training.device import has_gpu, setup_device
from training.learner import MultiTaskLearner
from training.losses import constraint_table
from utils.files import UserError

ONE_PICTURE = """
import torch
from models.resnet import ResNet18
from training.device import setup_device

torch.set_num_threads(2)
for precision in ("fp32", "bf16"):
    runtime = setup_device("cpu", precision)
    for _ in range(12):
        network = runtime.place(ResNet18(base=8))
        for size in (44, 48):
            pictures = torch.randn(1 if size == 44 else 2, 1, size, size)
            with runtime.autocast():
                loss = network(pictures).float().square().sum()
            loss.backward()
"""


def test_a_narrow_network_learns_from_one_picture_without_crashing():
    """In channels-last layout it was aborted, or died of a segmentation fault."""
    assert subprocess.run([sys.executable, "-c", ONE_PICTURE], cwd=ROOT).returncode == 0


def test_a_gpu_that_does_not_work_is_said_and_the_processor_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla K80")
    ones = torch.ones

    def refuse(*shape, **options):
        if options.get("device") == "cuda":
            raise RuntimeError("CUDA error: no kernel image is available")
        return ones(*shape, **options)

    monkeypatch.setattr(torch, "ones", refuse)
    runtime = setup_device("auto", "fp32")
    assert runtime.device.type == "cpu"
    assert "Tesla K80" in runtime.reasons[0] and "no kernel image" in runtime.reasons[0]
    assert not has_gpu("auto") and has_gpu("cuda")
    monkeypatch.setattr(torch, "ones", lambda *shape, **options: ones(*shape))
    assert has_gpu("auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_gpu_without_a_pytorch_for_it_is_said_with_the_command_that_helps(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "pip install" in setup_device("auto", "fp32").reasons[0]
    with pytest.raises(UserError, match="pip install.*--device cpu"):
        setup_device("cuda")


def test_more_processes_than_gpus_is_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match="start 2"):
        setup_device("cuda", "fp32")


def test_the_records_say_how_many_processes_there_are(monkeypatch):
    runtime = setup_device("cpu", "fp32")
    assert "process" not in runtime.describe()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert runtime.describe().endswith(", fp32, 2 processes")


def test_an_apple_gpu_that_is_not_there_is_a_sentence():
    if not torch.backends.mps.is_available():
        with pytest.raises(UserError, match="--device cpu"):
            setup_device("mps")


class OnAppleGpu(torch.Tensor):
    """Stands in for a tensor on an Apple GPU, which has no float64; so does what is made of it."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")


@pytest.mark.parametrize(
    "measured",
    [
        lambda faces: faces.pixel_statistics(),
        lambda faces: constraint_table("table", faces.labels, faces.vad).tolist(),
    ],
)
def test_what_is_measured_before_training_makes_no_float64_on_an_apple_gpu(measured):
    images = torch.arange(7)[:, None, None].expand(7, 48, 48).byte()
    tensors = images, torch.arange(7), torch.ones(7, 3)
    there = Faces(*(values.as_subclass(OnAppleGpu) for values in tensors))
    assert measured(there) == measured(Faces(*tensors))


def make_learner(precision="fp32"):
    torch.manual_seed(0)
    recipe = replace(RECIPES["demo"], learning_rate=0.1, consistency=0.0)
    model = MultiTask(("classify", "regressV"), base=16)
    faces = Faces(torch.zeros(8, 48, 48, dtype=torch.uint8), torch.arange(8) % 7, None)
    return MultiTaskLearner(model, recipe, faces, 0, setup_device("cpu", precision))


def weights_of(learner):
    return torch.cat([value.detach().flatten() for value in learner.model.parameters()])


def test_a_step_in_fp16_is_that_of_fp32_and_one_that_overflows_is_left_out():
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(8, 1, 44, 44, generator=generator)
    others = torch.arange(8) % 7, torch.randn(8, 3, generator=generator), None
    steps = {}
    for precision in ("fp16", "fp32"):
        learner = make_learner(precision)
        learner.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=precision == "fp16")
        before = weights_of(learner)
        learner.model.train()
        learner.step((pictures, *others), 50, 100)
        steps[precision] = weights_of(learner) - before
    half, single = steps.values()
    assert torch.nn.functional.cosine_similarity(half, single, dim=0) > 0.99
    assert half.norm() / single.norm() == pytest.approx(1, abs=0.05)

    learner = make_learner("fp16")
    learner.model.train()
    learner.step((pictures, *others), 0, 100)
    before, scale = weights_of(learner), learner.scaler.get_scale()
    learner.step((torch.full_like(pictures, float("inf")), *others), 1, 100)
    assert torch.equal(weights_of(learner), before) and learner.scaler.get_scale() == scale / 2
    again = make_learner("fp16")
    again.load_state_dict(learner.state_dict())
    assert again.scaler.get_scale() == scale / 2


@pytest.mark.parametrize(
    ("before", "after"), [("fp32", "fp16"), ("bf16", "fp16"), ("fp16", "fp32"), ("fp16", "fp16")]
)
def test_a_run_can_go_on_in_another_precision(before, after):
    earlier, later = make_learner(before), make_learner(after)
    with torch.no_grad():
        earlier.model.heads["classify"].bias.fill_(3)
    later.load_state_dict(earlier.state_dict())
    assert torch.equal(weights_of(later), weights_of(earlier))
    assert later.scaler.is_enabled() == (after == "fp16")
