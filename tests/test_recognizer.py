"""EmotionRecognizer from Python: what it takes, what it gives, what it leaves alone."""

import subprocess
import sys
from functools import partial

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import inference.recognizer
from data.batches import center_crop, four_crop, normalise, ten_crop
from data.demo.drawing import draw_face
from inference import EmotionRecognizer, Face, to_frame
from inference.checkpoints import RELEASED, load_networks
from inference.detection import Box
from inference.output import COLUMNS, VIDEO_COLUMNS
from inference.recognizer import Result
from models import checkpoint
from tests.conftest import ROOT
from tests.harness import PREPROCESSING, make_model, paste_faces, save_checkpoints, write_faces
from utils.files import UserError
from utils.tasks import EMOTIONS, TASKS

FACE = draw_face(3, (1, 1, 1), 5)
WALL = np.full((300, 400), 90, np.uint8)
TWO = paste_faces([(40, 60), (380, 180)], 160)
CLASSIFY = TASKS["classify"].checkpoint("PrivateTest")
recognize_with = partial(EmotionRecognizer, device="cpu", precision="fp32")


def numbers(face):
    """All that is read in a face, (10,)."""
    return np.array([*face.probabilities.values(), *face.dimensions.values()])


@pytest.mark.parametrize(("crops", "make_crops"), [("fourcrop", four_crop), ("tencrop", ten_crop)])
def test_results_equal_the_network_on_its_crops(checkpoints, crops, make_crops):
    (face,) = recognize_with(checkpoints, crops=crops).recognize(FACE)
    views = make_crops(torch.from_numpy(FACE)[None])[0][:, None]
    with torch.no_grad():
        outputs = make_model()(normalise(views, **PREPROCESSING))
    probabilities = outputs.pop("classify").mean(0).softmax(0)
    expected = [*probabilities.tolist(), *(output.mean().item() for output in outputs.values())]
    assert numbers(face) == pytest.approx(expected, abs=1e-3)
    assert list(face.probabilities) == list(EMOTIONS) and face.box == Box(0, 0, 48)
    assert face.emotion == EMOTIONS[int(probabilities.argmax())]
    assert face.probability == max(face.probabilities.values())


def test_every_kind_of_picture_means_the_same(tmp_path, checkpoints):
    recognizer = recognize_with(checkpoints, face="none")
    colour = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    opaque = np.dstack([colour, np.full((60, 80), 255, np.uint8)])
    path = tmp_path / "a.png"
    Image.fromarray(colour).save(path)
    kinds = [str(path), path, Image.open(path), Image.fromarray(opaque), opaque]
    (expected,) = recognizer.recognize(colour)
    found = [recognizer.recognize(kind) for kind in kinds]
    blue_first = (cv2.imread(str(path)), colour[:, :, ::-1], opaque[:, :, [2, 1, 0, 3]])
    found += [recognizer.recognize(kind, bgr=True) for kind in blue_first]
    for (face,) in found:
        assert np.array_equal(face.crop, expected.crop)
    grey = colour[:, :, 0]
    (first,), (second,) = recognizer.recognize(grey), recognizer.recognize(grey[:, :, None])
    assert np.array_equal(first.crop, second.crop)


@pytest.mark.parametrize(
    ("thing", "word"),
    [
        (None, "cv2.imread"),
        (FACE.astype(np.float32), "float32"),
        (torch.zeros(3, 20, 30), "Tensor"),
        (np.zeros((3, 20, 30), np.uint8), r"\(3, 20, 30\)"),
        (np.zeros((2, 20, 30, 3), np.uint8), r"\(2, 20, 30, 3\)"),
        (np.zeros((0, 30), np.uint8), r"\(0, 30\)"),
        (17, "int"),
        ([FACE], "iter_images"),
        ("gone.png", "does not exist"),
    ],
)
def test_what_is_no_picture_is_a_value_error(recognizer, thing, word):
    with pytest.raises(ValueError, match=word):
        recognizer.recognize(thing)
    (result,) = recognizer.iter_images([thing])
    assert isinstance(result.error, ValueError) and result.faces == []


