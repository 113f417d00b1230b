"""inference.synthesize: a grid of faces with other expressions."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from data.demo.drawing import draw_face
from inference import synthesize
from inference.detection import FaceDetector, crop_faces
from inference.synthesize import FaceSynthesizer
from models import MODELS, checkpoint
from models.fersnet import FERSNet
from tests.conftest import ROOT
from tests.harness import run_module
from utils.files import UserError
from utils.images import read_image, to_grey

CLASSES = ("Angry", "Contempt", "Disgust", "Fear", "Happy", "Sad", "Surprise")
SAMPLE = ROOT / "data" / "sample.png"


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setitem(MODELS, "FERSNet", partial(FERSNet, base=4))


def save(path, sharing="selective"):
    torch.manual_seed(0)
    network = FERSNet(sharing=sharing, base=4)
    content = {
        "net": network.state_dict(), "model": "FERSNet", "tasks": ["classify"], "sharing": sharing,
        "options": {"classes": 7, "size": 48, "kernel": 1}, "class_names": list(CLASSES),
        "dataset": "CK+", "preprocessing": {"mean": 0.0, "std": 1.0},
    }  # fmt: skip
    checkpoint.save(path, content)
    return network.eval()


def test_a_synthesizer_gives_what_its_network_gives(tmp_path):
    network = save(tmp_path / "Fold01_model_classify.t7")
    faces = np.stack([draw_face(number, (0, 0, 0), number) for number in range(3)])
    found = FaceSynthesizer(tmp_path, "cpu", "fp32").synthesize(faces, ("Happy", "Angry"))
    assert found.shape == (3, 2, 48, 48) and found.dtype == np.uint8
    pixels = torch.from_numpy(faces)[:, None].float() / 255
    for place, number in enumerate((4, 0)):
        with torch.no_grad():
            synthesized = network(pixels, torch.full((3,), number))["synthesized"][:, 0]
        difference = found[:, place].astype(float) - 255 * synthesized.clamp(0, 1).numpy()
        assert np.abs(difference).max() <= 0.51  # rounding


def test_every_face_of_a_photograph_gets_a_row(tmp_path, capsys):
    save(tmp_path / "model.t7")
    flags = ("--checkpoints", tmp_path / "model.t7", "--device", "cpu", "--precision", "fp32")
    out = tmp_path / "grid é.png"
    assert run_module(synthesize, SAMPLE, *flags, "--out", out, "--expressions", "sad") == 0
    assert str(out) in capsys.readouterr().out
    grey = to_grey(read_image(SAMPLE))
    faces = crop_faces(grey, FaceDetector().detect(grey), 48)
    assert len(faces) == 3
    sad = FaceSynthesizer(tmp_path / "model.t7", "cpu", "fp32").synthesize(faces, ("Sad",))[:, 0]
    grid = np.asarray(Image.open(out))
    for row in range(3):
        for column, face in enumerate((faces[row], sad[row])):
            top, left = 2 + 50 * row, 2 + 50 * column
            assert np.array_equal(grid[top : top + 48, left : left + 48], face)


def test_what_cannot_be_synthesized_is_refused(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        run_module(synthesize, SAMPLE, "--checkpoints", tmp_path)
    save(tmp_path / "alone.t7", "none")
    with pytest.raises(UserError, match=r"alone\.t7"):
        run_module(synthesize, SAMPLE, "--checkpoints", tmp_path / "alone.t7")
    save(tmp_path / "good.t7")
    flags = ("--checkpoints", tmp_path / "good.t7", "--out", tmp_path / "grid.png")
    with pytest.raises(UserError, match="Bored"):
        run_module(synthesize, SAMPLE, *flags, "--expressions", "bored")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"bad\.png"):
        run_module(synthesize, tmp_path / "bad.png", *flags)
    Image.new("L", (200, 200), 90).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match="No face"):
        run_module(synthesize, tmp_path / "empty.png", *flags)
    assert not (tmp_path / "grid.png").exists()
