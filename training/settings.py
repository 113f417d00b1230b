"""The command line of mainpro_FER.py, and the settings that it resolves to."""

import argparse
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from data import DATASETS, SUBJECT_DATASETS
from data.subjects.folds import FOLDS
from models import FOLD_MODELS, MODELS
from models.fersnet import FERSNET_SHARINGS
from models.multitask import SHARINGS
from training.losses import CONSTRAINTS
from training.recipes import FERSNET_RECIPES, RECIPES, FERSNetRecipe, Recipe
from training.runtime import DEVICES, PRECISIONS, SWITCHES
from utils.files import UserError, given_path
from utils.tasks import TASKS

EVALUATIONS = ("auto", "tencrop", "center")
DEFAULT_MODEL = "ResNet18RegressionTwoOutputs"
FOLD_CHOICES = ("all", *map(str, range(1, FOLDS + 1)))
# Flags that override a field of the recipe; one that the recipe does not have cannot be given.
OVERRIDES = {
    "epochs": "epochs",
    "bs": "batch_size",
    "lr": "learning_rate",
    "constraint": "constraint",
    "consistency": "consistency",
    "orth": "orthogonality",
    "sharing": "sharing",
    "kernel": "kernel",
    "reconstruction": "reconstruction",
    "identity": "identity",
    "expression": "expression",
    "adversarial": "adversarial",
    "cycle": "cycle",
    "synthetic": "synthetic",
}
SYNTHESIS_WEIGHTS = {
    "reconstruction": "L1 to the real face",
    "identity": "distance of identity features",
    "expression": "cross-entropy of the expression that another network reads",
    "adversarial": "what the discriminator says",
    "cycle": "squared error of the face drawn back",
}
# Flags that mean something only where there are splits, or only where there are folds.
SPLIT_FLAGS = ("tasks", "limit", "drop_duplicates", "evaluation", "tensorboard")
FOLD_FLAGS = ("fold", "pretrain")


@dataclass(frozen=True)
class Settings:
    """What defines a run: two runs with equal settings on equal machines give equal numbers.

    `data` is the path that was asked for, or None; `limit` rows are read per split, None for all. `fold` is what
    to train of a cross-validation ("1" to "10" or "all"), `pretrain` the checkpoint to begin with, None for no such.
    """

    dataset: str
    data: str | None
    model: str
    tasks: tuple
    recipe_name: str
    recipe: Recipe | FERSNetRecipe
    seed: int
    limit: int | None
    drop_duplicates: bool
    evaluation: str
    fold: str | None = None
    pretrain: str | None = None

    def to_plain(self):
        """Plain values, for a checkpoint."""
        return {**asdict(self), "tasks": list(self.tasks)}

    @classmethod
    def from_plain(cls, plain):
        """The settings that `to_plain` wrote. UserError when they are of another version."""
        try:
            kind = FERSNetRecipe if plain["fold"] else Recipe
            recipe = kind(**{field.name: plain["recipe"][field.name] for field in fields(kind)})
            return cls(**{**plain, "recipe": recipe, "tasks": tuple(plain["tasks"])})
        except (TypeError, KeyError) as error:
            raise UserError("last.t7 was written by another version of this program; start a new run.") from error

    @property
    def run_name(self):
        """Name of the folder for checkpoints: <dataset>_<model>."""
        return f"{self.dataset}_{self.model}"


def _number(kind, low, low_is_allowed=True, high=None):
    def convert(text):
        value = kind(text)
        in_range = (value >= low if low_is_allowed else value > low) and (high is None or value <= high)
        if not in_range or not math.isfinite(value):
            raise ValueError
        return value

    convert.__name__ = "whole number" if kind is int else "number"
    return convert


