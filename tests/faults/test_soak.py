"""A long run: its memory, its open files and the time of its epochs stay as they are."""

import pytest

from tests.faults.soak import grown, soak


@pytest.mark.endurance
def test_two_hundred_epochs_leave_nothing_behind(capsys):
    with capsys.disabled():
        assert grown(soak(epochs=200)) == []


def test_growth_is_noticed():
    flat = {"memory": [500e6] * 50, "files": [9] * 50, "seconds": [0.1] * 50}
    assert grown(flat) == []
    for name, step in (("memory", 1e6), ("files", 1), ("seconds", 0.01)):
        assert grown(flat | {name: [value + number * step for number, value in enumerate(flat[name])]}) == [name]
    warming = [400e6] * 10 + [500e6] * 40
    assert grown(flat | {"memory": warming}) == []
