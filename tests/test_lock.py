"""One run at a time in a folder; what a killed run leaves behind does not stand in the way."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from tests.conftest import ROOT, run_program
from utils.files import UserError
from utils.lock import NAME, only_one


def test_the_second_run_is_told_of_the_first(tmp_path):
    with only_one(tmp_path):
        with pytest.raises(UserError, match=rf"process {os.getpid()} .* started 2\d\d\d-"):
            run_program(tmp_path, "--dataset", "Demo", "--model", "Narrow", "--limit", 8)
        assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]
    assert not list(tmp_path.iterdir())


def test_other_folders_are_free(tmp_path):
    with only_one(tmp_path / "a"), only_one(tmp_path / "b"):
        assert (tmp_path / "a" / NAME).exists() and (tmp_path / "b" / NAME).exists()


def test_the_lock_of_a_killed_run_is_stale(tmp_path):
    program = (
        f"import os; from utils.lock import _take; from pathlib import Path; _take(Path({str(tmp_path / NAME)!r}))"
    )
    subprocess.run([sys.executable, "-c", program + "; os._exit(9)"], cwd=ROOT)
    assert (tmp_path / NAME).exists()
    with only_one(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()


def test_a_process_that_only_has_the_same_number_does_not_count(tmp_path):
    lock = {"process": os.getpid(), "host": __import__("platform").node(), "started": "2020-01-01 00:00:00"}
    lock["created"] = psutil.Process().create_time() - 3600
    (tmp_path / NAME).write_text(json.dumps(lock))
    with only_one(tmp_path):
        pass


def test_a_run_on_another_machine_counts(tmp_path):
    lock = {"process": 1, "host": "elsewhere", "created": 0, "started": "2020-01-01 00:00:00"}
    (tmp_path / NAME).write_text(json.dumps(lock))
    with pytest.raises(UserError, match="process 1 on elsewhere"), only_one(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": 3}'])
def test_an_unfinished_lock_is_stale(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with only_one(tmp_path):
        pass


def test_a_folder_that_cannot_be_one_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UserError, match="give another --out"), only_one(folder):
            pass
