"""Files are complete or absent, one run works in a folder at a time, images are read."""

import errno
import io
import json
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image, features

from tests.conftest import ROOT, run_program
from utils import files
from utils.files import UserError, atomic_write, exit_code, move_aside, path_argument, write_text
from utils.images import Unreadable, read_first, read_image, to_grey
from utils.lock import RUN_LOCK, exclusive_run
from utils.text import counted, spell_duration

GENERATOR = np.random.default_rng(0)
COLOUR = GENERATOR.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = GENERATOR.integers(0, 256, (20, 30), dtype=np.uint8)
unix = pytest.mark.skipif(sys.platform == "win32", reason="rights and pipes of Unix")


# Writing files


def test_a_failed_write_leaves_the_earlier_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("earlier")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "earlier" and os.listdir(tmp_path) == ["results.csv"]


def test_nothing_appears_under_the_name_before_it_is_complete(tmp_path):
    with atomic_write(tmp_path / "deep" / "new.txt") as temporary:
        temporary.write_text("content")
        assert not (tmp_path / "deep" / "new.txt").exists()
    assert (tmp_path / "deep" / "new.txt").read_text() == "content"


def test_text_is_utf8_with_unix_line_ends_and_other_files_are_left_alone(tmp_path):
    (tmp_path / "a.txt.tmp").write_text("mine")
    write_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "a.txt.tmp"]


@pytest.mark.parametrize(
    ("windows", "refusals", "held"), [(True, 2, False), (True, 99, True), (False, 1, True)]
)
def test_a_file_that_another_program_holds_is_tried_again(
    tmp_path, monkeypatch, windows, refusals, held
):
    """On Windows alone: elsewhere a refusal is a matter of rights."""
    rename, left = os.replace, [refusals]

    def refusing(source, target):
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(errno.EACCES, "Access is denied", os.fspath(target))
        rename(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    monkeypatch.setattr(files, "REFUSES_OPEN_FILES", windows)
    if held:
        with pytest.raises(PermissionError, match="open" if windows else "denied"):
            write_text(tmp_path / "a.txt", "x")
        assert os.listdir(tmp_path) == []
    else:
        write_text(tmp_path / "a.txt", "x")
        assert (tmp_path / "a.txt").read_text() == "x"


def test_moving_aside_twice_in_a_second_keeps_both(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda pattern: "20260101-000000")
    folders = []
    for text in ("first", "second"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "last.t7").write_text(text)
        folders.append(move_aside([tmp_path / "run" / "last.t7", tmp_path / "absent"], tmp_path))
    assert [(folder / "run" / "last.t7").read_text() for folder in folders] == ["first", "second"]
    assert move_aside([tmp_path / "absent"], tmp_path) is None


# How a program ends


def raising(error):
    def program():
        raise error

    return program


RIGHTS = PermissionError(13, "Permission denied", "/secret/faces")
ENDS = [  # (program, exit code, what its line of error begins with)
    (raising(UserError("wrong")), 2, "error: wrong\n"),
    (raising(RIGHTS), 2, "error: /secret/faces"),
    (lambda: path_argument("x" * 300).stat(), 2, "error: xxx"),
    (raising(KeyboardInterrupt()), 130, "\nhalted\n"),
    (lambda: 7, 7, ""),
]


@pytest.mark.parametrize(("program", "code", "told"), ENDS)
@pytest.mark.parametrize("quiet", [False, True])
def test_what_ends_a_program_is_told_in_a_line(program, code, told, quiet, capsys):
    assert exit_code(program, "halted", quiet) == code
    out, err = capsys.readouterr()
    assert out == "" and (
        err == "" if quiet else err.startswith(told) and len(err.splitlines()) <= 2
    )


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), PermissionError("no file's"), PermissionError(13, "denied")]
)
def test_faults_of_the_program_itself_keep_their_traceback(error):
    with pytest.raises(type(error)):
        exit_code(raising(error))


@unix
def test_a_program_whose_reader_went_away_ends_quietly():
    program = "from utils.files import exit_code; exit(exit_code(lambda: print(99999 * 'faces')))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **pipes) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1


# One run at a time


def hold_in_a_process(folder, then="pass"):
    """What became of another process that takes the lock of `folder` and does `then`."""
    program = f"""
import os
from utils.lock import exclusive_run
with exclusive_run({str(folder)!r}):
    {then}
"""
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_a_second_run_is_refused_and_writes_nothing(tmp_path):
    with exclusive_run(tmp_path), exclusive_run(tmp_path / "other"):
        with pytest.raises(UserError, match="--out"):
            run_program(tmp_path, "--dataset", "Demo", "--model", "Narrow", "--limit", 8)
        done = hold_in_a_process(tmp_path)
        assert done.returncode == 1 and "--out" in done.stderr
        assert sorted(os.listdir(tmp_path)) == ["other", RUN_LOCK]


def test_folds_may_be_trained_together_but_each_once_and_beside_no_other_run(tmp_path):
    with exclusive_run(tmp_path, 1), exclusive_run(tmp_path, 2):
        for fold in (2, None):
            with pytest.raises(UserError, match="--out"), exclusive_run(tmp_path, fold):
                pass
    with exclusive_run(tmp_path):
        with pytest.raises(UserError, match="--out"), exclusive_run(tmp_path, 3):
            pass


