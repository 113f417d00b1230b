"""What `decide` changes in the process: memory that large tensors use again."""

import os
import platform
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from data.faces import Faces
from models.resnet import ResNet18
from tests.conftest import ROOT
from training.runtime import Runtime, decide

FAULTS = """
import resource
import torch
from training.runtime import decide

def count():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

reasons = decide("cpu", "fp32", training=True).reasons
for _ in range(4):
    count()  # until the pieces that alignment leaves fit together
print(count(), any("freed memory" in reason for reason in reasons))
"""

ONE_PICTURE = """
import torch
from models.resnet import ResNet18
from training.runtime import decide

runtime = decide("cpu", "{precision}")
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
    assert not any("freed memory" in reason for reason in decide("cpu", "fp32").reasons)


@pytest.mark.parametrize(("channels", "layout"), [(8, torch.contiguous_format), (16, torch.channels_last)])
def test_few_channels_keep_their_layout(channels, layout):
    placed = decide("cpu", "fp32").place(ResNet18(base=channels))
    assert placed.layer1[0].conv1.weight.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_narrow_network_learns_from_one_picture_without_crashing(precision):
    """In a process of its own: in channels-last layout it was aborted, or died of a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", ONE_PICTURE.format(precision=precision)], cwd=ROOT)
    assert done.returncode == 0


@pytest.mark.parametrize(("free", "device"), [(10**9, "meta"), (100_000, "cpu")])
def test_faces_stay_in_host_memory_when_the_gpu_is_full(monkeypatch, free, device):
    faces = Faces(torch.zeros(40, 48, 48, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64), None)
    runtime = Runtime(SimpleNamespace(type="cuda"), "fp32", False, 1, ())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(Faces, "to", lambda self, device: replace(self, images=self.images.to("meta")))
    splits, reason = runtime.keep({"Training": faces})
    assert splits["Training"].images.device.type == device
    assert ("host" in reason) == (device == "cpu")
