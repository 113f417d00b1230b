"""The command line: overriding recipes, refusing what makes no sense, a help that fits the screen."""

from dataclasses import fields, replace

import pytest

from training import settings
from training.optim import learning_rate
from training.recipes import FERSNET_RECIPES, RECIPES, FERSNetRecipe, Recipe
from training.settings import DEFAULT_MODEL, Settings, build_parser, resolve, resumed
from utils.files import UserError


def parse(*flags):
    return build_parser().parse_args(flags)


def test_a_flag_overrides_its_recipe():
    resolved = resolve(parse("--recipe", "paper", "--epochs", "3", "--orth", "0"), "FER2013")
    assert resolved.recipe.epochs == 3 and resolved.recipe.orthogonality == 0
    assert resolved.recipe.batch_size == RECIPES["paper"].batch_size == 16


def test_the_demo_has_its_own_recipe():
    assert resolve(parse(), "Demo").recipe == RECIPES["demo"]
    assert resolve(parse("--recipe", "default"), "FER2013").recipe == RECIPES["default"]


@pytest.mark.parametrize("gpu", [True, False])
def test_without_a_gpu_the_fast_recipe_is_taken_unless_something_else_was_named(monkeypatch, gpu):
    monkeypatch.setattr(settings, "has_gpu", lambda device: gpu or device == "cuda")
    assert resolve(parse(), "FER2013").recipe_name == ("default" if gpu else "fast")
    assert resolve(parse("--device", "cuda"), "FER2013").recipe_name == "default"
    assert resolve(parse("--model", DEFAULT_MODEL), "FER2013").recipe_name == "default"
    assert resolve(parse("--recipe", "paper"), "FER2013").recipe_name == "paper"
    assert resolve(parse(), "CK+").recipe_name == "default" and resolve(parse(), "Demo").recipe_name == "demo"


def test_tasks_keep_the_order_of_the_table():
    assert resolve(parse("--tasks", "regressD", "classify"), "FER2013").tasks == ("classify", "regressD")


@pytest.mark.parametrize(
    "flags",
    ["--epochs 0", "--epochs -1", "--epochs many", "--lr 0", "--lr nan", "--lr inf", "--bs 0", "--limit 0", "--seed -1",
     "--consistency -1", "--tasks smile", "--dataset Faces", "--eval five", "--precision fp8", "--sharing some"],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*flags.split())
    assert stop.value.code == 2
    assert flags.split()[0] in capsys.readouterr().err


def test_help_fits_two_screens_and_shows_every_default(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = build_parser().format_help()
    assert len(text.splitlines()) < 80
    for recipe in (RECIPES["default"], FERSNET_RECIPES["default"]):
        assert all(str(value) in text for value in (recipe.epochs, recipe.batch_size, recipe.learning_rate))
    for action in build_parser()._actions:
        if action.dest not in ("help", "resume"):
            assert "default" in action.help, action.dest


def test_settings_survive_a_checkpoint():
    resolved = resolve(parse("--limit", "5", "--tasks", "classify"), "FER2013")
    assert Settings.from_plain(resolved.to_plain()) == resolved


@pytest.mark.parametrize("dataset", ["Demo", "CK+"])
def test_a_run_with_options_that_are_gone_or_new_is_not_gone_on_with(dataset):
    """It would be trained otherwise from there on."""
    plain = resolve(build_parser().parse_args([]), dataset).to_plain()
    less = {name: value for name, value in plain["recipe"].items() if name != "averaging"}
    for recipe in (plain["recipe"] | {"an option of old": 0.5}, less, None):
        with pytest.raises(UserError, match="another version"):
            Settings.from_plain(plain | {"recipe": recipe})


def test_equal_flags_may_be_repeated_when_resuming():
    flags = ("--epochs", "5", "--tasks", "classify", "regressV", "--recipe", "paper", "--seed", "3")
    saved = resolve(parse(*flags), "FER2013")
    assert resumed(parse(*flags), saved) == resumed(parse(), saved) == saved


def test_data_may_have_been_moved_when_resuming():
    """Another name for them is no other data; what is in them is compared later."""
    saved = resolve(parse("--data", "fer", "--seed", "3"), "FER2013")
    assert resumed(parse("--data", "/elsewhere/fer"), saved) == replace(saved, data="/elsewhere/fer")
    with pytest.raises(UserError, match="--seed 4 differs from the run to resume, which has 3"):
        resumed(parse("--data", "/elsewhere/fer", "--seed", "4"), saved)


def test_the_paper_learning_rate_is_a_staircase():
    recipe = Recipe(schedule="staircase", learning_rate=0.01, decay=0.9, decay_every=5, decay_from=80, epochs=100)
    rates = [learning_rate(recipe, epoch * 10, 10) for epoch in range(100)]
    assert rates[0] == rates[79] == 0.01
    assert rates[80] == rates[84] == pytest.approx(0.009)
    assert rates[85] == pytest.approx(0.0081) and rates[99] == pytest.approx(0.01 * 0.9**4)


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing():
    recipe = Recipe(epochs=10, learning_rate=0.1, warmup=0.2)
    rates = [learning_rate(recipe, step, 10) for step in range(100)]
    assert max(rates) == pytest.approx(0.1) and rates.index(max(rates)) in (19, 20)
    assert rates[0] == pytest.approx(0.005) and 0 < rates[-1] < 1e-3
    assert all(later >= earlier for earlier, later in zip(rates[:20], rates[1:20], strict=False))
    assert all(later <= earlier for earlier, later in zip(rates[20:], rates[21:], strict=False))


def test_every_flag_sets_something():
    """A flag whose name is none of a field would be taken and forgotten."""
    known = {field.name for kind in (Settings, Recipe, FERSNetRecipe) for field in fields(kind)}
    of_one_start = {"help", "device", "precision", "compile", "processes", "out", "resume", "tensorboard"}
    assert {action.dest for action in build_parser()._actions} - known == of_one_start