def build_parser():
    """The argument parser. Run-defining flags default to None so that given ones can be told apart."""
    defaults, drawn = RECIPES["default"], FERSNET_RECIPES["default"]
    parser = argparse.ArgumentParser(
        prog="mainpro_FER.py",
        usage="%(prog)s [options]",
        description="Train a network for seven emotions and for valence, arousal and dominance.",
        epilog="Defaults marked * come from the recipe (values of --recipe default are shown).",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=(*DATASETS, *SUBJECT_DATASETS),
                      help="default: FER2013 where its data is found, else Demo")  # fmt: skip
    data.add_argument(
        "--data", type=given_path, metavar="PATH", help="archive, folder, CSV or data.h5 (default: data/)"
    )
    data.add_argument("--limit", type=_number(int, 1), metavar="N", help="use N faces of each split (default: all)")
    data.add_argument("--drop-duplicates", action="store_true", default=None,
                      help="leave out training faces that a test split holds too (default: keep)")  # fmt: skip

    what = parser.add_argument_group("network and objective")
    what.add_argument(
        "--model", choices=tuple(MODELS), help=f"default: {DEFAULT_MODEL}; FERSNet for CK+ and Oulu-CASIA"
    )
    what.add_argument("--sharing", choices=tuple(dict.fromkeys((*SHARINGS, *FERSNET_SHARINGS))),
                      help=f"one trunk for all tasks, or none: one each (default*: {defaults.sharing}); FERSNet: "
                           f"none, hard or selective (default*: {drawn.sharing})")  # fmt: skip
    what.add_argument("--tasks", nargs="+", choices=tuple(TASKS), metavar="TASK",
                      help=f"any of {', '.join(TASKS)} (default: all that the data has labels for)")  # fmt: skip
    what.add_argument("--constraint", choices=tuple(CONSTRAINTS),
                      help=f"how categories and V/A/D are tied (default*: {defaults.constraint})")  # fmt: skip
    what.add_argument("--consistency", type=_number(float, 0), metavar="W",
                      help=f"weight of category-V/A/D consistency (default*: {defaults.consistency})")  # fmt: skip
    what.add_argument("--orth", type=_number(float, 0), metavar="W",
                      help=f"weight of orthogonal convolutions (default*: {defaults.orthogonality})")  # fmt: skip

    how = parser.add_argument_group("training")
    how.add_argument("--recipe", choices=tuple(RECIPES), help="default: default; demo for the Demo dataset")
    how.add_argument(
        "--epochs", type=_number(int, 1), metavar="N", help=f"default*: {defaults.epochs}; FERSNet {drawn.epochs}"
    )
    how.add_argument(
        "--bs",
        type=_number(int, 1),
        metavar="N",
        help=f"batch size (default*: {defaults.batch_size}; FERSNet {drawn.batch_size})",
    )
    rates = f"{defaults.learning_rate}; FERSNet {drawn.learning_rate}"
    how.add_argument(
        "--lr", type=_number(float, 0, False, 1e30), metavar="RATE", help=f"highest learning rate (default*: {rates})"
    )
    how.add_argument("--seed", type=_number(int, 0, high=2**31), metavar="N", help="default: 0")
    how.add_argument("--eval", dest="evaluation", choices=EVALUATIONS,
                     help="crops per test face; auto: ten on CUDA, the centre on a CPU and ten for the "
                          "chosen models at the end (default: auto)")  # fmt: skip

    fersnet = parser.add_argument_group("FERSNet (CK+, Oulu-CASIA)")
    fersnet.add_argument("--fold", choices=FOLD_CHOICES, metavar="K",
                         help="held-out tenth of the subjects, 1 to 10, or all in turn (default: all)")  # fmt: skip
    fersnet.add_argument("--pretrain", type=given_path, metavar="FILE",
                         help="begin with the weights of a FERSNet .t7 file (default: from scratch)")  # fmt: skip
    fersnet.add_argument("--kernel", type=int, choices=(1, 3),
                         help=f"size of the leaky units' convolutions (default*: {drawn.kernel})")  # fmt: skip
    for name, meaning in SYNTHESIS_WEIGHTS.items():
        fersnet.add_argument(f"--{name}", type=_number(float, 0), metavar="W",
                             help=f"weight: {meaning} (default*: {getattr(drawn, name)})")  # fmt: skip
    fersnet.add_argument("--synthetic", type=_number(int, 0), metavar="N",
                         help=f"drawn faces to tune the recognition with (default*: {drawn.synthetic})")  # fmt: skip

    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    machine.add_argument("--precision", choices=PRECISIONS, help="default: auto (bf16 where the hardware has it)")
    machine.add_argument("--compile", choices=SWITCHES, default="auto", help="torch.compile (default: auto)")

    output = parser.add_argument_group("output")
    output.add_argument("--out", type=given_path, default=Path("."), metavar="DIR", help="default: the current folder")
    output.add_argument("-r", "--resume", action="store_true", help="go on from last.t7 of the same run")
    output.add_argument("--tensorboard", action="store_true",
                        help="also write event files (pip install tensorboard; default: off)")  # fmt: skip
    return parser


