"""A long run: its memory, its open files and the time of its epochs do not grow."""

import statistics
import time

import psutil
import pytest

import mainpro_FER
from tests.conftest import run_program

GROWTH = 20e6  # bytes that the history of the run and the allocator may take
DRIFT = 1.15  # ratio of the processor time of an epoch


def open_files(process):
    return process.num_fds() if hasattr(process, "num_fds") else process.num_handles()


@pytest.mark.endurance
def test_two_hundred_epochs_leave_nothing_behind(tmp_path, monkeypatch, capsys):
    process, train, seen = psutil.Process(), mainpro_FER.train_one_epoch, []

    def watched(*arguments, **options):
        seen.append((process.memory_info().rss, open_files(process), time.process_time()))
        return train(*arguments, **options)

    monkeypatch.setattr(mainpro_FER, "train_one_epoch", watched)
    flags = "--dataset Demo --epochs 200 --limit 24 --eval center --bs 8".split()
    assert run_program(tmp_path, *flags) == 0
    memory, files, clock = zip(*seen, strict=True)
    seconds = [after - before for before, after in zip(clock, clock[1:], strict=False)]
    early, late = slice(40, 80), slice(160, 200)
    medians = [
        (statistics.median(values[early]), statistics.median(values[late]))
        for values in (memory, files, seconds)
    ]
    with capsys.disabled():
        print(f"\nmemory, open files, seconds: {medians}")
    (memory, more), (files, opened), (seconds, longer) = medians
    assert more < memory + GROWTH and opened <= files and longer < DRIFT * seconds
