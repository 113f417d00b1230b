"""Numbers are said as people say them."""

import pytest

from utils.text import counted, spell_duration


@pytest.mark.parametrize(("number", "told"), ((0, "0 faces"), (1, "1 face"), (2, "2 faces"), (28_709, "28,709 faces")))
def test_one_of_a_thing_is_told_in_the_singular(number, told):
    assert counted(number, "face") == told


@pytest.mark.parametrize(
    ("seconds", "told"), ((0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (280, "4 min 40 s"), (7500, "2 h 05 min"))
)
def test_durations(seconds, told):
    assert spell_duration(seconds) == told
