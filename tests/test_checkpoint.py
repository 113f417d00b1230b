"""Checkpoints load safely or are refused with a sentence."""

import os
import zipfile

import numpy as np
import pytest
import torch

from benchmarks.references import ThreeChannelNet
from models import checkpoint
from models.multitask import MultiTask
from utils.files import UserError

FACES = torch.rand(3, 1, 44, 44, generator=torch.Generator().manual_seed(0))


def save(path, tasks=("classify", "regressV")):
    """Write the checkpoint of a narrow network; returns the network."""
    torch.manual_seed(0)
    model = MultiTask(tasks, base=8).eval()
    torch.nn.init.normal_(model.heads["regressV"].weight)
    pixels = {"mean": 0.5, "std": 0.25}
    description = {"model": "Narrow", "preprocessing": pixels, "dataset": "FER2013"}
    content = checkpoint.task_checkpoint(model, tasks[0], 3, {"epoch": 3}, description)
    checkpoint.save(path, content)
    return model


def test_a_saved_network_predicts_the_same_after_loading_and_has_equal_bytes(tmp_path):
    model = save(tmp_path / "a.t7")
    save(tmp_path / "b.t7")
    assert (tmp_path / "a.t7").read_bytes() == (tmp_path / "b.t7").read_bytes()
    loaded, content = checkpoint.load_model(tmp_path / "a.t7")
    assert content["tasks"] == ["classify", "regressV"] and content["epoch"] == 3
    with torch.no_grad():
        expected, found = model(FACES), loaded(FACES)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


class Trap:
    """Unpickling it would create the folder it names."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_refused_and_not_executed(tmp_path):
    torch.save({"net": {}, "trap": Trap(tmp_path / "executed")}, tmp_path / "evil.t7")
    with pytest.raises(UserError, match=r"evil\.t7.*code"):
        checkpoint.load(tmp_path / "evil.t7")
    assert not (tmp_path / "executed").exists()


CHANGES = {
    "no network": lambda content: content.pop("net"),
    "no preprocessing": lambda content: content.pop("preprocessing"),
    "no deviation": lambda content: content["preprocessing"].update(std=0.0),
    "unknown": lambda content: content.update(model="Other"),
    "weights that are missing": lambda content: content["net"].popitem(),
    "no dict": lambda content: [content],
    "nothing": lambda content: b"",
    "a tenth": lambda content: 0.1,
    "nearly all": lambda content: 0.999,
    "no archive": lambda content: b"PK\x03\x04 nor a zip",
    "bytes": lambda content: bytes(range(256)) * 9,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_other_files_are_refused_by_name(tmp_path, change):
    path = tmp_path / "a.t7"
    save(path)
    content = checkpoint.load(path)
    changed = change(content)
    if isinstance(changed, float):
        whole = path.read_bytes()
        changed = whole[: int(len(whole) * changed)]
    if isinstance(changed, bytes):
        path.write_bytes(changed)
    else:
        torch.save(changed if isinstance(changed, list) else content, path)
    with pytest.raises(UserError, match=r"a\.t7.*train anew"):
        checkpoint.load_model(path)


def test_a_missing_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"a\.t7.*Train first"):
        checkpoint.load(tmp_path / "a.t7")


@pytest.mark.parametrize("prefix", ["", "module."])  # as saved from DataParallel
@pytest.mark.parametrize(("task", "outputs"), [("classify", 7), ("regressD", 1)])
def test_the_original_projects_file_predicts_the_same(tmp_path, prefix, task, outputs):
    torch.manual_seed(0)
    original = ThreeChannelNet(outputs)
    original(torch.rand(8, 3, 44, 44))  # so that the running statistics are not the initial ones
    original.eval()
    state = {prefix + name: value for name, value in original.state_dict().items()}
    torch.save({"net": state, "acc": 0.5, "epoch": 7}, tmp_path / "original.t7")
    if outputs == 1:
        with pytest.raises(UserError, match="say which of V, A, D"):
            checkpoint.load_model(tmp_path / "original.t7")
    model, content = checkpoint.load_model(tmp_path / "original.t7", task=task)
    assert content["preprocessing"] == {"mean": 0.0, "std": 1.0} and content["tasks"] == [task]
    with torch.no_grad():
        expected = original(FACES.expand(-1, 3, -1, -1))
        assert torch.allclose(model(FACES)[task], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "number", [np.float64(71.5), np.float32(71.5), np.int64(71), np.bool_(True)]
)
def test_a_number_of_numpy_in_a_file_does_no_harm(tmp_path, number):
    path = tmp_path / "original.t7"
    torch.save({"net": ThreeChannelNet(1).state_dict(), "best": number}, path)
    assert checkpoint.load_model(path, task="regressV")[1]["best"] == number
    rename_in_pickle(path, b"numpy._core.multiarray", b"numpy.core.multiarray")  # of NumPy 1
    assert checkpoint.load(path)["best"] == number


def rename_in_pickle(path, old, new):
    """Write the archive anew with another name of a module in its pickle."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            assert not name.endswith("data.pkl") or old in content
            content = content.replace(old, new) if name.endswith("data.pkl") else content
            archive.writestr(name, content)


def test_a_full_disk_is_told_and_leaves_the_earlier_file(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "a.t7", {"net": {}, "epoch": 1})

    def full(content, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"a\.t7.*No space left.*--resume"):
        checkpoint.save(tmp_path / "a.t7", {"net": {}, "epoch": 2})
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "a.t7")["epoch"] == 1