@pytest.mark.parametrize(
    ("options", "word"),
    [({"crops": "two"}, "crops"), ({"confidence": 2}, "confidence"), ({"face": "all"}, "face")],
)
def test_options_that_mean_nothing_are_refused(checkpoints, options, word):
    with pytest.raises(ValueError, match=word):
        recognize_with(checkpoints, **options)


def test_many_pictures_give_what_single_ones_give(recognizer, tmp_path):
    """In order, with an error for each that cannot be read."""
    (tmp_path / "broken.png").write_bytes(b"broken")
    write_faces(tmp_path, 2)
    images = [TWO, tmp_path / "broken.png", WALL, *sorted(tmp_path.glob("0*.png")), FACE]
    results = list(recognizer.iter_images(iter(images)))
    assert [len(result.faces) for result in results] == [2, 0, 0, 1, 1, 1]
    assert [result.file for result in results] == [
        0,
        *map(str, images[1:2]),
        2,
        *map(str, images[3:5]),
        5,
    ]
    for image, result in zip(images, results, strict=True):
        if result.error:
            assert "broken.png" in str(result.error)
            continue
        for one, other in zip(recognizer.recognize(image), result.faces, strict=True):
            assert one.box == other.box and one.number == other.number
            assert numbers(one) == pytest.approx(numbers(other), abs=1e-4)


def test_pictures_are_read_when_they_are_needed(recognizer):
    """Of a thousand large ones a few are in memory."""
    taken = []

    def pictures():
        for number in range(1000):
            taken.append(number)
            yield FACE

    next(recognizer.iter_images(pictures()))
    assert len(taken) < 50
    (result,) = recognizer.iter_images([np.zeros((3000, 4000), np.uint8)])
    assert result.size == (3000, 4000) and result.image.size < 4_000_000


def test_an_error_of_any_kind_is_that_of_one_picture(recognizer, monkeypatch):
    def crop_faces(grey, boxes):
        if grey is not None and grey.shape == WALL.shape:
            raise cv2.error("assertion failed")
        return inference.detection.crop_faces(grey, boxes)

    monkeypatch.setattr(inference.recognizer, "crop_faces", crop_faces)
    first, second, third = recognizer.iter_images([FACE, WALL, FACE])
    assert "assertion failed" in str(second.error)
    assert len(first.faces) == len(third.faces) == 1


def test_results_become_rows(recognizer, tmp_path):
    write_faces(tmp_path, 1)
    results = list(recognizer.iter_images([tmp_path / "000.png", TWO, WALL]))
    frame = to_frame(results)
    assert tuple(frame.columns) == COLUMNS and len(frame) == 3
    assert list(frame["file"]) == [str(tmp_path / "000.png"), 1, 1]
    assert list(frame["face"]) == [1, 1, 2]
    faces = results[0].faces + results[1].faces
    for face, row in zip(faces, frame.to_dict("records"), strict=True):
        expected = face.to_dict()
        assert all(row[name] == expected[name] for name in COLUMNS if expected[name] is not None)
        assert row["happy"] == face.probabilities["Happy"] and row["valence"] == face.valence
    assert to_frame(faces).equals(frame)
    for empty in ([], results[2:]):
        assert tuple(to_frame(empty).columns) == COLUMNS and to_frame(empty).empty
    mixed = [Result("film.mp4", faces[:1], frame=0, time=0.0), results[1]]
    assert tuple(to_frame(mixed).columns) == VIDEO_COLUMNS and len(to_frame(mixed)) == 3
    with pytest.warns(UserWarning, match="gone.png"):
        assert to_frame(recognizer.iter_images(["gone.png"])).empty


def test_a_face_of_a_video_says_when_it_was_seen():
    smoothed = face_of([0.9, 0.1, 0, 0, 0, 0, 0])
    face = face_of([0.8, 0.2, 0, 0, 0, 0, 0], file="talk.mp4", frame=3, time=0.1, smoothed=smoothed)
    row = face.to_dict()
    assert tuple(row) == VIDEO_COLUMNS
    assert (row["file"], row["frame"], row["time"]) == ("talk.mp4", 3, 0.1)
    assert row["angry"] == 0.8 and row["smoothed_angry"] == 0.9


