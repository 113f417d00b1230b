"""visualize.py as its user runs it: pictures, folders, videos, tables, figures, errors."""

import csv
import json
import os
import pickle
import tempfile
from pathlib import Path
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
import torch
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import visualize
from data.batches import four_crop, normalise, ten_crop
from data.demo.drawing import draw_face
from inference import figures
from inference.checkpoints import load_networks
from inference.videos import places, results
from inference.videos.detector import Box
from inference.videos.recognizer import EmotionRecognizer, Face
from models import checkpoint
from models.multitask import MultiTask
from tests.test_pictures import pasted
from utils.files import UserError
from utils.tasks import EMOTIONS, TASKS

PREPROCESSING = {"mean": 0.5, "std": 0.25}


def make_model(seed=0, tasks=tuple(TASKS), sharing="trunk"):
    torch.manual_seed(seed)
    model = MultiTask(tasks, sharing, base=8)
    for name, head in model.heads.items():
        torch.nn.init.normal_(head.weight, std=1 if name == "classify" else 8)
    model(torch.randn(64, 1, 44, 44))
    return model.eval()


def save(folder, network, tasks=tuple(TASKS), **changes):
    """The files that are best on the private split, all of one network."""
    for name in tasks:
        description = {"dataset": "FER2013", "model": "Narrow", "preprocessing": PREPROCESSING, **changes}
        content = checkpoint.task_checkpoint(network, name, 3, {}, description)
        checkpoint.save(folder / TASKS[name].checkpoint("PrivateTest"), content)
    return folder


def run(checkpoints, *arguments):
    flags = ["--checkpoints", checkpoints, "--device", "cpu", "--precision", "fp32", *arguments]
    return visualize.main(visualize.build_parser().parse_args([str(flag) for flag in flags]))


def write_faces(folder, count, side=48):
    folder.mkdir(exist_ok=True)
    faces = [draw_face(number % 7, (0, 0, 0), number, side) for number in range(count)]
    for number, face in enumerate(faces):
        Image.fromarray(face).save(folder / f"{number:03}.png")
    return np.stack(faces)