def test_what_a_killed_run_or_an_earlier_version_left_is_not_in_the_way(tmp_path):
    (tmp_path / RUN_LOCK).write_text(json.dumps({"process": 1, "host": "elsewhere", "created": 0}))
    assert hold_in_a_process(tmp_path, "os._exit(9)").returncode == 9
    with exclusive_run(tmp_path):
        pass


@pytest.mark.parametrize("name", ["file", "file/out"])
def test_a_folder_that_cannot_be_one_is_told(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"), exclusive_run(tmp_path / name):
        pass


# Images


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".gif", ".webp"])
def test_grey_images_keep_their_values_exactly(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    path = (
        tmp_path / f"mein Bild \N{GREEK SMALL LETTER ALPHA}\N{CJK UNIFIED IDEOGRAPH-4E2D}{suffix}"
    )
    image = read_image(saved(path, GREY, **options))
    assert (
        image.dtype == np.uint8
        and image.shape == (20, 30, 3)
        and np.array_equal(to_grey(image), GREY)
    )


def test_colour_becomes_grey_by_the_usual_weights(tmp_path):
    grey = to_grey(read_image(saved(tmp_path / "colour.png", COLOUR)))
    assert np.abs(grey - COLOUR @ np.array([0.299, 0.587, 0.114])).max() <= 0.51


def test_a_photograph_is_turned_as_its_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    path = saved(tmp_path / "turned.png", COLOUR, exif=exif)
    assert np.array_equal(read_image(path), np.rot90(COLOUR, -1))


def test_what_is_transparent_is_white(tmp_path):
    rgba = np.dstack([COLOUR, np.zeros((20, 30), np.uint8)])
    rgba[:, :15, 3] = 255
    image = read_image(saved(tmp_path / "clear.png", rgba))
    assert np.array_equal(image[:, :15], COLOUR[:, :15]) and (image[:, 15:] == 255).all()


def test_sixteen_bits_keep_their_high_byte(tmp_path):
    values = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    grey = to_grey(read_image(saved(tmp_path / "deep.png", values)))
    assert np.abs(grey.astype(int) - values // 256).max() <= 1


@pytest.mark.parametrize(
    ("mode", "suffix"), [("P", "png"), ("CMYK", "jpg"), ("1", "png"), ("LA", "png")]
)
def test_images_of_other_modes_are_read(tmp_path, mode, suffix):
    Image.fromarray(COLOUR).convert(mode).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}").shape == (20, 30, 3)


FRAMES = [Image.fromarray(np.full((20, 30), value, np.uint8)) for value in (200, 50, 120)]


@pytest.mark.parametrize(
    ("suffix", "more"), [("gif", "frames"), ("png", "frames"), ("webp", "frames"), ("tif", "pages")]
)
def test_of_several_frames_or_pages_the_first_is_read_and_the_others_are_told(
    tmp_path, suffix, more
):
    path = tmp_path / f"moves.{suffix}"
    FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:])
    image, found = read_first(path)
    assert found == more and np.abs(image.astype(int) - 200).max() <= 2
    FRAMES[0].save(path)
    assert read_first(path)[1] is None


def test_of_an_animation_that_is_cut_off_in_its_second_frame_the_first_is_read(tmp_path):
    path = tmp_path / "moves.gif"
    FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:2])
    content = path.read_bytes()
    for missing in range(1, 61, 4):
        path.write_bytes(content[:-missing])
        assert (read_first(path)[0] == 200).all()


def jpeg():
    stream = io.BytesIO()
    Image.fromarray(GENERATOR.integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def huge():
    stream = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(stream, "PNG")
    return stream.getvalue()


BROKEN = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"this is no image", "image"),
    "truncated": (lambda: jpeg()[:9000], "truncated"),
    "huge": (huge, "pixels"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_told_by_name(tmp_path, kind):
    make, keyword = BROKEN[kind]
    (tmp_path / "holiday.jpg").write_bytes(make())
    with pytest.raises(Unreadable, match=rf"holiday\.jpg.*{keyword}"):
        read_image(tmp_path / "holiday.jpg")


def test_what_is_missing_or_a_folder_is_told(tmp_path):
    with pytest.raises(Unreadable, match=r"none\.png.*exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(Unreadable, match="folder"):
        read_image(tmp_path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_damaged_avif_images_are_read_or_told(tmp_path):
    content, draw, told = saved(tmp_path / "a.avif", COLOUR).read_bytes(), random.Random(1), 0
    for _ in range(100):
        damaged = bytearray(content)
        damaged[draw.randrange(200)] = draw.randrange(256)
        (tmp_path / "a.avif").write_bytes(damaged)
        try:
            read_image(tmp_path / "a.avif")
        except Unreadable:
            told += 1
    assert told > 10


def test_photographs_of_telephones(tmp_path, monkeypatch):
    """Their package is named where it is missing."""
    path = tmp_path / "holiday.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(Unreadable, match=r"holiday\.heic.*pillow-heif"):
            read_image(path)
    pytest.importorskip("pillow_heif").from_pillow(Image.fromarray(COLOUR)).save(path, quality=100)
    assert np.abs(read_image(path).astype(int) - COLOUR).mean() < 60  # of random pixels


# Numbers as text


def test_numbers_as_people_say_them():
    told = [counted(number, "face") for number in (0, 1, 28_709)]
    assert told == ["0 faces", "1 face", "28,709 faces"]
    told = ["0 s", "59 s", "1 min 00 s", "4 min 40 s", "2 h 05 min"]
    assert [spell_duration(seconds) for seconds in (0.4, 59.4, 59.6, 280, 7500)] == told