PROGRAM = """
import os, sys, cv2, torch, torch.distributed
os.environ.update(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2",
                  MASTER_ADDR="127.0.0.1", MASTER_PORT="29999")
torch.set_num_threads(3)
torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True

def state():
    flags = torch.backends.cudnn
    return (torch.get_num_threads(), flags.benchmark, flags.deterministic, flags.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32, torch.distributed.is_initialized(),
            cv2.getNumThreads(), torch.get_rng_state().sum().item(), torch.is_grad_enabled(),
            torch.tensor([1e-310], dtype=torch.float64).mul(1).item(), sys.stdout,
            os.environ.copy())

before = state()
from inference import EmotionRecognizer
recognizer = EmotionRecognizer(device="cpu", precision="fp32", crops="center", explain=True)
recognizer.recognize("data/sample.png")
assert state() == before, (before, state())
print("unchanged")
"""


def test_nothing_in_the_process_changes():
    """Threads, flags, process group, random numbers, denormals, stdout; under torchrun, too."""
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("unchanged\n", "")


@pytest.mark.parametrize("name", ["emotion_recognizer", "resnet18_emotion"])
def test_torch_hub_loads_the_released_network(name):
    loaded = torch.hub.load(str(ROOT), name, source="local")
    if name == "emotion_recognizer":
        assert len(loaded.recognize(ROOT / "data" / "sample.png")) == 3
        return
    state = checkpoint.load(RELEASED / "photographs.t7")["net"]
    assert all(
        torch.equal(value, state[key].to(value)) for key, value in loaded.state_dict().items()
    )
    assert set(loaded(torch.zeros(2, 1, 44, 44))) == set(TASKS) and not loaded.training


def face_of(probabilities, confidence=0.999, **values):
    values = {"valence": 0.0, "arousal": 0.0, "dominance": 0.0, **values}
    named = dict(zip(EMOTIONS, probabilities, strict=True))
    return Face(Box(0, 0, 9, confidence=confidence), named, **values)


@pytest.mark.parametrize(
    ("probabilities", "confidence", "uncertain"),
    [
        ([0.5, 0.4, 0.1, 0, 0, 0, 0], 0.999, True),
        ([0.6, 0.3, 0.1, 0, 0, 0, 0], 0.999, False),
        ([0.9, 0.1, 0, 0, 0, 0, 0], 0.92, True),
        ([0.9, 0.1, 0, 0, 0, 0, 0], None, False),
        ([1 / 7] * 7, None, True),
    ],
)
def test_a_face_is_uncertain_where_emotions_are_close(probabilities, confidence, uncertain):
    face = face_of(probabilities, confidence)
    assert face.uncertain == uncertain == face.to_dict()["uncertain"]


def test_probabilities_are_calibrated_by_the_checkpoint(tmp_path, recognizer):
    file = save_checkpoints(tmp_path, make_model(), ["classify"]) / CLASSIFY
    checkpoint.save(file, {**checkpoint.load(file), "temperature": 2.5})
    (plain,), (calibrated,) = recognizer.recognize(FACE), recognize_with(file).recognize(FACE)
    logits = torch.tensor(list(plain.probabilities.values())).double().log()
    expected = (logits / 2.5).softmax(0).tolist()
    assert list(calibrated.probabilities.values()) == pytest.approx(expected, abs=1e-4)
    assert calibrated.valence == pytest.approx(plain.valence, abs=1e-4)