def read_table(path):
    with open(path, newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(("named", "make_crops"), [({}, four_crop), ({"crops": "tencrop"}, ten_crop)])
def test_results_equal_the_network_on_four_or_ten_crops(checkpoints, named, make_crops):
    face = draw_face(3, (1, 1, 1), 5)
    (found,) = EmotionRecognizer(checkpoints, device="cpu", precision="fp32", **named).recognize(face)
    with torch.no_grad():
        outputs = make_model()(normalise(make_crops(torch.from_numpy(face)[None])[0][:, None], **PREPROCESSING))
    expected = outputs["classify"].mean(0).softmax(0).tolist()
    assert list(found.probabilities) == list(EMOTIONS)
    assert list(found.probabilities.values()) == pytest.approx(expected, abs=1e-4)
    assert found.valence == pytest.approx(outputs["regressV"].mean().item(), abs=1e-3)
    assert found.arousal == pytest.approx(outputs["regressA"].mean().item(), abs=1e-3)
    assert found.dominance == pytest.approx(outputs["regressD"].mean().item(), abs=1e-3)
    assert found.emotion == EMOTIONS[int(np.argmax(expected))] and found.box == Box(0, 0, 48)


def test_a_list_gives_what_single_pictures_give(recognizer, tmp_path):
    two = pasted([(40, 60), (380, 180)], 160)
    images = [two, np.full((300, 400), 90, np.uint8), draw_face(1, (0, 0, 0), 9)]
    together = recognizer.recognize(images)
    assert [len(faces) for faces in together] == [2, 0, 1]
    for image, faces in zip(images, together, strict=True):
        for one, other in zip(recognizer.recognize(image), faces, strict=True):
            assert one.box == other.box
            assert list(one.probabilities.values()) == pytest.approx(list(other.probabilities.values()), abs=1e-4)


def test_one_forward_pass_where_the_files_share_their_weights(tmp_path, checkpoints):
    assert [network.tasks for network in load_networks(checkpoints)] == [list(TASKS)]
    other = save(tmp_path, make_model())
    save(tmp_path, make_model(seed=1), ["regressA"])
    assert [network.tasks for network in load_networks(other)] == [["classify", "regressV", "regressD"], ["regressA"]]


def test_one_file_that_holds_all_tasks_is_enough(tmp_path, checkpoints):
    (file,) = save(tmp_path, make_model(), ["classify"]).iterdir()
    for given in (tmp_path, file):
        assert [network.tasks for network in load_networks(given)] == [list(TASKS)]


@pytest.mark.parametrize("tasks", [tuple(TASKS)])
def test_a_file_is_read_once(tmp_path, monkeypatch, tasks):
    (file,) = save(tmp_path, make_model(tasks=tasks), ["classify"]).iterdir()
    read, load_model = [], checkpoint.load_model
    monkeypatch.setattr(checkpoint, "load_model", lambda *asked: read.append(asked[0]) or load_model(*asked))
    for given in (tmp_path, file):
        assert [network.tasks for network in load_networks(given)] == [list(tasks)]
    assert read == [file, file]  # once for each of the two


def test_a_trunk_per_task(tmp_path):
    save(tmp_path, make_model(sharing="none"))
    networks = load_networks(tmp_path)
    assert [network.tasks for network in networks] == [[name] for name in TASKS]
    (face,) = EmotionRecognizer(tmp_path, device="cpu").recognize(draw_face(0, (0, 0, 0), 1))
    assert -2 < face.dominance < 2


def test_half_precision_weights_are_read(tmp_path, recognizer):
    file = save(tmp_path, make_model(), ["classify"]) / TASKS["classify"].checkpoint("PrivateTest")
    content = checkpoint.load(file)
    content["net"] = {k: v.half() if v.is_floating_point() else v for k, v in content["net"].items()}
    checkpoint.save(file, content)
    face = draw_face(3, (1, 1, 1), 5)
    (half,), (full,) = (
        EmotionRecognizer(file, device="cpu", precision="fp32").recognize(face),
        recognizer.recognize(face),
    )
    assert list(half.probabilities.values()) == pytest.approx(list(full.probabilities.values()), abs=0.02)


def test_classification_alone_has_no_dimensions(tmp_path, capsys):
    save(tmp_path, make_model(tasks=("classify",)), ["classify"])
    write_faces(tmp_path / "faces", 1)
    assert run(tmp_path, tmp_path / "faces", "--csv", tmp_path / "all.csv", "--json", tmp_path / "all.json") == 0
    (row,) = read_table(tmp_path / "all.csv")
    assert row["Valence"] == "" and float(row["Happy"]) > 0
    assert json.loads((tmp_path / "all.json").read_text())[0]["Valence"] is None


def test_a_folder_gives_tables_pictures_and_lines(tmp_path, checkpoints, recognizer, capsys):
    faces = write_faces(tmp_path / "faces", 5)
    out = tmp_path / "out"
    assert (
        run(
            checkpoints,
            tmp_path / "faces",
            "--out",
            out,
            "--csv",
            tmp_path / "all.csv",
            "--json",
            tmp_path / "all.json",
        )
        == 0
    )
    rows, objects = read_table(tmp_path / "all.csv"), json.loads((tmp_path / "all.json").read_text())
    printed = capsys.readouterr().out
    assert "unpleasant .. 2 pleasant" in printed and len(rows) == len(objects) == 5
    for face, row, value in zip(faces, rows, objects, strict=True):
        (expected,) = recognizer.recognize(face)
        assert row["emotion"] == value["emotion"] == expected.emotion
        assert float(row["Valence"]) == pytest.approx(expected.valence, abs=2e-4)
        assert value["Dominance"] == pytest.approx(expected.dominance, abs=1e-4)
        assert [row[side] for side in ("left", "top", "right", "bottom")] == ["0", "0", "48", "48"]
        assert sum(float(row[name]) for name in EMOTIONS) == pytest.approx(1, abs=1e-3)
        assert f"{expected.emotion} {expected.probability:.0%}" in printed
    assert sorted(path.name for path in out.iterdir()) == [f"{n:03}_emotion.png" for n in range(5)]


def test_names_are_no_mathematics_and_lack_no_letter(tmp_path, checkpoints, recwarn):
    names = ["cash$50_$.png", "a_{b}^c\\frac.png", "\N{CJK UNIFIED IDEOGRAPH-4E2D}\N{DEVANAGARI LETTER KA}.png"]
    for name in names:
        Image.fromarray(draw_face(3, (0, 0, 0), 1)).save(tmp_path / name)
    assert run(checkpoints, tmp_path) == 0
    assert len(list(tmp_path.glob("*_emotion.png"))) == len(names)
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    figure = figures.draw(np.zeros((9, 9, 3), np.uint8), [a_face(1)], "cash$50_$ \N{CJK UNIFIED IDEOGRAPH-4E2D}")
    assert figure.axes[0].get_title().startswith("cash$50_$ ")


def test_patterns_that_the_shell_left_alone_are_expanded(tmp_path):
    for name in ("b.png", "a.png", "c.txt", "[d].png"):
        (tmp_path / name).touch()
    assert places.expand([tmp_path / "?.png"], False) == ([tmp_path / "a.png", tmp_path / "b.png"], 0)
    assert places.expand([tmp_path / "[d].png"], False) == ([tmp_path / "[d].png"], 0)  # which is there
    assert places.expand([tmp_path / "*.jpg"], False) == ([tmp_path / "*.jpg"], 0)  # to be told as missing
    assert places.given_input(str(tmp_path / "*.png")) == tmp_path / "*.png"


def test_a_web_address_is_told(checkpoints, capsys):
    with pytest.raises(SystemExit):
        run(checkpoints, "https://example.org/photo.jpg")
    assert "files are read, not pages" in capsys.readouterr().err


def test_an_empty_json_is_an_empty_list(tmp_path, checkpoints):
    Image.fromarray(np.full((300, 400), 90, np.uint8)).save(tmp_path / "wall.png")
    assert run(checkpoints, tmp_path / "wall.png", "--json", tmp_path / "all.json", "--no-pictures") == 0
    assert json.loads((tmp_path / "all.json").read_text()) == []


def test_a_bad_file_does_not_stop_the_others(tmp_path, checkpoints, capsys):
    write_faces(tmp_path / "faces", 3)
    (tmp_path / "faces" / "001.png").write_bytes(b"broken")
    assert (
        run(checkpoints, tmp_path / "faces", tmp_path / "gone.jpg", "--csv", tmp_path / "all.csv", "--no-pictures") == 1
    )
    assert [row["file"][-7:] for row in read_table(tmp_path / "all.csv")] == ["000.png", "002.png"]
    errors = capsys.readouterr().err
    assert "001.png is not an image" in errors and "gone.jpg does not exist" in errors and "2 of 4" in errors


def refuse_to_list(folder, monkeypatch):
    """As without rights, which are no matter to root."""
    for name in ("listdir", "scandir"):
        listed = getattr(os, name)

        def refuse(path=".", listed=listed):
            if Path(path) == folder:
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return listed(path)

        monkeypatch.setattr(os, name, refuse)


@pytest.mark.parametrize("below", [True, False])
def test_a_folder_that_cannot_be_listed_does_not_stop_the_others(tmp_path, checkpoints, monkeypatch, capsys, below):
    secret = tmp_path / "faces" / "secret" if below else tmp_path / "secret"
    write_faces(tmp_path / "faces", 2)
    write_faces(secret, 1)
    refuse_to_list(secret, monkeypatch)
    given = [tmp_path / "faces", "--recursive"] if below else [secret, tmp_path / "faces"]
    assert run(checkpoints, *given, "--csv", tmp_path / "all.csv", "--no-pictures") == 1
    assert [row["file"][-7:] for row in read_table(tmp_path / "all.csv")] == ["000.png", "001.png"]
    told = capsys.readouterr().err
    assert f"error: {secret} cannot be read (Permission denied)" in told and "1 of 3" in told


def test_places_where_nobody_may_look_end_in_no_traceback(tmp_path, monkeypatch):
    """What `Path` asks raises there, up to Python 3.13."""

    def refuse(path, **options):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(os, "stat", refuse)
    for given in (tmp_path / "a.png", tmp_path / "?.png"):
        assert places.expand([given], False) == ([given], 0)
    assert places.OutputPaths(None).beside(tmp_path / "a.png", "_emotion", ".png") == [tmp_path / "a_emotion.png"]


def test_a_picture_that_pillow_refuses_to_look_into_is_told(tmp_path, checkpoints, capsys):
    """Though its name is that of a result."""
    write_faces(tmp_path, 1)
    texts = PngInfo()
    texts.add_text("Comment", 2_000_000 * "x", zip=True)
    Image.fromarray(draw_face(3, (0, 0, 0), 1)).save(tmp_path / "a_emotion.png", pnginfo=texts)
    assert run(checkpoints, tmp_path, "--csv", tmp_path / "all.csv", "--no-pictures") == 1
    assert "a_emotion.png cannot be read" in capsys.readouterr().err
    assert len(read_table(tmp_path / "all.csv")) == 1


def test_names_as_long_as_they_may_be_have_results(tmp_path, checkpoints):
    """Two that are the same as far as they are kept, and one of letters of two bytes."""
    letter = "\N{LATIN SMALL LETTER E WITH ACUTE}"
    for name in (f"{250 * 'x'}1.png", f"{250 * 'x'}2.png", f"a{125 * letter}.png"):
        Image.fromarray(draw_face(0, (0, 0, 0), 1)).save(tmp_path / name)
    for _ in range(2):
        assert run(checkpoints, tmp_path) == 0
    found = sorted(path.name for path in tmp_path.glob("*_emotion*"))
    stem = 180 * "x"
    assert found == [f"a{89 * letter}_emotion.png", f"{stem}_emotion-2.png", f"{stem}_emotion.png"]


def test_an_error_that_ends_the_run_keeps_what_was_read_so_far(tmp_path, checkpoints, monkeypatch):
    write_faces(tmp_path / "faces", 4)
    drawn, save_figure = [], visualize.save_figure

    def fills_up(*arguments):
        drawn.append(arguments)
        if len(drawn) == 3:
            raise UserError("no room")
        save_figure(*arguments)

    monkeypatch.setattr(visualize, "save_figure", fills_up)
    with pytest.raises(UserError, match="no room"):
        run(checkpoints, tmp_path / "faces", "--csv", tmp_path / "all.csv", "--json", tmp_path / "all.json")
    assert [row["file"][-7:] for row in read_table(tmp_path / "all.csv")] == ["000.png", "001.png", "002.png"]
    assert len(json.loads((tmp_path / "all.json").read_text())) == 3


@pytest.mark.parametrize("error", [UserError("no room"), KeyboardInterrupt()])
def test_what_ends_before_anything_was_read_leaves_the_earlier_table(tmp_path, error):
    (tmp_path / "a.csv").write_text("earlier")
    with pytest.raises(type(error)), results.table(tmp_path / "a.csv"):
        raise error
    assert (tmp_path / "a.csv").read_text() == "earlier" and os.listdir(tmp_path) == ["a.csv"]


class FullOnce:
    """A stream to which a disk that is full for a moment takes half of what is written."""

    def __init__(self, stream):
        self.stream, self.full = stream, True

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, content):
        if self.full:
            self.full = False
            self.stream.write(content[: len(content) // 2])
            full_disk()
        return self.stream.write(content)


def test_rows_that_a_disk_took_by_half_are_written_once(tmp_path, monkeypatch):
    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: FullOnce(temporary(**options)))
    with pytest.raises(UserError, match="No space"), results.table(tmp_path / "a.csv") as add:
        for number in range(results.ROWS):
            add(dict.fromkeys(results.COLUMNS, number))
    assert [int(row["face"]) for row in read_table(tmp_path / "a.csv")] == list(range(results.ROWS))


def test_a_picture_without_faces_is_told(tmp_path, checkpoints, capsys):
    Image.fromarray(np.full((300, 400), 90, np.uint8)).save(tmp_path / "wall.png")
    Image.fromarray(np.full((100, 100), 90, np.uint8)).save(tmp_path / "tile.png")
    assert run(checkpoints, tmp_path / "wall.png", tmp_path / "tile.png", "--csv", tmp_path / "all.csv") == 0
    told = capsys.readouterr().out
    assert "wall.png: no face found\n" in told and "tile.png: no face found\n" in told
    assert read_table(tmp_path / "all.csv") == []
    assert (tmp_path / "wall_emotion.png").exists()


def test_face_none_takes_the_middle_square(tmp_path, checkpoints):
    Image.fromarray(pasted([(40, 60)], 160)).save(tmp_path / "photo.png")
    assert (
        run(checkpoints, tmp_path / "photo.png", "--face", "none", "--csv", tmp_path / "all.csv", "--no-pictures") == 0
    )
    (row,) = read_table(tmp_path / "all.csv")
    assert [row[side] for side in ("left", "top", "right", "bottom")] == ["100", "0", "500", "400"]


def test_nothing_of_the_users_is_overwritten(tmp_path, checkpoints, capsys):
    write_faces(tmp_path, 1)
    mine = tmp_path / "000_emotion.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(mine)
    before = mine.read_bytes()
    (tmp_path / "all.csv").write_text("mine")
    for _ in range(2):  # the second time over our own picture, beside the user's
        assert run(checkpoints, tmp_path / "000.png", "--csv", tmp_path / "all.csv") == 0
    assert mine.read_bytes() == before
    assert sorted(p.name for p in tmp_path.glob("*_emotion*")) == ["000_emotion-2.png", "000_emotion.png"]
    assert "moved to" in capsys.readouterr().out
    assert "mine" in {path.read_text(encoding="utf-8") for path in (tmp_path / "previous").rglob("all.csv")}


def test_results_of_two_pictures_of_one_name_do_not_meet(tmp_path, checkpoints):
    face = Image.fromarray(draw_face(0, (0, 0, 0), 1))
    face.save(tmp_path / "a.png")
    face.save(tmp_path / "a.bmp")
    assert run(checkpoints, tmp_path) == 0
    assert len(list(tmp_path.glob("a_emotion*.png"))) == 2
    assert run(checkpoints, tmp_path) == 0  # and our own results are not looked at
    assert len(list(tmp_path.glob("*_emotion*.png"))) == 2


def test_with_a_folder_of_results_those_of_other_folders_stay(tmp_path, checkpoints):
    """Though the pictures have one name. Beside its picture a result is known also where the folder was moved."""
    out, folders = tmp_path / "out", [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        Image.fromarray(draw_face(number, (0, 0, 0), 1)).save(folder / "a.png")
    for folder in (*folders, *folders):
        assert run(checkpoints, folder / "a.png", "--out", out) == 0
        assert run(checkpoints, folder / "a.png") == 0
    assert sorted(path.name for path in out.iterdir()) == ["a_emotion-2.png", "a_emotion.png"]
    for folder, name in zip(folders, ("a_emotion.png", "a_emotion-2.png"), strict=True):
        assert (out / name).read_bytes() == (folder / "a_emotion.png").read_bytes()
    moved = folders[0].rename(tmp_path / "three")
    assert run(checkpoints, moved) == 0 and len(list(moved.iterdir())) == 2


def test_results_of_earlier_versions_are_known_by_the_name_alone(tmp_path, checkpoints):
    write_faces(tmp_path / "faces", 1)
    out, texts = tmp_path / "out", PngInfo()
    out.mkdir()
    for name, text in (("Software", places.OURS), ("Source", "000.png")):
        texts.add_itxt(name, text)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(out / "000_emotion.png", pnginfo=texts)
    assert run(checkpoints, tmp_path / "faces", "--out", out) == 0
    assert [path.name for path in out.iterdir()] == ["000_emotion.png"]
    assert Image.open(out / "000_emotion.png").width > 500


def test_pictures_of_the_user_that_are_named_as_results_are_looked_at(tmp_path, checkpoints):
    """Though a result of that name is there, too, in the format of results."""
    write_faces(tmp_path, 1)
    mine = tmp_path / "000_emotion.jpg"
    Image.fromarray(draw_face(3, (0, 0, 0), 1)).save(mine)
    for _ in range(2):
        assert run(checkpoints, tmp_path, "--csv", tmp_path / "all.csv") == 0
        assert [row["file"][-15:] for row in read_table(tmp_path / "all.csv")][-1] == mine.name
    assert sorted(path.name for path in tmp_path.glob("000_emotion*")) == [
        "000_emotion.jpg",
        "000_emotion.png",
        "000_emotion_emotion.png",
    ]


@pytest.mark.parametrize("beside", [True, False])
def test_results_are_left_out_where_what_they_are_about_is_given_too(tmp_path, checkpoints, capsys, beside):
    write_faces(tmp_path, 2)
    given = [tmp_path / "*.png"] if beside else [tmp_path / "*.png", tmp_path / "out" / "*.png"]
    flags = [] if beside else ["--out", tmp_path / "out"]
    assert run(checkpoints, tmp_path / "*.png", *flags) == 0
    assert "left out" not in capsys.readouterr().out
    assert run(checkpoints, *given, *flags, "--csv", tmp_path / "all.csv") == 0
    assert "Results of earlier runs that were left out: 2\n" in capsys.readouterr().out
    assert [row["file"][-7:] for row in read_table(tmp_path / "all.csv")] == ["000.png", "001.png"]
    result = (tmp_path if beside else tmp_path / "out") / "001_emotion.png"
    assert places.expand([tmp_path / "000.png", result], False) == ([tmp_path / "000.png", result], 0)


def test_a_folder_of_nothing_but_results_says_what_was_left_out(tmp_path, checkpoints, capsys):
    write_faces(tmp_path / "faces", 2)
    assert run(checkpoints, tmp_path / "faces", "--out", tmp_path / "out") == 0
    with pytest.raises(UserError, match="Nothing to look at"):
        run(checkpoints, tmp_path / "out")
    assert "Results of earlier runs that were left out: 2\n" in capsys.readouterr().out


def test_folders_below_are_only_searched_when_asked(tmp_path, checkpoints):
    write_faces(tmp_path / "top", 1)
    write_faces(tmp_path / "top" / "below", 2)
    for flags, count in (((), 1), (("--recursive",), 3)):
        assert run(checkpoints, tmp_path / "top", "--csv", tmp_path / "all.csv", "--no-pictures", *flags) == 0
        assert len(read_table(tmp_path / "all.csv")) == count


def test_quiet_is_quiet(tmp_path, checkpoints, capsys):
    write_faces(tmp_path, 1)
    for _ in range(2):  # the second time an earlier table is moved, and results are left out
        assert run(checkpoints, tmp_path, "--quiet", "--csv", tmp_path / "all.csv") == 0
        assert capsys.readouterr() == ("", "")
    assert list((tmp_path / "previous").rglob("all.csv"))


def test_a_folder_that_refuses_results_is_told(tmp_path, checkpoints):
    write_faces(tmp_path, 1)
    (tmp_path / "file").write_text("")
    for flags in (["--out", tmp_path / "file"], ["--csv", tmp_path / "file" / "all.csv"]):
        with pytest.raises(UserError, match="could not be written"):
            run(checkpoints, tmp_path / "000.png", *flags)


def test_of_animations_and_many_pages_the_first_is_said_to_be_all(tmp_path, checkpoints, capsys):
    face, other = (Image.fromarray(draw_face(number, (0, 0, 0), 1)) for number in (3, 4))
    for name in ("moves.gif", "pages.tif"):
        face.save(tmp_path / name, save_all=True, append_images=[other])
    face.save(tmp_path / "still.gif")
    given = [tmp_path / name for name in ("moves.gif", "pages.tif", "still.gif")]
    assert run(checkpoints, *given, "--no-pictures") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "only the first" in line]
    assert said == [
        f"{given[0]}: only the first of its frames is looked at",
        f"{given[1]}: only the first of its pages is looked at",
    ]
    assert run(checkpoints, *given, "--no-pictures", "--quiet") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("flag", ["--csv", "--json"])
@pytest.mark.parametrize("name", ["a.JPG", "film.mp4"])
def test_a_table_takes_no_name_of_a_picture_or_a_video(tmp_path, checkpoints, monkeypatch, flag, name):
    """As of `--csv *.jpg`, which the shell expands."""
    write_faces(tmp_path, 1)
    (tmp_path / name).write_bytes(b"mine")
    monkeypatch.setattr(visualize, "EmotionRecognizer", None)  # it is told before anything is loaded
    with pytest.raises(UserError, match=rf"{name}: a table would take .*faces\.{flag[2:]}"):
        run(checkpoints, flag, tmp_path / name, tmp_path / "000.png")
    assert (tmp_path / name).read_bytes() == b"mine" and not (tmp_path / "previous").exists()


def test_nothing_to_look_at_is_told(tmp_path, checkpoints):
    with pytest.raises(UserError, match="Nothing to look at"):
        run(checkpoints, tmp_path)


@pytest.fixture
def film(tmp_path):
    """A video of 12 frames at 6 a second: a face that moves, none in the last three."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 6, (600, 400))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no videos")
    for number in range(12):
        frame = pasted([(40 + 10 * number, 60)] if number < 9 else [], 160)
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()
    return path


def test_a_video_gives_a_video_a_time_line_and_a_plot(film, tmp_path, checkpoints):
    out = tmp_path / "out"
    assert run(checkpoints, film, "--out", out, "--csv", tmp_path / "all.csv") == 0
    rows = read_table(out / "film_emotion.csv")
    frames = [int(row["frame"]) for row in rows if row["face"] == "1"]
    assert frames == sorted(set(frames)) and 6 <= len(frames) <= 9 and max(frames) <= 8
    assert all(float(row["seconds"]) == pytest.approx(int(row["frame"]) / 6, abs=1e-3) for row in rows)
    assert read_table(tmp_path / "all.csv") == rows
    capture = cv2.VideoCapture(str(out / "film_emotion.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 12 and capture.get(cv2.CAP_PROP_FPS) == pytest.approx(6)
    capture.release()
    assert Image.open(out / "film_emotion.png").size[0] > 500
    assert not list(out.glob("*unfinished*")) and not list(out.glob("*.unfinished"))


def test_ctrl_c_in_a_video_keeps_what_was_read_so_far(film, tmp_path, checkpoints, monkeypatch):
    out, seen = tmp_path / "out", []

    def interrupted(frame, faces):
        seen.append(frame)
        if len(seen) == 7:
            raise KeyboardInterrupt
        return frame

    monkeypatch.setattr("inference.videos.video.annotate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoints, film, "--out", out, "--csv", tmp_path / "all.csv")
    rows = read_table(out / "film_emotion.csv")
    assert rows and max(int(row["frame"]) for row in rows) <= 5 and read_table(tmp_path / "all.csv") == rows
    capture = cv2.VideoCapture(str(out / "film_emotion.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    capture.release()


def test_ctrl_c_before_the_first_frame_of_a_video_leaves_nothing(film, tmp_path, checkpoints, monkeypatch):
    def interrupted(watcher, frame, seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("inference.videos.video.Watcher.find", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoints, film, "--out", tmp_path / "out")
    assert not list((tmp_path / "out").glob("film*"))


def test_what_a_killed_program_left_of_a_video_is_no_video_of_the_user(film, tmp_path):
    """Its name ends as that of a video, which OpenCV wants."""
    left = tmp_path / "film_emotion.mp4.e8631dc9.unfinished.mp4"
    mine = tmp_path / "holiday.unfinished.mp4"
    for path in (left, mine):
        path.write_bytes(b"half of it")
    found, _ = places.expand([tmp_path], False)
    assert {path.name for path in found} == {film.name, mine.name}


def test_a_video_that_is_none_is_told(tmp_path, checkpoints, capsys):
    (tmp_path / "film.mp4").write_bytes(b"nothing")
    assert run(checkpoints, tmp_path / "film.mp4") == 1
    assert "film.mp4 cannot be opened" in capsys.readouterr().err
    assert not list(tmp_path.glob("*_emotion*"))


def test_a_video_and_a_picture_of_one_name_keep_their_own_results(film, tmp_path, checkpoints):
    """Nor is anybody's file of such a name written over, however often they are looked at."""
    still = tmp_path / "film.png"
    Image.fromarray(draw_face(3, (1, 1, 1), 5)).save(still)
    mine = tmp_path / "film_emotion.csv"
    mine.write_text("mine")
    for _ in range(2):
        assert run(checkpoints, still, film, "--quiet") == 0
    names = {path.name for path in tmp_path.glob("film_emotion*")}
    assert names == {
        "film_emotion.csv",
        "film_emotion.png",
        *(f"film_emotion-2{kind}" for kind in (".csv", "_people.csv", ".mp4", ".png")),
    }
    assert mine.read_text() == "mine"
    assert places.marks_of(tmp_path / "film_emotion.png")["Source"] == "film.png"
    assert places.marks_of(tmp_path / "film_emotion-2.mp4")["Source"] == "film.avi"
    assert places.expand([tmp_path], False) == ([film, still], 3)
    assert places.expand([path for path in tmp_path.iterdir() if path.suffix != ".csv"], False)[1] == 3


def test_a_video_of_another_is_no_result_of_a_picture(tmp_path, checkpoints):
    Image.fromarray(draw_face(3, (1, 1, 1), 5)).save(tmp_path / "film.png")
    assert run(checkpoints, tmp_path / "film.png", "--quiet") == 0
    mine = tmp_path / "film_emotion.mp4"
    mine.write_bytes(b"mine")
    assert mine in places.expand([tmp_path], False)[0]


def test_a_video_in_another_format_is_no_result_of_a_video(film, tmp_path, checkpoints):
    assert run(checkpoints, film, "--quiet") == 0
    mine = tmp_path / "film_emotion.avi"
    mine.write_bytes(b"mine")
    assert places.expand([tmp_path], False) == ([film, mine], 2)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--webcam", "0", "{face}"], "a FILE means nothing with --webcam"),
        (["--webcam", "--no-pictures"], "--no-pictures means nothing with --webcam"),
        (["{face}", "--no-pictures", "--explain"], "--explain means nothing with --no-pictures"),
        (["{face}", "--every", "3"], "--every is for videos"),
        (["{face}", "--smooth", "1"], "--smooth is for videos"),
        (["{folder}/film.mp4", "--explain"], "--explain is for pictures"),
        (["{face}", "--csv", "{folder}/a", "--json", "{folder}/b/../a"], "--csv and --json both name .*a: give two"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, checkpoints, flags, told):
    write_faces(tmp_path, 1)
    with pytest.raises(UserError, match=told):
        run(checkpoints, *(flag.format(face=tmp_path / "000.png", folder=tmp_path) for flag in flags))


def test_a_reader_that_went_away_is_not_told_as_a_full_disk(tmp_path):
    def gone(*arguments):
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError), results.table(tmp_path / "a.csv", tmp_path / "a.json"):
        gone()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file_that_could_not_be_written(tmp_path, monkeypatch):
    row = dict.fromkeys(results.COLUMNS, 1)
    with pytest.raises(UserError, match=r"b\.json could not be written \(No space"):
        with results.table(tmp_path / "a.csv", tmp_path / "b.json") as add:
            add(row)
            monkeypatch.setattr(json, "dumps", full_disk)
    assert not list(tmp_path.iterdir())


