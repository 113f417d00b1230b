"""The benchmarks of corrupted faces and of photographs against sums by hand."""

import io
import json

import numpy as np
import pandas
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, shift
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from benchmarks import corruptions, photographs
from benchmarks.corruptions import CORRUPTIONS
from data.demo.demo import draw_faces
from inference import EmotionRecognizer
from tests.conftest import ROOT
from tests.samples import PLAIN, SPLIT_FILES, VOTES, pixel_text, table, votes_table
from utils.files import UserError
from utils.tasks import EMOTIONS

NAMES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")  # of FER+


@pytest.fixture(scope="module")
def faces():
    return draw_faces(12, seed=0)[0].reshape(-1, 48, 48)


def run(benchmark, *arguments):
    flags = [*arguments, "--device", "cpu"]
    return benchmark.main(benchmark.build_parser().parse_args([str(flag) for flag in flags]))


def by_pillow(change):
    return lambda face: np.asarray(change(Image.fromarray(face)))


def encode(image, quality):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def resize(image, side):
    return image.resize((side, side), Image.BOX).resize((48, 48), Image.BICUBIC)


# {corruption: (the same by another library, the most that pixels differ on average)}
REFERENCES = {
    "blur 1.5": (lambda face: gaussian_filter(face.astype(float), 1.5, mode="nearest"), 0.6),
    "as 16 pixels": (by_pillow(lambda image: resize(image, 16)), 1.5),
    "JPEG 30": (by_pillow(lambda image: encode(image, 30)), 0.3),
    "gamma 2": (by_pillow(lambda image: image.point(lambda grey: 255 * (grey / 255) ** 2)), 0.6),
    "moved 5 aside": (lambda face: shift(face, (0, 5), order=0, mode="nearest"), 0),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_corruptions_are_those_of_other_libraries(faces, name):
    reference, most = REFERENCES[name]
    inner = slice(4, -4)  # libraries differ in what is beyond the border
    expected = np.stack([reference(face) for face in faces]).astype(float)
    difference = np.abs(CORRUPTIONS[name](faces) - expected)[:, inner, inner]
    assert difference.mean() <= most
    assert np.abs(faces - expected).mean() > 2 * most


def test_there_are_21_corruptions_and_noise_is_as_strong_as_its_name(faces):
    assert len(CORRUPTIONS) == 21
    grey = np.full((40, 48, 48), 128, np.uint8)
    for sigma in (10, 25):
        noisy = CORRUPTIONS[f"noise {sigma}"](grey)
        assert (noisy - 128.0).std() == pytest.approx(sigma, rel=0.02)
        assert np.array_equal(noisy, CORRUPTIONS[f"noise {sigma}"](grey))
    for change in CORRUPTIONS.values():
        changed = change(faces)
        assert changed.dtype == np.uint8 and changed.shape == faces.shape


@pytest.fixture(scope="module")
def with_votes(tmp_path_factory, faces):
    """A folder with fer2013.csv and its votes: 12 private faces, a majority on all but one."""
    folder = tmp_path_factory.mktemp("faces")
    rows, votes = [], []
    for split in SPLIT_FILES:
        for number, face in enumerate(faces):
            pixels = pixel_text(face.ravel())
            rows.append({"emotion": number % 7, "pixels": pixels, "Usage": split})
            names = NAMES[:2] if number == 0 else NAMES[number // 2 : number // 2 + 1]
            votes.append({name: 5 * (3 - len(names)) for name in names})
    (folder / "fer2013.csv").write_bytes(table(rows, PLAIN))
    usages = [row["Usage"] for row in rows]
    (folder / "fer2013new.csv").write_bytes(votes_table(votes, usages=usages))
    assert set(NAMES) < set(VOTES)
    return folder


def test_accuracy_under_corruption_equals_what_the_recognizer_says(
    with_votes, faces, checkpoints, tmp_path
):
    out = tmp_path / "corruptions.json"
    assert run(corruptions, checkpoints, "--data", with_votes, "--out", out) == 0
    figures = json.loads(out.read_text())[str(checkpoints)]
    recognizer = EmotionRecognizer(checkpoints, face="none", crops="center", device="cpu")
    readings = {
        name: [result.faces for result in recognizer.iter_images(change(faces))]
        for name, change in {"clean": lambda faces: faces, **CORRUPTIONS}.items()
    }
    readings = {name: [face for (face,) in each] for name, each in readings.items()}
    labels = np.arange(12) % 7
    majority = np.array([-1, *(np.arange(1, 12) // 2)])
    for name, read in readings.items():
        said = np.array([EMOTIONS.index(face.emotion) for face in read])
        for target, rows in ((labels, labels >= 0), (majority, majority >= 0)):
            key = "labels" if target is labels else "majority"
            expected = 100 * accuracy_score(target[rows], said[rows])
            assert figures[key]["accuracy"][name] == pytest.approx(expected)
    accuracies = figures["majority"]["accuracy"]
    assert figures["majority"]["faces"] == 11 and len(accuracies) == 22
    mean = np.mean([accuracies[name] for name in CORRUPTIONS])
    assert figures["majority"]["mean of 21"]["value"] == pytest.approx(mean)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A folder of five photographs, the last without a face, and the emotions that are said."""
    folder, emotions = (
        tmp_path_factory.mktemp("photographs"),
        ["Happy", "Happy", "Sad", "Fear", "Sad"],
    )
    with Image.open(ROOT / "data" / "sample.png") as sample:
        for number, left in enumerate((32, 256, 144)):
            top = 256 if left == 144 else 32
            sample.crop((left - 20, top - 20, left + 212, top + 212)).save(folder / f"{number}.png")
        sample.crop((12, 12, 244, 244)).save(folder / "3.png")
    Image.new("RGB", (200, 200), (90, 90, 90)).save(folder / "4.png")
    files = [f"{number}.png" for number in range(5)]
    pandas.DataFrame({"file": files, "emotion": emotions}).to_csv(
        folder / "labels.csv", index=False
    )
    return folder, emotions


@pytest.mark.parametrize("side", [None, 40])
def test_photographs_are_read_as_the_recognizer_reads_them(labelled, checkpoints, tmp_path, side):
    folder, emotions = labelled
    out, more = tmp_path / "photographs.json", [] if side is None else ["--shrink", side]
    assert run(photographs, folder, checkpoints, "--out", out, *more) == 0
    found = json.loads(out.read_text())[str(checkpoints)]
    recognizer, said = EmotionRecognizer(checkpoints, device="cpu"), []
    for number in range(5):
        picture = np.asarray(Image.open(folder / f"{number}.png").convert("RGB"))
        faces = recognizer.recognize(picture if side is None else photographs.shrink(picture, side))
        said.append(faces[0].emotion.capitalize() if faces else "none")
    assert found["missed"] == said.count("none") and said[0] != "none" == said[4]
    rows = [number for number, emotion in enumerate(emotions) if emotion != "Fear"]
    truth, said = np.array(emotions)[rows], np.array(said)[rows]
    assert found["accuracy"]["value"] == pytest.approx(100 * np.mean(truth == said))
    recalls = [np.mean(said[truth == name] == name) for name in ("Happy", "Sad")]
    assert found["mean recall"]["value"] == pytest.approx(100 * np.mean(recalls))
    assert found["photographs"] == {"Fear": 1, "Happy": 2, "Sad": 2}


def test_recalls_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, said = (rng.choice(EMOTIONS, 300) for _ in range(2))
    found, five = photographs.measure(truth, said), ~np.isin(truth, ("Disgust", "Fear"))
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        expected = 100 * balanced_accuracy_score(truth[five], said[five])
    assert found["mean recall"]["value"] == pytest.approx(expected)
    assert found["recalls"]["Fear"] == pytest.approx(100 * np.mean(said[truth == "Fear"] == "Fear"))
    assert found["read"]["Sad"]["Happy"] == np.sum((truth == "Sad") & (said == "Happy"))


@pytest.mark.parametrize("content", ["file\n0.png\n", "file,emotion\n0.png,Glad\n", "", None])
def test_labels_that_cannot_be_used_are_refused(tmp_path, checkpoints, content):
    if content is not None:
        (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(UserError, match="labels.csv"):
        run(photographs, tmp_path, checkpoints)
