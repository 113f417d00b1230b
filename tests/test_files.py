"""Files are complete or absent, and nothing earlier is lost."""

import os
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from utils import files
from utils.files import UserError, atomic_write, exit_code, move_aside, path_argument, write_text


def test_a_failed_write_leaves_the_earlier_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("earlier")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["results.csv"]


def test_nothing_appears_under_the_name_before_it_is_complete(tmp_path):
    with atomic_write(tmp_path / "new.txt") as temporary:
        temporary.write_text("content")
        assert not (tmp_path / "new.txt").exists()
    assert (tmp_path / "new.txt").read_text() == "content"


def test_text_is_utf8_with_unix_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"


def test_a_rename_that_is_blocked_for_a_moment_is_tried_again(tmp_path, monkeypatch):
    rename, refusals = os.replace, [PermissionError(), PermissionError()]

    def sometimes(source, target):
        if refusals:
            raise refusals.pop()
        rename(source, target)

    monkeypatch.setattr(os, "replace", sometimes)
    monkeypatch.setattr(files, "REFUSES_OPEN_FILES", True)
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


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [(UserError("wrong"), 2, "error: wrong\n"), (KeyboardInterrupt(), 130, "\nhalted\n"), (None, 7, "")],
)
@pytest.mark.parametrize("quiet", [False, True])
def test_what_ends_a_program_is_told_in_a_line(raised, code, told, quiet, capsys):
    def program():
        if raised is not None:
            raise raised
        return 7

    assert exit_code(program, "halted", quiet) == code
    assert capsys.readouterr() == ("", "" if quiet else told)


def test_a_want_of_rights_that_nobody_expected_is_told_in_a_line(capsys):
    def program():
        raise PermissionError(13, "Permission denied", "/secret/faces")

    assert exit_code(program) == 2
    out, err = capsys.readouterr()
    assert (
        out == "" and err.startswith("error: /secret/faces cannot be used (Permission denied)") and err.count("\n") == 1
    )


def test_a_name_that_is_too_long_is_told_in_a_line(capsys):
    def program():
        path_argument("x" * 300).stat()

    assert exit_code(program) == 2
    assert "xxx cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("error", [PermissionError("no file's"), PermissionError(13, "Permission denied")])
def test_a_want_of_rights_that_names_no_file_keeps_its_traceback(error):
    def program():
        raise error

    with pytest.raises(PermissionError):
        exit_code(program)


class Named:
    """An attribute that is interrupted while its class is made; up to Python 3.11 a RuntimeError comes of that."""

    def __set_name__(self, owner, name):
        raise KeyboardInterrupt


def test_ctrl_c_is_told_also_where_something_else_became_of_it(capsys):
    def handles():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ValueError  # noqa: B904

    for program in (lambda: type("Owner", (), {"attribute": Named()}), handles):
        assert exit_code(program, "halted") == 130
        assert capsys.readouterr().err == "\nhalted\n"


def test_faults_of_the_program_itself_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break differently")
def test_a_program_whose_reader_went_away_ends_quietly():
    program = "import sys; from utils.files import exit_code; sys.exit(exit_code(lambda: print(99999 * 'faces')))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **pipes) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1


def test_a_file_of_the_user_beside_ours_survives(tmp_path):
    (tmp_path / "faces.csv.tmp").write_text("mine")
    write_text(tmp_path / "faces.csv", "ours")
    assert (tmp_path / "faces.csv.tmp").read_text() == "mine" and sorted(os.listdir(tmp_path)) == [
        "faces.csv",
        "faces.csv.tmp",
    ]


def test_a_want_of_rights_is_not_another_program(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(13, "Permission denied", os.fspath(target))

    monkeypatch.setattr(files, "REFUSES_OPEN_FILES", False)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match="Permission denied") as caught:
        write_text(tmp_path / "a.txt", "x")
    assert not isinstance(caught.value, files.FileInUse)
