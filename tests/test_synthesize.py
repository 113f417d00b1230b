"""`visualize.py --synthesize`: faces drawn with other expressions, as its user runs it."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import visualize
from data.demo.drawing import draw_face
from inference.synthesize import FaceSynthesizer
from models import MODELS, checkpoint
from models.fersnet import FERSNet
from tests.test_pictures import pasted
from utils.files import UserError

CLASSES = ("Angry", "Contempt", "Disgust", "Fear", "Happy", "Sad", "Surprise")


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setitem(MODELS, "FERSNet", partial(FERSNet, base=4))


def save(path, sharing="selective"):
    torch.manual_seed(0)
    network = FERSNet(sharing=sharing, base=4)
    content = {
        "net": network.state_dict(), "model": "FERSNet", "tasks": ["classify"], "sharing": sharing, "dataset": "CK+",
        "options": {"classes": 7, "size": 48, "kernel": 1}, "class_names": list(CLASSES),
        "preprocessing": {"mean": 0.0, "std": 1.0},
    }  # fmt: skip
    checkpoint.save(path, content)
    return network.eval()


def run(*arguments):
    flags = ["--device", "cpu", "--precision", "fp32", *arguments]
    return visualize.main(visualize.build_parser().parse_args([str(flag) for flag in flags]))


def test_what_is_drawn_is_what_the_network_draws(tmp_path):
    network = save(tmp_path / "Fold01_model_classify.t7")
    synthesizer = FaceSynthesizer(tmp_path, "cpu", "fp32")
    faces = np.stack([draw_face(number, (0, 0, 0), number) for number in range(3)])
    drawn = synthesizer.synthesize(faces, ("Happy", "Angry"))
    assert drawn.shape == (3, 2, 48, 48) and drawn.dtype == np.uint8
    pictures = torch.from_numpy(faces)[:, None].float() / 255
    for place, number in enumerate((4, 0)):
        with torch.no_grad():
            expected = 255 * network(pictures, torch.full((3,), number))["synthesized"][:, 0].clamp(0, 1)
        assert np.abs(drawn[:, place].astype(float) - expected.numpy()).max() <= 0.51  # rounding


def test_every_face_of_a_photograph_gets_a_row(tmp_path, capsys):
    save(tmp_path / "model.t7")
    photo = tmp_path / "two faces é.png"
    Image.fromarray(pasted([(40, 60), (380, 180)], 160)).save(photo)
    assert run(photo, "--synthesize", "all", "--checkpoints", tmp_path / "model.t7") == 0
    told = capsys.readouterr().out
    sheet = tmp_path / "two faces é_emotion_drawn.png"
    assert str(sheet) in told
    with Image.open(sheet) as picture:
        assert picture.width > 8 * 96 and picture.height > 2 * 96
    # Its own result is no input of the next run, and is written anew.
    assert run(tmp_path, "--synthesize", "happy", "SAD", "--checkpoints", tmp_path / "model.t7") == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [photo.name, sheet.name]


def test_one_face_is_drawn_with_the_expressions_that_were_asked_for(tmp_path):
    save(tmp_path / "Fold01_model_classify.t7")
    Image.fromarray(draw_face(3, (1, 1, 1), 0)).save(tmp_path / "face.png")
    assert run(tmp_path / "face.png", "--synthesize", "Fear", "--checkpoints", tmp_path, "--out", tmp_path / "out") == 0
    (sheet,) = (tmp_path / "out").iterdir()
    with Image.open(sheet) as picture:  # the face, and the one that was drawn
        assert 2 * 96 < picture.width < 4 * 96 < 4 * picture.height


def test_what_cannot_be_drawn_is_told(tmp_path, capsys):
    Image.fromarray(draw_face(3, (1, 1, 1), 0)).save(tmp_path / "face.png")
    flags = (tmp_path / "face.png", "--synthesize")
    with pytest.raises(UserError, match="no checkpoint of a FERSNet"):
        run(*flags, "all", "--checkpoints", tmp_path)
    save(tmp_path / "alone.t7", "none")
    with pytest.raises(UserError, match="holds no network that synthesizes"):
        run(*flags, "all", "--checkpoints", tmp_path / "alone.t7")
    save(tmp_path / "good.t7")
    with pytest.raises(UserError, match="bored is no expression that can be synthesized: all, or Angry, Contempt"):
        run(*flags, "bored", "--checkpoints", tmp_path / "good.t7")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert run(tmp_path / "bad.png", *flags, "all", "--checkpoints", tmp_path / "good.t7") == 1
    told = capsys.readouterr()
    assert "bad.png" in told.err and "face.png: 1 face" in told.out  # the good one was drawn all the same


def test_a_network_of_other_expressions_does_not_read_emotions(tmp_path):
    save(tmp_path / "model.t7")
    Image.fromarray(draw_face(3, (1, 1, 1), 0)).save(tmp_path / "face.png")
    with pytest.raises(UserError, match="knows other emotions"):
        run(tmp_path / "face.png", "--checkpoints", tmp_path / "model.t7")
