"""One run at a time in a folder; what a killed run leaves behind does not stand in the way."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, run_program
from utils.files import UserError
from utils.lock import RUN_LOCK, exclusive_run


def test_a_second_run_is_refused_and_writes_nothing(tmp_path):
    with exclusive_run(tmp_path):
        with pytest.raises(UserError, match="Another run works in .* give another --out"):
            run_program(tmp_path, "--dataset", "Demo", "--model", "Narrow", "--limit", 8)
        assert [path.name for path in tmp_path.iterdir()] == [RUN_LOCK]
    with exclusive_run(tmp_path):
        pass


def test_a_second_process_is_refused(tmp_path):
    with exclusive_run(tmp_path):
        done = hold_in_a_process(tmp_path)
    assert done.returncode == 1 and "Another run works in" in done.stderr


def test_folds_may_be_trained_together_but_each_once_and_beside_no_other_run(tmp_path):
    with exclusive_run(tmp_path, 1), exclusive_run(tmp_path, 2):
        for fold in (2, None):
            with pytest.raises(UserError, match="Another run"), exclusive_run(tmp_path, fold):
                pass
    with exclusive_run(tmp_path):
        with pytest.raises(UserError, match="Another run"), exclusive_run(tmp_path, 3):
            pass


def test_other_folders_are_free(tmp_path):
    with exclusive_run(tmp_path / "a"), exclusive_run(tmp_path / "b"):
        assert (tmp_path / "a" / RUN_LOCK).exists() and (tmp_path / "b" / RUN_LOCK).exists()


def test_a_killed_run_leaves_the_folder_free(tmp_path):
    assert hold_in_a_process(tmp_path, "os._exit(9)").returncode == 9
    with exclusive_run(tmp_path):
        pass


def test_the_lock_file_of_an_earlier_version_is_not_in_the_way(tmp_path):
    (tmp_path / RUN_LOCK).write_text(json.dumps({"process": 1, "host": "elsewhere", "created": 0, "started": "2020"}))
    with exclusive_run(tmp_path):
        pass


def test_a_folder_that_cannot_be_one_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UserError, match="give another --out"), exclusive_run(folder):
            pass


def hold_in_a_process(folder, then="pass"):
    """What became of another process that takes the lock of `folder` and does `then`, Python text, with it."""
    program = f"import os\nfrom utils.lock import exclusive_run\nwith exclusive_run({str(folder)!r}):\n    {then}"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
