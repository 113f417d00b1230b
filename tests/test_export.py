"""inference.export: what is exported gives what the network gives."""

import hashlib
import json
import sys

import numpy as np
import pytest
import torch

from data.batches import normalise
from inference import export
from models import checkpoint
from tests.harness import PREPROCESSING, make_model, run_module, save_checkpoints
from utils.files import UserError
from utils.tasks import EMOTIONS, TASKS

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of two networks, and emotion.onnx of them."""
    folder = tmp_path_factory.mktemp("export")
    save_checkpoints(folder, make_model(), temperature=2.0)
    save_checkpoints(folder, make_model(seed=1), ["regressA"])
    assert run_module(export, "--checkpoints", folder, "--out", folder / "emotion.onnx") == 0
    return folder


def open_session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_onnx_gives_what_the_network_gives(folder):
    session = open_session(folder / "emotion.onnx")
    crops = torch.randint(0, 256, (5, 1, 44, 44)).float()
    probabilities, vad = session.run(None, {"crops": crops.numpy()})
    pixels = normalise(crops.clone(), **PREPROCESSING)
    with torch.no_grad():
        first, second = (make_model(seed)(pixels) for seed in (0, 1))
    assert np.allclose(probabilities, (first["classify"] / 2).softmax(1), atol=1e-4)
    expected = torch.cat([first["regressV"], second["regressA"], first["regressD"]], 1)
    assert np.allclose(vad, expected, atol=1e-3)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["emotions"]) == list(EMOTIONS) and "0..255" in metadata["input"]
    assert json.loads(metadata["dimensions"]) == ["Valence", "Arousal", "Dominance"]


def test_a_checkpoint_in_half_precision_predicts_the_same(folder, tmp_path, capsys):
    source, target = folder / TASKS["classify"].checkpoint("PrivateTest"), tmp_path / "new" / "a.t7"
    assert run_module(export, "--checkpoints", source, "--out", target) == 0
    assert hashlib.sha256(target.read_bytes()).hexdigest() in capsys.readouterr().out
    assert target.stat().st_size < 0.65 * source.stat().st_size
    before, _ = checkpoint.load_model(source)
    after, content = checkpoint.load_model(target)
    faces = torch.randn(4, 1, 44, 44)
    assert torch.allclose(after(faces)["classify"], before(faces)["classify"], atol=0.05)
    assert content["preprocessing"] == PREPROCESSING and content["temperature"] == 2


def test_what_cannot_be_exported_is_said(folder, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_module(export, "--checkpoints", folder, "--out", folder / "emotion.onnx")
    assert stopped.value.code == 2 and "emotion.onnx" in capsys.readouterr().err
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "emotion.onnx"
    with pytest.raises(UserError, match="--checkpoints"):
        run_module(export, "--out", tmp_path / "new.t7")
    with pytest.raises(UserError, match=r"emotion\.onnx"):
        run_module(export, "--checkpoints", folder, "--out", below)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="pip install onnx"):
        run_module(export, "--checkpoints", folder, "--out", tmp_path / "new.onnx")