def full_disk(*arguments):
    raise OSError(28, "No space left on device")


def test_a_camera_needs_a_display(checkpoints, monkeypatch):
    monkeypatch.setattr(visualize, "has_window", lambda pyplot: False)
    with pytest.raises(UserError, match="no display"):
        run(checkpoints, "--webcam")


def test_a_camera_that_gives_no_picture_is_told(checkpoints, monkeypatch):
    """One that another program uses is opened all the same."""
    camera = MagicMock()
    camera.isOpened.return_value, camera.read.return_value = True, (False, None)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: camera)
    monkeypatch.setattr(visualize, "has_window", lambda pyplot: True)
    with pytest.raises(UserError, match="Camera 0 gives no picture: close other programs"):
        run(checkpoints, "--webcam")


def test_a_font_that_has_gone_since_matplotlib_listed_it_is_done_without(tmp_path, monkeypatch):
    gone = font_manager.FontEntry(fname=str(tmp_path / "Nirmala.ttf"), name="Nirmala UI")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist, gone])
    figures._fonts.cache_clear()
    figures.set_title(Figure().add_subplot(), "a face")
    figures._fonts.cache_clear()


class Attack:
    def __reduce__(self):
        return (open, ("attacked", "w"))


def test_checkpoints_that_are_none_are_told(tmp_path, checkpoints, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="has no checkpoint"):
        load_networks(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        load_networks(tmp_path / "none")
    file = tmp_path / TASKS["classify"].checkpoint("PrivateTest")
    for content in (b"", b"text", pickle.dumps(Attack())):
        file.write_bytes(content)
        with pytest.raises(UserError, match="is not a readable checkpoint"):
            load_networks(tmp_path)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["Joy", "Fear"]}, "other emotions"),
        ({"model": "Unknown"}, "Unknown"),
    ],
)
def test_checkpoints_of_something_else_are_told(tmp_path, changes, message):
    save(tmp_path, make_model(), **changes)
    with pytest.raises(UserError, match=message):
        load_networks(tmp_path)


