"""visualize.py as its user runs it: pictures, folders, tables, figures, errors."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import visualize
from data.demo.drawing import draw_face
from inference import EmotionRecognizer, Face, figures
from inference.detection import Box
from inference.output import COLUMNS, OutputPaths, TableWriter, find_inputs
from tests.harness import (
    make_model,
    paste_faces,
    run_visualize,
    save_checkpoints,
    write_faces,
    write_film,
)
from utils.files import UserError
from utils.tasks import EMOTIONS


def read_table(path):
    with open(path, newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream))


def names(folder, pattern="*"):
    return sorted(path.name for path in folder.glob(pattern))


def save_wall(path):
    Image.fromarray(np.full((300, 400), 90, np.uint8)).save(path)


def test_a_folder_gives_tables_pictures_and_lines(tmp_path, checkpoints, capsys):
    folder, out = write_faces(tmp_path / "faces", 5), tmp_path / "out"
    recognizer = EmotionRecognizer(checkpoints, device="cpu")
    tables = ["--csv", tmp_path / "all.csv", "--json", tmp_path / "all.json"]
    assert run_visualize(checkpoints, folder, "--out", out, *tables) == 0
    rows, objects = read_table(tables[1]), json.loads(tables[3].read_text())
    printed = capsys.readouterr().out
    assert "unpleasant .. 2 pleasant" in printed and len(rows) == len(objects) == 5
    for path, row, values in zip(sorted(folder.iterdir()), rows, objects, strict=True):
        (expected,) = recognizer.recognize(path)
        assert tuple(row) == tuple(values) == COLUMNS and row["file"] == str(path)
        assert values == pytest.approx(expected.to_dict(), abs=0.01)  # bf16, of one face or more
        assert float(row["valence"]) == pytest.approx(values["valence"], abs=6e-5)
        assert [row[side] for side in ("left", "top", "right", "bottom")] == ["0", "0", "48", "48"]
        shares = [float(row[name.lower()]) for name in EMOTIONS]
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        assert f"{values['emotion']} {values['probability']:.0%}" in printed
    assert names(out) == [f"{number:03}_emotion.png" for number in range(5)]


def test_a_picture_without_faces_is_reported(tmp_path, checkpoints, capsys):
    save_wall(tmp_path / "wall.png")
    tables = ["--csv", tmp_path / "all.csv", "--json", tmp_path / "all.json"]
    assert run_visualize(checkpoints, tmp_path / "wall.png", *tables) == 0
    assert "wall.png: no face found" in capsys.readouterr().out
    assert read_table(tables[1]) == [] == json.loads(tables[3].read_text())
    assert (tmp_path / "wall_emotion.png").exists()


def test_face_none_takes_the_centre_square(tmp_path, checkpoints):
    Image.fromarray(paste_faces([(40, 60)], 160)).save(tmp_path / "a.png")
    flags = ["--face", "none", "--csv", tmp_path / "all.csv", "--no-pictures"]
    assert run_visualize(checkpoints, tmp_path / "a.png", *flags) == 0
    (row,) = read_table(tmp_path / "all.csv")
    assert [row[side] for side in ("left", "top", "right", "bottom")] == ["100", "0", "500", "400"]


def test_any_name_can_be_drawn(tmp_path, checkpoints, recwarn):
    """It is no mathematics, and each letter is there, or a square for it."""
    letters = "\N{CJK UNIFIED IDEOGRAPH-4E2D}\N{DEVANAGARI LETTER KA}"
    for name in ("cash$50_$.png", "a_{b}^c\\frac.png", f"{letters}.png"):
        Image.fromarray(draw_face(3, (0, 0, 0), 1)).save(tmp_path / name)
    assert run_visualize(checkpoints, tmp_path) == 0
    assert len(names(tmp_path, "*_emotion.png")) == 3
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


# What is read


def test_patterns_and_folders_are_listed_once(tmp_path):
    for name in ("b.png", "a.png", "c.txt", "[d].png", "film.mp4.e8631dc9.unfinished.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "e.JPG").touch()
    pictures = [tmp_path / name for name in ("[d].png", "a.png", "b.png")]
    assert find_inputs([tmp_path]) == (pictures, [])
    below = tmp_path / "below" / "e.JPG"
    assert sorted(find_inputs([tmp_path], recursive=True)[0]) == sorted([*pictures, below])
    assert find_inputs([tmp_path, tmp_path / "a.png", tmp_path / "?.png"]) == (pictures, [])
    assert find_inputs([tmp_path / "[d].png"]) == (pictures[:1], [])  # which is there
    missing = tmp_path / "*.jpg"
    assert find_inputs([missing]) == ([missing], [])  # to be reported


def test_a_bad_file_does_not_stop_the_others(tmp_path, checkpoints, capsys):
    folder = write_faces(tmp_path / "faces", 3)
    (folder / "001.png").write_bytes(b"broken")
    (folder / "film.mp4").write_bytes(b"nothing")
    flags = ["--csv", tmp_path / "all.csv", "--no-pictures"]
    assert run_visualize(checkpoints, folder, tmp_path / "gone.jpg", *flags) == 1
    assert [row["file"][-7:] for row in read_table(tmp_path / "all.csv")] == ["000.png", "002.png"]
    errors = capsys.readouterr().err
    assert all(word in errors for word in ("001.png", "gone.jpg", "film.mp4", "3 of 5"))


@pytest.mark.parametrize("below", [True, False])
def test_a_folder_that_cannot_be_listed_is_reported(
    tmp_path, checkpoints, monkeypatch, capsys, below
):
    """As without rights, which are no matter to root."""
    folder = write_faces(tmp_path / "faces", 2)
    secret = write_faces((folder if below else tmp_path) / "secret", 1)
    for name in ("listdir", "scandir"):
        original = getattr(os, name)

        def refuse(path=".", original=original):
            if Path(path) == secret:
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return original(path)

        monkeypatch.setattr(os, name, refuse)
    given = [folder, "--recursive"] if below else [secret, folder]
    assert run_visualize(checkpoints, *given, "--csv", tmp_path / "all.csv", "--no-pictures") == 1
    assert [row["file"][-7:] for row in read_table(tmp_path / "all.csv")] == ["000.png", "001.png"]
    assert f"{secret} cannot be read" in capsys.readouterr().err


def test_of_several_frames_or_pages_the_first_is_read(tmp_path, checkpoints, capsys):
    face, other = (Image.fromarray(draw_face(number, (0, 0, 0), 1)) for number in (3, 4))
    for name in ("moves.gif", "pages.tif"):
        face.save(tmp_path / name, save_all=True, append_images=[other])
    face.save(tmp_path / "still.gif")
    assert run_visualize(checkpoints, tmp_path, "--no-pictures") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "only the first" in line]
    assert ["moves.gif" in lines[0] and "frames" in lines[0], "pages" in lines[1]] == [True, True]
    assert len(lines) == 2


def test_results_of_earlier_runs_are_left_out(tmp_path, checkpoints, capsys):
    """A picture of the user that has such a name is read."""
    write_faces(tmp_path, 2)
    mine = tmp_path / "000_emotion.jpg"
    Image.fromarray(draw_face(3, (0, 0, 0), 1)).save(mine)
    for _ in range(2):
        assert run_visualize(checkpoints, tmp_path, "--csv", tmp_path / "all.csv") == 0
        files = {Path(row["file"]).name for row in read_table(tmp_path / "all.csv")}
        assert files == {"000.png", mine.name, "001.png"}
    assert "left out: 3" in capsys.readouterr().out
    results = ["000_emotion.png", "000_emotion_emotion.png", "001_emotion.png"]
    assert names(tmp_path, "*_emotion.png") == results
    (tmp_path / "out").mkdir()
    for name in results:
        (tmp_path / name).rename(tmp_path / "out" / name)
    with pytest.raises(UserError, match="Nothing to read"):
        run_visualize(checkpoints, tmp_path / "out")


# What is written


def test_a_result_is_replaced_and_nothing_else(tmp_path, checkpoints):
    """With pictures or without."""
    write_faces(tmp_path, 1)
    mine = tmp_path / "000_emotion.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(mine)
    before = mine.read_bytes()
    for flags in ((), (), ("--no-pictures",)):
        table = ["--csv", tmp_path / "all.csv", "--json", tmp_path / "all.json"]
        assert run_visualize(checkpoints, tmp_path / "000.png", *table, *flags) == 0
        assert len(read_table(tmp_path / "all.csv")) == 1
    assert mine.read_bytes() == before
    assert len(names(tmp_path)) == 5 and len(names(tmp_path, "000-*_emotion.png")) == 1


@pytest.mark.parametrize("content", ["mine", "file,emotion\na.png,Happy\n", "[1]", ""])
@pytest.mark.parametrize("flag", ["--csv", "--json"])
def test_a_table_of_the_user_is_never_replaced(tmp_path, checkpoints, flag, content):
    write_faces(tmp_path, 1)
    (tmp_path / "mine").write_text(content)
    with pytest.raises(UserError, match="mine exists"):
        run_visualize(checkpoints, tmp_path / "000.png", flag, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == content


def test_a_table_with_a_column_of_the_user_is_the_users(tmp_path):
    with TableWriter(tmp_path / "a.csv"):
        pass
    text = (tmp_path / "a.csv").read_text(encoding="utf-8")
    (tmp_path / "a.csv").write_text(text.replace("\n", ",notes\n"), encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.csv exists"):
        TableWriter(tmp_path / "a.csv")


def test_results_of_pictures_of_one_name_do_not_meet(tmp_path, checkpoints):
    """Beside each other, or in one folder for all; a folder may be moved with its results."""
    face = Image.fromarray(draw_face(0, (0, 0, 0), 1))
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        for name in ("a.png", "a.bmp"):
            face.save(folder / name)
    for _ in range(2):
        assert run_visualize(checkpoints, *folders) == 0
        assert run_visualize(checkpoints, *folders, "--out", tmp_path / "out") == 0
    assert len(names(folders[0])) == 4 and len(names(tmp_path / "out")) == 4
    moved = folders[0].rename(tmp_path / "three")
    sources = [moved / "a.bmp", moved / "a.png"]
    paths = [OutputPaths().path(source, "_emotion.png") for source in sources]
    assert moved / "a_emotion.png" in paths


def test_names_as_long_as_they_may_be_have_results(tmp_path, checkpoints):
    letter = "\N{LATIN SMALL LETTER E WITH ACUTE}"
    for name in (f"{250 * 'x'}1.png", f"{250 * 'x'}2.png", f"a{125 * letter}.png"):
        Image.fromarray(draw_face(0, (0, 0, 0), 1)).save(tmp_path / name)
    for _ in range(2):
        assert run_visualize(checkpoints, tmp_path) == 0
    assert len(names(tmp_path, "*_emotion.png")) == 3


@pytest.mark.parametrize("error", [UserError("no room"), KeyboardInterrupt(), RuntimeError("odd")])
def test_rows_so_far_are_written_whatever_happens(tmp_path, checkpoints, monkeypatch, error):
    write_faces(tmp_path / "faces", 4)
    drawn, save_figure = [], visualize.save_figure

    def fail(*arguments):
        drawn.append(arguments)
        if len(drawn) == 3:
            raise error
        save_figure(*arguments)

    monkeypatch.setattr(visualize, "save_figure", fail)
    tables = ["--csv", tmp_path / "all.csv", "--json", tmp_path / "all.json"]
    with pytest.raises(type(error)):
        run_visualize(checkpoints, tmp_path / "faces", *tables)
    files = [row["file"][-7:] for row in read_table(tmp_path / "all.csv")]
    assert files == ["000.png", "001.png", "002.png"]
    assert len(json.loads((tmp_path / "all.json").read_text())) == 3


@pytest.mark.parametrize(
    "error", [UserError("no room"), KeyboardInterrupt(), BrokenPipeError(32, "")]
)
def test_an_error_before_the_first_row_leaves_the_earlier_table(tmp_path, error):
    for _ in range(2):
        with TableWriter(tmp_path / "a.csv") as table:
            table.add({"face": 7})
    with pytest.raises(type(error)), TableWriter(tmp_path / "a.csv"):
        raise error
    assert [row["face"] for row in read_table(tmp_path / "a.csv")] == ["7"]
    assert names(tmp_path) == ["a.csv"]


def test_a_folder_that_refuses_results_is_reported(tmp_path, checkpoints):
    write_faces(tmp_path, 1)
    (tmp_path / "file").write_text("")
    for flags in (["--out", tmp_path / "file"], ["--csv", tmp_path / "file" / "all.csv"]):
        with pytest.raises(UserError, match="could not be written"):
            run_visualize(checkpoints, tmp_path / "000.png", *flags)


def test_quiet_prints_errors_only(tmp_path, checkpoints, capsys):
    write_faces(tmp_path, 1)
    film = write_film(tmp_path / "film.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3)
    for _ in range(2):  # the second time results are replaced and left out
        flags = ["--quiet", "--csv", tmp_path / "all.csv"]
        assert run_visualize(checkpoints, tmp_path, film, *flags) == 0
        assert capsys.readouterr() == ("", "")


# What is refused

BAD_FLAGS = {
    "--webcam 0 {face}": "--webcam",
    "--webcam --no-pictures": "--no-pictures",
    "{face} --no-pictures --explain": "--explain",
    "{face} --every 3": "--every",
    "{face} --smooth 1": "--smooth",
    "{folder}/film.mp4 --explain": "--explain",
    "{face} --confidence 2": "confidence",
    "{face} --csv {folder}/a --json {folder}/b/../a": "two names",
    "--csv {folder}/a.JPG {face}": "a.JPG",  # as of --csv *.jpg, which a shell expands
    "--json {folder}/film.mp4 {face}": "film.mp4",
    "{folder}/none": "Nothing to read",
}


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_flags_that_mean_nothing_are_refused(tmp_path, checkpoints, flags):
    write_faces(tmp_path, 1)
    (tmp_path / "none").mkdir()
    places = {"face": tmp_path / "000.png", "folder": tmp_path}
    with pytest.raises(UserError, match=BAD_FLAGS[flags]):
        run_visualize(checkpoints, *(flag.format(**places) for flag in flags.split()))


@pytest.mark.parametrize(
    "flags",
    [["https://example.org/a.jpg"], ["--webcam", "front"], ["a.mp4", "--every", "0"], ["--show"]],
)
def test_values_that_cannot_be_read_are_refused(checkpoints, flags):
    with pytest.raises(SystemExit) as stopped:
        run_visualize(checkpoints, *flags)
    assert stopped.value.code == 2


def test_help_fits_on_a_screen():
    assert visualize.build_parser().format_help().count("\n") <= 50


def test_a_picture_that_pillow_refuses_to_look_into_is_reported(tmp_path, checkpoints, capsys):
    texts = PngInfo()
    texts.add_text("Comment", 2_000_000 * "x", zip=True)
    face = Image.fromarray(draw_face(3, (0, 0, 0), 1))
    face.save(tmp_path / "a_emotion.png", pnginfo=texts)
    assert run_visualize(checkpoints, tmp_path, "--no-pictures") == 1
    assert "a_emotion.png cannot be read" in capsys.readouterr().err


def test_networks_of_drawn_faces_are_not_trusted(tmp_path, capsys):
    folder = write_faces(tmp_path / "faces", 1)
    save_checkpoints(tmp_path, make_model(), dataset="Demo")
    assert run_visualize(tmp_path, folder, "--no-pictures") == 0
    assert "do not trust" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("split", "word"), [("PrivateTest", "private split"), ("PublicTest", "public split")]
)
def test_the_checkpoints_are_named_with_the_reason(tmp_path, capsys, split, word):
    folder = write_faces(tmp_path / "faces", 1)
    save_checkpoints(tmp_path, make_model(), split=split)
    assert run_visualize(tmp_path, folder, "--no-pictures") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if split in line)
    assert word in line


# Figures


def a_face(number, box=None):
    values = np.random.default_rng(number).dirichlet(np.ones(7)).tolist()
    probabilities = dict(zip(EMOTIONS, values, strict=True))
    box = box or Box(50 * number, 10, 40)
    return Face(box, probabilities, 0.1 * number, -0.5, 0.7, number=number)


def test_the_figure_shows_boxes_bars_and_points():
    faces = [a_face(1), a_face(2)]
    figure = figures.plot_faces(np.zeros((100, 200, 3), np.uint8), faces, "cash$50_$.jpg")
    photo, plane = figure.axes[:2]
    (bars,) = [axes for axes in figure.axes if axes.get_xlabel() == "probability"]
    assert photo.get_title() == "cash$50_$.jpg"
    assert [patch.get_xy() for patch in photo.patches] == [(50, 10), (100, 10)]
    assert [patch.get_width() for patch in photo.patches] == [40, 40]
    for text, face in zip(photo.texts, faces, strict=True):
        assert text.get_text().startswith(f"{face.number} {face.emotion} {face.probability:.0%}")
    (points,) = plane.collections
    assert np.allclose(points.get_offsets(), [[0.1, -0.5], [0.2, -0.5]])
    assert np.allclose(points.get_array(), [0.7, 0.7]) and points.get_clim() == (-2, 2)
    widths = [bar.get_width() for bar in bars.patches]
    assert widths == pytest.approx(
        [*faces[0].probabilities.values(), *faces[1].probabilities.values()]
    )


def pixels(figure):
    """RGBA of a whole figure, (720, 1280, 4)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).astype(int)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_axes_that_are_drawn_once_look_as_those_of_a_figure_of_their_own(count):
    faces = [a_face(number) for number in range(1, count + 1)]
    whole = Figure(figsize=(12.8, 7.2), dpi=100)
    plane, bars = whole.add_axes(figures.PLANE), whole.add_axes(figures.BARS)
    figures.frame_plane(plane)
    figures.draw_points(plane, faces, count > 1)
    if faces:
        figures.draw_colour_bar(whole.add_axes(figures.COLOUR_BAR))
    figures.frame_bars(bars)
    figures.draw_bars(bars, faces)
    for _ in range(2):  # the second one has them already
        drawn = figures.plot_faces(np.zeros((100, 200, 3), np.uint8), faces)
        different = np.abs(pixels(drawn) - pixels(whole))[:, 790:].max(axis=2) > 0
        assert not different[:380].any()
        assert different.mean() < 0.005  # a bar hides half of the line from which it begins


