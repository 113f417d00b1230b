"""Checkpoints load safely or are refused with a sentence."""

import os
import zipfile

import numpy as np
import pytest
import torch

from benchmarks.references import ThreeChannelNet
from inference.networks import load_networks
from models import checkpoint
from models.multitask import MultiTask
from utils.files import UserError


class Trap:
    """Unpickling it would create the file it names."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def good(tasks=("classify",)):
    model = MultiTask(tasks)
    description = {"model": "ResNet18RegressionTwoOutputs", "preprocessing": {"mean": 0.5, "std": 0.25}}
    return checkpoint.task_checkpoint(model, tasks[0], 3, {"epoch": 3}, description)


def test_a_saved_network_predicts_the_same_after_loading(tmp_path):
    torch.manual_seed(0)
    model = MultiTask(("classify", "regressV")).eval()
    description = {"model": "ResNet18RegressionTwoOutputs", "preprocessing": {"mean": 0.5, "std": 0.25}}
    content = checkpoint.task_checkpoint(model, "regressV", 0, {}, description)
    checkpoint.save(tmp_path / "a.t7", content)
    loaded, content = checkpoint.load_model(tmp_path / "a.t7")
    faces = torch.randn(2, 1, 44, 44)
    with torch.no_grad():
        expected, found = model(faces), loaded(faces)
    assert "regressV" in content["tasks"] and all(torch.equal(expected[name], found[name]) for name in expected)


def test_equal_content_gives_equal_bytes(tmp_path):
    content = good()
    for name in ("a.t7", "b.t7"):
        checkpoint.save(tmp_path / name, content)
    assert (tmp_path / "a.t7").read_bytes() == (tmp_path / "b.t7").read_bytes()


def test_code_in_a_checkpoint_is_refused_and_not_executed(tmp_path):
    torch.save({"net": {}, "trap": Trap(tmp_path / "executed")}, tmp_path / "evil.t7")
    with pytest.raises(UserError, match="could execute code"):
        checkpoint.load(tmp_path / "evil.t7")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 nor a zip", bytes(range(256)) * 9])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.t7").write_bytes(content)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path / "a.t7")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path, share):
    checkpoint.save(tmp_path / "a.t7", good())
    whole = (tmp_path / "a.t7").read_bytes()
    (tmp_path / "a.t7").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"a\.t7"):
        checkpoint.load_model(tmp_path / "a.t7")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.pop("net"), "holds no network"),
        (lambda c: c.pop("preprocessing"), "lacks preprocessing"),
        (lambda c: c.update(model="Other"), "Other, which is unknown"),
        (lambda c: c["net"].pop("heads.classify.bias"), "do not fit"),
    ],
)
def test_a_checkpoint_that_does_not_fit_says_why(tmp_path, change, told):
    content = good()
    change(content)
    torch.save(content, tmp_path / "a.t7")
    with pytest.raises(UserError, match=told):
        checkpoint.load_model(tmp_path / "a.t7")


def test_a_missing_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="does not exist. Train first"):
        checkpoint.load(tmp_path / "a.t7")


@pytest.mark.parametrize("prefix", ["", "module."])  # as saved from DataParallel
def test_the_original_projects_file_loads_from_disk(tmp_path, prefix):
    original = ThreeChannelNet(1).eval()
    state = {prefix + name: value for name, value in original.state_dict().items()}
    torch.save({"net": state, "acc": 0.5, "epoch": 7}, tmp_path / "original.t7")
    with pytest.raises(UserError, match="say which of V, A, D"):
        checkpoint.load_model(tmp_path / "original.t7")
    model, content = checkpoint.load_model(tmp_path / "original.t7", task="regressD")
    assert content["preprocessing"] == {"mean": 0.0, "std": 1.0} and content["tasks"] == ["regressD"]
    faces = torch.rand(2, 1, 44, 44)
    with torch.no_grad():
        assert torch.allclose(model(faces)["regressD"], original(faces.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [np.float64(71.5), np.float32(71.5), np.int64(71), np.bool_(True)])
def test_a_number_of_numpy_in_a_file_does_no_harm(tmp_path, number):
    torch.save({"net": ThreeChannelNet(1).state_dict(), "best": number}, tmp_path / "original.t7")
    _, content = checkpoint.load_model(tmp_path / "original.t7", task="regressV")
    assert content["best"] == number
    packed = (tmp_path / "original.t7").read_bytes()
    (tmp_path / "of_numpy_1.t7").write_bytes(packed)
    rename_in_pickle(tmp_path / "of_numpy_1.t7", b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert checkpoint.load(tmp_path / "of_numpy_1.t7")["best"] == number


def rename_in_pickle(path, old, new):
    """Write the archive anew with another name of a module in its pickle."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            assert not name.endswith("data.pkl") or old in content
            archive.writestr(name, content.replace(old, new) if name.endswith("data.pkl") else content)


def write_original(folder, names):
    """Files of the original project; {file name: network}."""
    networks = {}
    for number, name in enumerate(names):
        torch.manual_seed(number)
        networks[name] = ThreeChannelNet(7 if "lassify" in name else 1).eval()
        folder.mkdir(exist_ok=True)
        torch.save({"net": networks[name].state_dict(), "best": np.float64(60.0), "epoch": 3}, folder / name)
    return networks


@pytest.mark.parametrize("given", ["FER2013_ResNet18RegressionTwoOutputs", "FER2013_Resnet18"])
def test_the_original_projects_two_folders_are_found_from_either(tmp_path, given, capsys):
    vad = {f"PrivateTest_model_private{letter}.t7": f"regress{letter}" for letter in "VAD"}
    networks = write_original(tmp_path / "FER2013_ResNet18RegressionTwoOutputs", vad)
    networks |= write_original(tmp_path / "FER2013_Resnet18", ["PublicTest_model_classify.t7"])
    found = load_networks(tmp_path / given)
    faces = torch.rand(2, 1, 44, 44)
    outputs = {}
    with torch.no_grad():
        for network in found:
            outputs |= {task: network.model(faces)[task] for task in network.tasks}
        for name, original in networks.items():
            expected = original(faces.expand(-1, 3, -1, -1))
            assert torch.allclose(outputs[vad.get(name, "classify")], expected, rtol=1e-4, atol=1e-5), name
    assert "classify: by" in capsys.readouterr().out or given == "FER2013_Resnet18"


def test_where_the_originals_classifier_is_missing_it_is_said_what_to_give(tmp_path):
    write_original(tmp_path / "FER2013_ResNet18RegressionTwoOutputs", ["PrivateTest_model_privateV.t7"])
    with pytest.raises(UserError, match="FER2013_Resnet18: put it beside"):
        load_networks(tmp_path / "FER2013_ResNet18RegressionTwoOutputs")


def test_a_full_disk_is_told_and_leaves_the_earlier_file(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "a.t7", {"net": {}, "epoch": 1})

    def full(content, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="No space left on device.*--resume"):
        checkpoint.save(tmp_path / "a.t7", {"net": {}, "epoch": 2})
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "a.t7")["epoch"] == 1
