"""EmotionRecognizer from Python: what it accepts, what it tells, what it leaves alone; trust and heat maps."""

import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from data.batches import center_crop, normalise
from data.demo.drawing import draw_face
from inference.checkpoints import load_networks, ready_to_predict
from inference.explain import heat_maps
from inference.videos import results
from inference.videos.detector import Box
from inference.videos.recognizer import EmotionRecognizer, Face, as_picture
from models import checkpoint
from tests.conftest import ROOT
from tests.test_pictures import COLOUR, GREY, pasted
from tests.test_visualize import PREPROCESSING, make_model, save
from training.device import select_device
from utils.files import UserError
from utils.tasks import EMOTIONS, TASKS


def test_every_kind_of_picture_means_the_same(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    opaque = np.dstack([COLOUR, np.full((20, 30), 255, np.uint8)])
    kinds = [str(tmp_path / "a.png"), tmp_path / "a.png", Image.open(tmp_path / "a.png"), COLOUR, opaque]
    kinds.append(Image.fromarray(opaque))
    for kind in kinds:
        assert np.array_equal(as_picture(kind), COLOUR)
    for kind in (COLOUR[:, :, ::-1], opaque[:, :, [2, 1, 0, 3]]):
        assert np.array_equal(as_picture(kind, bgr=True), COLOUR)
    assert np.array_equal(as_picture(cv2.imread(str(tmp_path / "a.png")), bgr=True), COLOUR)
    for kind in (GREY, GREY[:, :, None]):
        assert np.array_equal(as_picture(kind), GREY) and np.array_equal(as_picture(kind, bgr=True), GREY)
    clear = np.dstack([COLOUR, np.zeros((20, 30), np.uint8)])
    assert (as_picture(clear) == 255).all()


@pytest.mark.parametrize(
    ("thing", "told"),
    [
        (None, "cv2.imread gives"),
        (COLOUR.astype(np.float32), "An array of float32"),
        (COLOUR.astype(np.uint16), "An array of uint16"),
        (torch.zeros(3, 20, 30), "A tensor of float32"),
        (COLOUR.transpose(2, 0, 1), r"shape \(3, 20, 30\)"),
        (np.zeros((2, 20, 30, 3), np.uint8), r"shape \(2, 20, 30, 3\)"),
        (np.zeros((0, 30), np.uint8), r"shape \(0, 30\)"),
        (17, "A int is no picture"),
        (b"bytes", "A bytes is no picture"),
    ],
)
def test_what_is_no_picture_is_told_in_a_sentence(recognizer, thing, told):
    for given in (thing, [COLOUR, thing]):
        with pytest.raises(UserError, match=told) as error:
            recognizer.recognize(given)
        assert "give the path of a picture" in str(error.value) and "\n" not in str(error.value)


def test_results_become_dictionaries_and_frames(recognizer):
    picture = pasted([(40, 60), (380, 180)], 160)
    faces = recognizer.recognize(picture)
    frame = faces.to_frame()
    assert len(frame) == 2 and list(frame["face"]) == [1, 2]
    assert set(faces[0].to_dict()) == set(frame.columns) - {"face"}
    for face, (_, row) in zip(faces, frame.iterrows(), strict=True):
        assert row["emotion"] == face.emotion and row["confidence"] == face.confidence >= 0.9
        assert row["Valence"] == face.valence and face.to_dict()["Happy"] == face.probabilities["Happy"]
    several = recognizer.recognize([picture, np.full((300, 400), 90, np.uint8), draw_face(1, (0, 0, 0), 9)]).to_frame()
    assert list(several["picture"]) == [0, 0, 2] and list(several["face"]) == [1, 2, 1]
    assert recognizer.recognize(np.full((300, 400), 90, np.uint8)).to_frame().empty


PROGRAM = """
import os, sys, cv2, torch, torch.distributed
os.environ.update(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                  MASTER_PORT="29999")
torch.set_num_threads(3)
torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True

def state():
    flags = torch.backends.cudnn
    return (torch.get_num_threads(), flags.benchmark, flags.deterministic, flags.allow_tf32, sys.stdout,
            torch.backends.cuda.matmul.allow_tf32, torch.distributed.is_initialized(), cv2.getNumThreads(),
            torch.get_rng_state().sum().item(), torch.is_grad_enabled(), os.environ.copy(),
            torch.tensor([1e-310], dtype=torch.float64).mul(1).item())

before = state()
from visualize import EmotionRecognizer
recognizer = EmotionRecognizer(device="cpu", precision="fp32", crops="center", explain=True)
recognizer.recognize("data/sample.png")
assert state() == before, (before, state())
print("unchanged")
"""


def test_nothing_in_the_process_changes():
    """Threads, flags, process group, random numbers, denormals, stdout: also where torchrun's variables are set."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "unchanged\n", done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("every", [0, -2])
def test_a_count_of_frames_that_is_none_is_told(recognizer, every):
    with pytest.raises(UserError, match=f"every={every} is no count of frames: give a whole number from 1"):
        recognizer.recognize_video("talk.mp4", every=every)


def face_of(probabilities, confidence=0.999):
    return Face(Box(0, 0, 9, confidence=confidence), dict(zip(EMOTIONS, probabilities, strict=True)), 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("probabilities", "confidence", "unsure"),
    [
        ([0.5, 0.4, 0.1, 0, 0, 0, 0], 0.999, True),
        ([0.6, 0.3, 0.1, 0, 0, 0, 0], 0.999, False),
        ([0.9, 0.1, 0, 0, 0, 0, 0], 0.92, True),
        ([0.9, 0.1, 0, 0, 0, 0, 0], None, False),
        ([1 / 7] * 7, None, True),
    ],
)
def test_a_face_is_unsure_where_two_are_close_or_it_is_hardly_one(probabilities, confidence, unsure):
    face = face_of(probabilities, confidence)
    assert face.unsure == unsure == face.to_dict()["unsure"]


def test_probabilities_are_calibrated_by_the_checkpoint(tmp_path, recognizer):
    file = save(tmp_path, make_model(), ["classify"]) / TASKS["classify"].checkpoint("PrivateTest")
    checkpoint.save(file, {**checkpoint.load(file), "temperature": 2.5})
    picture = draw_face(3, (1, 1, 1), 5)
    (plain,), (calibrated,) = (
        recognizer.recognize(picture),
        EmotionRecognizer(file, device="cpu", precision="fp32").recognize(picture),
    )
    expected = (torch.tensor(list(plain.probabilities.values())).double().log() / 2.5).softmax(0)
    assert list(calibrated.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-4)
    assert calibrated.emotion == plain.emotion and calibrated.valence == pytest.approx(plain.valence, abs=1e-4)


@pytest.mark.parametrize("sharing", ["trunk", "none"])
def test_heat_is_grad_cam(tmp_path, sharing):
    """Against the plain formula, whose gradients take a way of their own: the map is a leaf before the head."""
    model = make_model(sharing=sharing)
    networks = ready_to_predict(load_networks(save(tmp_path, model)), select_device("cpu", "fp32"))
    faces = torch.from_numpy(np.stack([draw_face(k, (0, 0, 0), k) for k in (3, 5)]))
    found = heat_maps(networks, faces, torch.tensor([3, 5]), select_device("cpu", "fp32"))
    trunk = model.trunks["shared" if sharing == "trunk" else "classify"]
    for number, emotion in enumerate((3, 5)):
        pixels = normalise(center_crop(faces[number : number + 1]), **PREPROCESSING)
        with torch.no_grad():
            maps = F.relu(trunk.bn1(trunk.conv1(pixels)))
            for layer in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
                maps = layer(maps)
        maps.requires_grad_()
        model.heads["classify"](maps.mean((2, 3)))[0, emotion].backward()
        heat = sum(maps.grad[0, channel].mean() * maps[0, channel] for channel in range(maps.shape[1])).detach().relu()
        heat = F.interpolate(heat[None, None], size=(44, 44), mode="bilinear")[0, 0]
        expected = np.pad((heat / heat.max().clamp(min=1e-12)).numpy(), 2)
        assert found[number].shape == (48, 48) and np.allclose(found[number], expected, atol=1e-3)


def test_a_recognizer_explains_only_when_asked(checkpoints, recognizer):
    picture = draw_face(3, (1, 1, 1), 5)
    assert recognizer.recognize(picture)[0].heat is None
    (face,) = EmotionRecognizer(checkpoints, device="cpu", precision="fp32", explain=True).recognize(picture)
    assert face.heat.shape == (48, 48) and 0 <= face.heat.min() <= face.heat.max() <= 1
    assert np.array_equal(face.crop, picture)


def test_a_row_has_the_columns_of_the_table():
    face = face_of([0.9, 0.1, 0, 0, 0, 0, 0])
    assert set(results.row("film", 1, face)) == set(results.COLUMNS)
    turned = replace(face, box=Box(0, 0, 9, 30.0, 0.99))
    assert set(results.row("film", 1, turned, 3, 0.1, face)) == set(results.VIDEO_COLUMNS)