def test_the_figure_of_many_faces_has_a_row_for_each():
    faces = [a_face(number) for number in range(1, 13)]
    figure = figures.plot_faces(np.zeros((100, 700, 3), np.uint8), faces)
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    (shades,) = [image for image in images if len(image) == 12]
    assert np.allclose(shades, [list(face.probabilities.values()) for face in faces])


def test_the_figure_of_no_face_says_so():
    figure = figures.plot_faces(np.zeros((100, 200), np.uint8), [], "wall.png")
    assert figure.axes[0].get_title() == "wall.png: no face found"


def test_what_spoke_for_an_emotion_is_drawn(tmp_path, checkpoints):
    write_faces(tmp_path, 1)
    sizes = []
    for flags in ((), ("--explain",)):
        assert run_visualize(checkpoints, tmp_path / "000.png", *flags) == 0
        with Image.open(tmp_path / "000_emotion.png") as image:
            sizes.append(np.asarray(image.convert("RGB"))[560:700, 20:150].std())
    assert sizes[1] > sizes[0] + 5


def test_a_font_that_has_gone_since_matplotlib_listed_it_is_no_error(tmp_path, monkeypatch):
    gone = font_manager.FontEntry(fname=str(tmp_path / "Nirmala.ttf"), name="Nirmala UI")
    fonts = [*font_manager.fontManager.ttflist, gone]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    axes = Figure().add_subplot()
    figures.set_title(axes, "a face")
    assert axes.get_title() == "a face"


def test_every_file_of_a_video_is_replaced_or_left(tmp_path, checkpoints):
    film = write_film(tmp_path / "film.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3)
    mine = tmp_path / "film_emotion.mp4"
    mine.write_bytes(b"mine")
    for _ in range(2):
        assert run_visualize(checkpoints, film, "--quiet") == 0
    assert mine.read_bytes() == b"mine"
    assert len(names(tmp_path, "film-*_emotion.mp4")) == 1
    endings = ["film_emotion.csv", "film_emotion.png", "film_emotion_people.csv"]
    assert [name for name in names(tmp_path, "film_emotion*") if name != mine.name] == endings
    assert len(names(tmp_path)) == 6