def test_checkpoints_of_two_datasets_are_told(tmp_path):
    save(tmp_path, make_model())
    save(tmp_path, make_model(1), ["regressV"], dataset="Demo")
    with pytest.raises(UserError, match="several datasets"):
        load_networks(tmp_path)


def test_weights_that_are_no_numbers_are_told(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.heads["classify"].bias[0] = float("nan")
    save(tmp_path, model)
    with pytest.raises(UserError, match="diverged"):
        load_networks(tmp_path)


def test_drawn_faces_are_no_training_for_real_ones(tmp_path, capsys):
    save(tmp_path, make_model(), dataset="Demo")
    write_faces(tmp_path / "faces", 1)
    assert run(tmp_path, tmp_path / "faces", "--no-pictures") == 0
    assert "do not trust" in capsys.readouterr().out


def a_face(number, box=None):
    values = np.random.default_rng(number).dirichlet(np.ones(7)).tolist()
    return Face(box or Box(50 * number, 10, 40), dict(zip(EMOTIONS, values, strict=True)), 0.1 * number, -0.5, 0.7)


def test_the_figure_shows_boxes_bars_and_points():
    faces = [a_face(1), a_face(2)]
    figure = figures.draw(np.zeros((100, 200, 3), np.uint8), faces, "photo.jpg")
    photo, plane = figure.axes[:2]
    (bars,) = [axes for axes in figure.axes if axes.get_xlabel() == "probability"]
    assert [patch.get_xy() for patch in photo.patches] == [(50, 10), (100, 10)]
    assert [patch.get_width() for patch in photo.patches] == [40, 40]
    assert [text.get_text() for text in photo.texts] == [
        f"{number} {face.emotion} {face.probability:.0%}{'?' if face.unsure else ''}"
        for number, face in enumerate(faces, 1)
    ]
    (points,) = plane.collections
    assert np.allclose(points.get_offsets(), [[0.1, -0.5], [0.2, -0.5]])
    assert np.allclose(points.get_array(), [0.7, 0.7]) and points.get_clim() == (-2, 2)
    widths = [bar.get_width() for bar in bars.patches]
    assert widths == pytest.approx([p for face in faces for p in face.probabilities.values()])


def pixels(figure):
    """RGBA of a whole figure, (720, 1280, 4)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).astype(int)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_axes_that_are_drawn_once_look_as_those_of_a_figure_of_their_own(count):
    faces = [a_face(number) for number in range(count)]
    whole = Figure(figsize=(12.8, 7.2), dpi=100)
    plane, bars = whole.add_axes(figures.PLANE), whole.add_axes(figures.BARS)
    figures.frame_plane(plane)
    figures.draw_points(plane, list(enumerate(faces, 1)), count > 1)
    if faces:
        figures.explain_dominance(whole.add_axes(figures.PLANE_BAR))
    figures.frame_bars(bars)
    figures.draw_bars(bars, faces)
    for _ in range(2):  # the second one has them already
        drawn = figures.draw(np.zeros((100, 200, 3), np.uint8), faces)
        different = np.abs(pixels(drawn) - pixels(whole))[:, 790:].max(axis=2) > 0  # right of the picture
        assert not different[:380].any()
        assert different.mean() < 0.005  # a bar hides half of the line from which it begins


def test_the_figure_of_many_faces_has_a_row_for_each():
    faces = [a_face(number) for number in range(12)]
    figure = figures.draw(np.zeros((100, 700, 3), np.uint8), faces)
    (shades,) = [
        axes.images[0].get_array() for axes in figure.axes if axes.images and len(axes.images[0].get_array()) == 12
    ]
    assert np.allclose(shades, [list(face.probabilities.values()) for face in faces])


def test_the_figure_of_no_face_says_so():
    figure = figures.draw(np.zeros((100, 200, 3), np.uint8), [], "wall.png")
    assert figure.axes[0].get_title() == "wall.png: no face found"


def test_each_person_has_a_time_line():
    """Its lines go on however far apart looks were."""
    people = {
        1: [(seconds, 0.1, 0.2, 0.3, 3) for seconds in (0.0, 0.1, 5.0)],
        4: [(seconds, -1.0, float("nan"), 0.5, 0) for seconds in (1.0, 1.1)],
    }
    figure = figures.draw_timelines(people, "film $1$")
    first, below, second, _ = figure.axes
    assert first.get_title() == "film $1$" and first.get_ylabel() == "face 1" and second.get_ylabel() == "face 4"
    valence = next(line for line in first.lines if line.get_label() == "valence")
    assert np.allclose(valence.get_ydata(), 0.1) and np.allclose(valence.get_xdata(), [0, 0.1, 5])
    assert len(below.collections[0].get_offsets()) == 3


def test_of_many_people_those_who_are_seen_longest_have_a_time_line():
    people = {number: [(0.1 * k, 0, 0, 0, 6) for k in range(number)] for number in range(1, 12)}
    figure = figures.draw_timelines(people, "film")
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == [f"face {number}" for number in range(6, 12)]
    assert "6 of 11 people" in figure.axes[0].get_title()
    assert "no face found" in figures.draw_timelines({}, "film").axes[0].get_title()
