"""The command line: overriding recipes, refusing what makes no sense, a help that fits the screen."""

from dataclasses import fields, replace

import pytest

from training import config
from training.config import (
    DEFAULT_MODEL,
    FERSNET_RECIPES,
    RECIPES,
    Recipe,
    Settings,
    build_parser,
    check_effects,
    flag,
    resolve,
    resumed,
)
from training.optim import learning_rate
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
    monkeypatch.setattr(config, "has_gpu", lambda device: gpu or device == "cuda")
    assert resolve(parse(), "FER2013").recipe_name == ("default" if gpu else "fast")
    assert resolve(parse("--device", "cuda"), "FER2013").recipe_name == "default"
    assert resolve(parse("--model", "FERSNetHalf"), "FER2013").recipe_name == "default"
    assert resolve(parse("--recipe", "paper"), "FER2013").recipe_name == "paper"
    assert resolve(parse(), "CK+").recipe_name == "default"
    assert resolve(parse(), "Demo").recipe_name == "demo"


@pytest.mark.parametrize("dataset", ["FER2013", "Demo", "CK+"])
def test_naming_the_default_model_changes_nothing(monkeypatch, dataset):
    monkeypatch.setattr(config, "has_gpu", lambda device: False)
    model = "FERSNet" if dataset == "CK+" else DEFAULT_MODEL
    assert resolve(parse("--model", model), dataset) == resolve(parse(), dataset)


def test_tasks_keep_the_order_of_the_table():
    assert resolve(parse("--tasks", "regressD", "classify"), "FER2013").tasks == (
        "classify",
        "regressD",
    )


@pytest.mark.parametrize(
    "flags",
    ["--epochs 0", "--epochs -1", "--epochs many", "--lr 0", "--lr nan", "--bs 0", "--limit 0", "--seed -1",
     "--consistency -1", "--tasks smile", "--dataset Faces", "--eval five", "--precision fp8", "--sharing some"],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*flags.split())
    assert stop.value.code == 2
    assert flags.split()[0] in capsys.readouterr().err


def test_every_field_of_a_recipe_is_a_flag_with_its_default_in_the_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = " ".join(build_parser().format_help().split())
    for recipe, dataset in ((RECIPES["default"], "FER2013"), (FERSNET_RECIPES["default"], "CK+")):
        for each in fields(recipe):
            assert flag(each.name) in text and str(getattr(recipe, each.name)) in text, each.name
    for action in build_parser()._actions:
        if action.dest not in ("help", "resume"):
            assert "default" in action.help, action.dest


@pytest.mark.parametrize("dataset, recipes", [("FER2013", RECIPES), ("CK+", FERSNET_RECIPES)])
def test_the_flag_of_every_field_sets_it(dataset, recipes):
    for each in fields(recipes["default"]):
        if each.name == "sharing":
            continue
        default = getattr(recipes["default"], each.name)
        value = next((one for one in each.metadata["choices"] or () if one != default), 1)
        long = f"--{each.name.replace('_', '-')}"
        given = [long, str(value)]
        if each.type is bool:
            value, given = not default, [long if not default else f"--no-{long[2:]}"]
        if each.name == "dropout":
            value, given = 0.25, [long, "0.25"]
        if each.name == "scaling":
            value, given = 0.25, [long, "0.25"]
        parsed = build_parser().parse_args(given)
        assert getattr(parsed, each.name) == value, each.name


NO_EFFECT = {
    "FER2013": [
        "--warmup 0.1 --schedule staircase", "--decay-from 3", "--nesterov", "--kernel-decay 1 --optimizer sgd",
        "--tasks classify --consistency 3", "--tasks classify --mse-weight 3", "--tasks regressV --teacher 0.5",
        "--tasks regressV --label-smoothing 0.2", "--tasks regressV --dropout 0.5", "--tasks regressV --targets votes",
        "--consistency 0 --constraint original", "--model FERSNet --dropout 0.5", "--model FERSNet --width 32",
        "--model FERSNet --consistency 1", "--kernel 3", "--fold 1", "--pretrain x.t7", "--synthetic 5",
    ],
    "Demo": ["--data faces.zip", "--drop-duplicates", "--cycle 1"],
    "CK+": [
        "--orth 1", "--eval center", "--compile on", "--limit 5", "--tensorboard", "--dropout 0.1", "--no-pooled",
        "--sharing none --synthetic 5", "--sharing none --cycle 1", "--sharing hard --kernel 3", "--tuning-epochs 3",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "dataset, flags", [(name, flags) for name, every in NO_EFFECT.items() for flags in every]
)
def test_a_flag_that_does_nothing_in_the_run_is_refused(dataset, flags):
    with pytest.raises(UserError, match="has no effect without"):
        resolve(parse(*flags.split()), dataset)


def test_flags_without_effect_are_refused_when_the_data_has_no_annotations_of_v_a_d():
    arguments = parse("--consistency", "3")
    settings = resolve(arguments, "FER2013")
    with pytest.raises(UserError, match="--consistency"):
        check_effects(arguments, replace(settings, tasks=("classify",)))


def test_only_what_has_an_effect_is_said_of_a_recipe():
    """Dropout and the width of a FERSNet, a teacher without classes, the stairs of a cycle."""
    whole = resolve(parse("--recipe", "default"), "FER2013").effective_recipe()
    assert {"dropout", "teacher", "consistency", "warmup"} <= whole.keys()
    assert not {"decay_from", "nesterov", "folds"} & whole.keys()
    fersnet = resolve(parse("--model", "FERSNet"), "FER2013").effective_recipe()
    assert not {"dropout", "width", "pooled", "consistency"} & fersnet.keys()
    valence = resolve(parse("--tasks", "regressV"), "FER2013").effective_recipe()
    assert not {"teacher", "targets", "label_smoothing", "consistency"} & valence.keys()


def test_settings_survive_a_checkpoint():
    resolved = resolve(parse("--limit", "5", "--tasks", "classify"), "FER2013")
    assert Settings.from_plain(resolved.to_plain()) == resolved


def test_equal_flags_may_be_repeated_when_resuming():
    flags = ("--epochs", "5", "--tasks", "classify", "regressV", "--recipe", "paper", "--seed", "3")
    saved = resolve(parse(*flags), "FER2013")
    assert resumed(parse(*flags), saved) == resumed(parse(), saved) == saved


def test_data_may_have_been_moved_when_resuming():
    """Another name for them is no other data; what is in them is compared later."""
    saved = resolve(parse("--data", "fer", "--seed", "3"), "FER2013")
    assert resumed(parse("--data", "/elsewhere/fer"), saved) == replace(
        saved, data="/elsewhere/fer"
    )
    with pytest.raises(UserError, match="--seed 4"):
        resumed(parse("--data", "/elsewhere/fer", "--seed", "4"), saved)


def test_the_paper_learning_rate_is_a_staircase():
    recipe = Recipe(
        schedule="staircase",
        learning_rate=0.01,
        decay=0.9,
        decay_every=5,
        decay_from=80,
        epochs=100,
    )
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