@pytest.mark.parametrize("sharing", ["trunk", "none"])
def test_heat_is_grad_cam(tmp_path, sharing):
    """Against the plain formula: the map is a leaf before the head."""
    model = make_model(sharing=sharing)
    recognizer = recognize_with(save_checkpoints(tmp_path, model), explain=True)
    (face,) = recognizer.recognize(FACE)
    trunk = model.trunks["shared" if sharing == "trunk" else "classify"]
    with torch.no_grad():
        pixels = normalise(center_crop(torch.from_numpy(FACE)[None]), **PREPROCESSING)
        maps = F.relu(trunk.bn1(trunk.conv1(pixels)))
        for layer in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            maps = layer(maps)
    maps.requires_grad_()
    model.heads["classify"](maps.mean((2, 3)))[0, EMOTIONS.index(face.emotion)].backward()
    heat = (maps.grad.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).detach().relu()
    heat = F.interpolate(heat, size=(44, 44), mode="bilinear")[0, 0]
    expected = np.pad((heat / heat.max().clamp(min=1e-12)).numpy(), 2)
    assert np.allclose(face.heat, expected, atol=1e-3) and np.array_equal(face.crop, FACE)


def test_heat_is_computed_only_where_it_is_asked_for(checkpoints, recognizer, monkeypatch):
    """Nor for the frames of a video, which do not show it."""
    assert recognizer.recognize(FACE)[0].heat is None
    explaining = recognize_with(checkpoints, explain=True)
    monkeypatch.setattr(inference.recognizer, "heat_maps", None)
    assert explaining.predict(FACE[None], [Box(0, 0, 48)])[0].heat is None


@pytest.mark.parametrize("tasks", [tuple(TASKS), ("classify", "regressV")])
def test_a_file_that_holds_several_tasks_is_read_once(tmp_path, monkeypatch, tasks):
    file = save_checkpoints(tmp_path, make_model(tasks=tasks), ["classify"]) / CLASSIFY
    read, load_model = [], checkpoint.load_model

    def record(*arguments):
        read.append(arguments[0])
        return load_model(*arguments)

    monkeypatch.setattr(checkpoint, "load_model", record)
    for given in (tmp_path, file, [file]):
        assert [network.tasks for network in load_networks(given)] == [list(tasks)]
    assert len(tasks) < 4 or read == [file] * 3


def test_networks_of_equal_weights_run_once(tmp_path):
    save_checkpoints(tmp_path, make_model())
    save_checkpoints(tmp_path, make_model(seed=1), ["regressA"])
    found = [network.tasks for network in load_networks(tmp_path)]
    assert found == [["classify", "regressV", "regressD"], ["regressA"]]


def test_a_trunk_per_task_is_a_network_each(tmp_path):
    save_checkpoints(tmp_path, make_model(sharing="none"))
    networks = load_networks(tmp_path)
    assert [network.tasks for network in networks] == [[name] for name in TASKS]
    (face,) = recognize_with(tmp_path).recognize(FACE)
    assert np.isfinite(numbers(face)).all()


def test_without_a_task_its_values_are_missing(tmp_path):
    save_checkpoints(tmp_path, make_model(tasks=("classify",)), ["classify"])
    (face,) = recognize_with(tmp_path).recognize(FACE)
    assert face.valence is None and face.to_dict()["dominance"] is None


def of_two_datasets(folder):
    save_checkpoints(folder, make_model())
    save_checkpoints(folder, make_model(1), ["regressV"], dataset="Demo")


def of_no_numbers(folder):
    model = make_model()
    with torch.no_grad():
        model.heads["classify"].bias[0] = float("nan")
    save_checkpoints(folder, model)


def of_other_classes(folder):
    save_checkpoints(folder, make_model(), class_names=["Joy"])


def of_valence_alone(folder):
    save_checkpoints(folder, make_model(tasks=("regressV",)), ["regressV"])


BAD_CHECKPOINTS = {
    "nothing": (lambda folder: None, "has no checkpoint"),
    "text": (lambda folder: (folder / CLASSIFY).write_bytes(b"text"), "not a readable checkpoint"),
    "other classes": (of_other_classes, "other emotions"),
    "no classifier": (of_valence_alone, "classif"),
    "two datasets": (of_two_datasets, "several datasets"),
    "not finite": (of_no_numbers, "diverged"),
}


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_checkpoints_that_cannot_be_used_are_refused(tmp_path, case):
    make, word = BAD_CHECKPOINTS[case]
    make(tmp_path)
    with pytest.raises(UserError, match=word):
        load_networks(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        load_networks(tmp_path / "none")