def default_model(dataset):
    """The name of the model that is trained on a dataset where none is asked for."""
    return FOLD_MODELS[0] if dataset in SUBJECT_DATASETS else DEFAULT_MODEL


def resolve(arguments, dataset):
    """The `Settings` of a new run on the dataset of that name. Raises UserError for flags that do not go together."""
    has_folds = dataset in SUBJECT_DATASETS
    model = arguments.model or default_model(dataset)
    _check_flags(arguments, dataset, model, has_folds)
    name = arguments.recipe or ("demo" if dataset == "Demo" else "default")
    if has_folds and name not in FERSNET_RECIPES:
        raise UserError(f"--recipe {name} is not for {dataset}: {' or '.join(FERSNET_RECIPES)}.")
    recipe = FERSNET_RECIPES[name] if has_folds else RECIPES[name]
    tasks = tuple(name for name in TASKS if name in (arguments.tasks or TASKS))
    if model in FOLD_MODELS:
        tasks = ("classify",)
        if not has_folds:  # one face a subject: nothing to draw from it, so the recognition branch alone
            recipe = replace(recipe, sharing="none")
    given = {field: getattr(arguments, flag) for flag, field in OVERRIDES.items()}
    given = {field: value for field, value in given.items() if value is not None}
    return Settings(
        dataset=dataset,
        data=None if arguments.data is None else str(arguments.data),
        model=model,
        tasks=tasks,
        recipe_name=name,
        recipe=replace(recipe, **given),
        seed=arguments.seed or 0,
        limit=arguments.limit,
        drop_duplicates=bool(arguments.drop_duplicates),
        evaluation=arguments.evaluation or "auto",
        fold=(arguments.fold or "all") if has_folds else None,
        pretrain=None if arguments.pretrain is None else str(arguments.pretrain),
    )


def _check_flags(arguments, dataset, model, has_folds):
    """Raise UserError for a flag that means nothing for this dataset and model."""
    if has_folds and model not in FOLD_MODELS:
        raise UserError(f"--dataset {dataset} trains {' or '.join(FOLD_MODELS)}, not {model}.")
    recipe = FERSNetRecipe if has_folds else Recipe
    known = {field.name for field in fields(recipe)}
    foreign = [flag for flag, field in OVERRIDES.items() if field not in known]
    foreign += SPLIT_FLAGS if has_folds else FOLD_FLAGS
    given = [flag for flag in foreign if getattr(arguments, flag) is not None and getattr(arguments, flag) is not False]
    given += ["compile"] if has_folds and arguments.compile != "auto" else []
    if given:
        shown = {"evaluation": "eval"}.get(given[0], given[0]).replace("_", "-")
        raise UserError(f"--{shown} means nothing for {dataset} with {model}: leave it out.")
    allowed = FERSNET_SHARINGS if has_folds else SHARINGS
    if model in FOLD_MODELS and not has_folds:
        allowed = ("none",)
        if arguments.tasks not in (None, ["classify"]):
            raise UserError(f"{model} only classifies {dataset}: leave --tasks out.")
    if arguments.sharing is not None and arguments.sharing not in allowed:
        raise UserError(f"--sharing {arguments.sharing} is not for {dataset} with {model}: {' or '.join(allowed)}.")


def check_unchanged(arguments, saved):
    """Raise UserError when a flag that was given differs from the saved `Settings` of the run to resume."""
    asked = {field: getattr(arguments, flag) for flag, field in OVERRIDES.items()}
    kept = {field: getattr(saved.recipe, field, None) for field in asked}
    names = {field: flag for flag, field in OVERRIDES.items()}
    for field in fields(Settings):
        if hasattr(arguments, field.name) and field.name != "recipe":
            asked[field.name], kept[field.name] = getattr(arguments, field.name), getattr(saved, field.name)
    asked["recipe"], kept["recipe"] = arguments.recipe, saved.recipe_name
    for field, value in asked.items():
        if field == "tasks" and value is not None:
            value, kept[field] = (" ".join(task for task in TASKS if task in some) for some in (value, kept[field]))
        value = str(value) if isinstance(value, Path) else value
        if value is not None and value != kept[field]:
            flag = {"evaluation": "eval"}.get(field, names.get(field, field)).replace("_", "-")
            raise UserError(
                f"--{flag} {value} differs from the run to resume, which has {kept[field]}. Leave the flag "
                "out, or start a new run without --resume."
            )
