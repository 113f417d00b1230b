"""The command line: overriding recipes, refusing what makes no sense or does nothing, the help."""

from dataclasses import asdict, fields, replace

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


def parse(flags=""):
    return build_parser().parse_args(flags.split())


def test_a_flag_overrides_its_recipe():
    resolved = resolve(parse("--recipe paper --epochs 3 --orth 0 --no-decay-all"), "FER2013").recipe
    expected = replace(RECIPES["paper"], epochs=3, orthogonality=0, decay_all=False)
    assert resolved == expected
    assert resolve(parse("--tasks regressD classify"), "Demo").tasks == ("classify", "regressD")


@pytest.mark.parametrize("gpu", [True, False])
def test_without_a_gpu_the_fast_recipe_is_taken_unless_something_else_was_named(monkeypatch, gpu):
    monkeypatch.setattr(config, "has_gpu", lambda device: gpu or device == "cuda")
    plain = "default" if gpu else "fast"
    for flags, dataset, expected in (
        ("", "FER2013", plain),
        (f"--model {DEFAULT_MODEL}", "FER2013", plain),
        ("--device cuda", "FER2013", "default"),
        ("--model FERSNetHalf", "FER2013", "default"),
        ("--recipe paper", "FER2013", "paper"),
        ("", "CK+", "default"),
        ("", "Demo", "demo"),
    ):
        assert resolve(parse(flags), dataset).recipe_name == expected, (flags, dataset)
    assert resolve(parse("--model FERSNet"), "CK+") == resolve(parse(), "CK+")


@pytest.mark.parametrize(
    "flags",
    ["--epochs 0", "--epochs -1", "--epochs many", "--lr 0", "--lr nan", "--bs 0", "--limit 0",
     "--seed -1", "--consistency -1", "--tasks smile", "--dataset Faces", "--eval five",
     "--precision fp8", "--sharing some", "--faster"],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(flags)
    assert stop.value.code == 2 and flags.split()[0] in capsys.readouterr().err


def test_every_field_of_a_recipe_is_a_flag_with_its_default_in_the_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = " ".join(build_parser().format_help().split())
    for each in fields(Recipe):
        for recipes in (RECIPES, FERSNET_RECIPES):
            assert flag(each.name) in text and str(getattr(recipes["default"], each.name)) in text
        default, long = getattr(RECIPES["default"], each.name), f"--{each.name.replace('_', '-')}"
        choices = each.metadata["choices"] or (1,)
        value = choices[choices[0] == default and len(choices) > 1]
        given = f"{long} {value}"
        if each.type is bool:
            value, given = not default, long if not default else f"--no-{long[2:]}"
        elif each.name in ("dropout", "scaling"):
            value, given = 0.25, f"{long} 0.25"
        assert getattr(parse(given), each.name) == value, each.name


NO_EFFECT = {
    "FER2013": [
        "--warmup 0.1 --schedule staircase", "--decay-from 3", "--no-nesterov",
        "--kernel-decay 1 --optimizer sgd", "--tasks classify --consistency 0",
        "--tasks classify --ccc-weight 3", "--tasks regressV --teacher 0.5",
        "--tasks regressV --label-smoothing 0.2", "--tasks regressV --dropout 0.5",
        "--tasks regressV --targets votes", "--consistency 0 --constraint original",
        "--model FERSNet --dropout 0.5", "--model FERSNet --consistency 1",
        "--model FERSNetHalf --width 8", "--kernel 3", "--fold 1", "--pretrain x.t7",
        "--synthetic 5",
    ],
    "Demo": ["--data faces.zip", "--drop-duplicates", "--cycle 1"],
    "CK+": [
        "--orth 1", "--eval center", "--compile", "--limit 5", "--tensorboard", "--dropout 0.1",
        "--no-pooled", "--sharing none --synthetic 5", "--sharing none --cycle 1",
        "--sharing hard --kernel 3", "--tuning-epochs 3",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "dataset, flags", [(name, flags) for name, every in NO_EFFECT.items() for flags in every]
)
def test_a_flag_that_does_nothing_in_the_run_is_refused(dataset, flags):
    with pytest.raises(UserError, match="--.* has no effect"):
        resolve(parse(flags), dataset)


@pytest.mark.parametrize(
    "dataset, flags",
    [("CK+", f"--model {DEFAULT_MODEL}"), ("CK+", "--recipe fast"), ("CK+", "--sharing trunk"),
     ("CK+", "--tasks regressV"), ("FER2013", "--model FERSNet --sharing hard"),
     ("FER2013", "--sharing selective")],
)  # fmt: skip
def test_what_does_not_fit_a_dataset_or_a_model_is_refused(dataset, flags):
    with pytest.raises(UserError, match=flags.split()[-2]):
        resolve(parse(flags), dataset)


def test_flags_without_effect_are_refused_when_the_data_has_no_annotations_of_v_a_d():
    arguments = parse("--consistency 3")
    settings = resolve(arguments, "FER2013")
    with pytest.raises(UserError, match="--consistency"):
        check_effects(arguments, replace(settings, tasks=("classify",)))


def test_only_what_has_an_effect_is_said_of_a_recipe():
    """Dropout and the width of a FERSNet, a teacher without classes, the stairs of a cycle."""
    for flags, said, unsaid in (
        ("--recipe default", "dropout teacher consistency warmup", "decay_from nesterov folds"),
        ("--model FERSNet", "epochs optimizer", "dropout pooled consistency reconstruction"),
        ("--tasks regressV", "ccc_weight", "teacher targets label_smoothing consistency"),
    ):
        names = resolve(parse(flags), "FER2013").effective_recipe().keys()
        assert set(said.split()) <= names and not set(unsaid.split()) & names


def test_settings_are_restored_and_must_not_change_when_resuming():
    flags = "--epochs 5 --tasks regressV classify --recipe paper --seed 3 --data fer"
    saved = resolve(parse(flags), "FER2013")
    assert Settings.from_plain(asdict(saved)) == saved
    assert resumed(parse(flags), saved) == resumed(parse(), saved) == saved
    moved = resumed(parse("--data /elsewhere/fer"), saved)
    assert moved == replace(saved, data="/elsewhere/fer")
    for other in (
        "--seed 4",
        "--seed 0",
        "--tasks classify",
        "--recipe default",
        "--drop-duplicates",
    ):
        with pytest.raises(UserError, match=other.split()[0]):
            resumed(parse(other), saved)


def test_the_paper_learning_rate_is_a_staircase():
    recipe = Recipe(schedule="staircase", learning_rate=0.01, epochs=100)
    rates = [learning_rate(recipe, epoch * 10, 10) for epoch in range(100)]
    assert rates[0] == rates[79] == 0.01
    assert rates[80] == rates[84] == pytest.approx(0.009)
    assert rates[85] == pytest.approx(0.0081) and rates[99] == pytest.approx(0.01 * 0.9**4)


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing():
    recipe = Recipe(epochs=10, learning_rate=0.1, warmup=0.2)
    rates = [learning_rate(recipe, step, 10) for step in range(100)]
    assert max(rates) == pytest.approx(0.1) and rates.index(max(rates)) in (19, 20)
    assert rates[0] == pytest.approx(0.005) and 0 < rates[-1] < 1e-3
    assert rates[:20] == sorted(rates[:20]) and rates[20:] == sorted(rates[20:], reverse=True)
