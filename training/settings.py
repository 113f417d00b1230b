"""The command line of mainpro_FER.py, and the settings that it resolves to."""

import argparse
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from data import DATASETS
from data.subjects.folds import FOLD_RULES, FOLDS
from data.votes import TARGETS
from models import MODELS, network_class
from training.device import DEVICES, PRECISIONS, SWITCHES, has_gpu
from training.engine import CROPS
from training.losses import CONSTRAINTS
from training.recipes import FERSNET_RECIPES, RECIPES, FERSNetRecipe, Recipe
from utils.files import UserError, path_argument
from utils.tasks import TASKS

EVALUATIONS = ("auto", *CROPS)
DEFAULT_MODEL = "ResNet18RegressionTwoOutputs"
FOLD_CHOICES = ("all", *map(str, range(1, FOLDS + 1)))
SYNTHESIS_WEIGHTS = {
    "reconstruction": "L1 to the real face",
    "identity": "distance of identity features",
    "expression": "cross-entropy of the expression that another network reads",
    "adversarial": "what the discriminator says",
    "cycle": "squared error of the face synthesized back",
}
# {--sharing of a FERSNet: what has no part in it}
UNUSED_IN = {"none": (*SYNTHESIS_WEIGHTS, "synthetic", "kernel"), "hard": ("kernel",)}
# Arguments that mean something only where there are splits, or only where there are folds.
SPLIT_ARGUMENTS = ("tasks", "limit", "drop_duplicates", "evaluation", "tensorboard", "compile")
FOLD_ARGUMENTS = ("fold", "pretrain", "processes")
PATHS = ("data", "pretrain")  # of what a run learns from, which may be moved while it rests
# Flags that are shorter than the field of the settings or of the recipe that they set.
SHORT_FLAGS = {"batch_size": "--bs", "learning_rate": "--lr", "orthogonality": "--orth", "evaluation": "--eval"}


@dataclass(frozen=True)
class Settings:
    """What defines a run: two runs with equal settings on equal machines give equal numbers.

    `data` is the path that was asked for, or None; `limit` faces are used of each split, None for all. `fold` is what
    to train of a cross-validation ("3", "1 2" or "all"), `pretrain` the checkpoint to begin with, None for no such.
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
            if plain["recipe"].keys() != {field.name for field in fields(kind)}:  # of an option that is gone, or new
                raise KeyError("recipe")
            return cls(**{**plain, "recipe": kind(**plain["recipe"]), "tasks": tuple(plain["tasks"])})
        except (TypeError, KeyError, AttributeError) as error:
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
    defaults, of_fersnet = RECIPES["default"], FERSNET_RECIPES["default"]
    parser = argparse.ArgumentParser(
        prog="mainpro_FER.py",
        usage="%(prog)s [options]",
        description="Train a network for seven emotions and for valence, arousal and dominance.",
        epilog="Defaults marked * come from the recipe (values of --recipe default are shown).",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=tuple(DATASETS),
                      help="default: FER2013 where its data is found, else Demo")  # fmt: skip
    data.add_argument(
        "--data", type=path_argument, metavar="PATH", help="archive, folder, CSV or data.h5 (default: data/)"
    )
    data.add_argument("--limit", type=_number(int, 1), metavar="N",
                      help="use N faces of each split, evenly spaced; of Demo the first N (default: all)")  # fmt: skip
    data.add_argument("--drop-duplicates", action="store_true", default=None,
                      help="leave out training faces whose photograph a test split holds (default: keep)")  # fmt: skip

    what = parser.add_argument_group("network and objective")
    what.add_argument(
        "--model", choices=tuple(MODELS), help=f"default: {DEFAULT_MODEL}; FERSNet for CK+ and Oulu-CASIA"
    )
    sharings = dict.fromkeys(way for name in MODELS for way in network_class(name).SHARINGS)
    what.add_argument("--sharing", choices=tuple(sharings),
                      help=f"one trunk for all tasks, or none: one each (default*: {defaults.sharing}); FERSNet: "
                           f"none, hard or selective (default*: {of_fersnet.sharing})")  # fmt: skip
    what.add_argument("--tasks", nargs="+", choices=tuple(TASKS), metavar="TASK",
                      help=f"any of {', '.join(TASKS)} (default: all that the data has labels for)")  # fmt: skip
    what.add_argument("--constraint", choices=tuple(CONSTRAINTS),
                      help=f"how categories and V/A/D are tied (default*: {defaults.constraint})")  # fmt: skip
    what.add_argument("--consistency", type=_number(float, 0), metavar="W",
                      help=f"weight of category-V/A/D consistency (default*: {defaults.consistency})")  # fmt: skip
    what.add_argument("--orth", dest="orthogonality", type=_number(float, 0), metavar="W",
                      help=f"weight of orthogonal convolutions (default*: {defaults.orthogonality})")  # fmt: skip
    what.add_argument("--targets", choices=TARGETS,
                      help="what the category is to be: FER2013's labels, or the shares of the FER+ votes "
                           f"(default*: {defaults.targets})")  # fmt: skip
    what.add_argument("--teacher", type=_number(float, 0, high=1), metavar="W",
                      help="weight of the released network's probabilities beside the targets (default*: "
                           f"{defaults.teacher}; fast {RECIPES['fast'].teacher})")  # fmt: skip

    how = parser.add_argument_group("training")
    how.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        help="default: default; fast without a GPU, unless --model is given; demo for Demo",
    )
    how.add_argument(
        "--epochs", type=_number(int, 1), metavar="N", help=f"default*: {defaults.epochs}; FERSNet {of_fersnet.epochs}"
    )
    how.add_argument("--bs", dest="batch_size", type=_number(int, 1), metavar="N",
                     help=f"batch size (default*: {defaults.batch_size}; FERSNet {of_fersnet.batch_size})")  # fmt: skip
    rates = f"{defaults.learning_rate}; FERSNet {of_fersnet.learning_rate}"
    how.add_argument("--lr", dest="learning_rate", type=_number(float, 0, False, 1e30), metavar="RATE",
                     help=f"highest learning rate (default*: {rates})")  # fmt: skip
    how.add_argument("--corruption", type=_number(float, 0, high=1), metavar="SHARE",
                     help="share of the training faces that is blurred, noisy, compressed and the like "
                          f"(default*: {defaults.corruption})")  # fmt: skip
    how.add_argument("--seed", type=_number(int, 0, high=2**31), metavar="N", help="default: 0")
    how.add_argument("--eval", dest="evaluation", choices=EVALUATIONS,
                     help="crops per test face; auto: ten on CUDA, the centre on a CPU and ten for the "
                          "chosen models at the end (default: auto)")  # fmt: skip

    fersnet = parser.add_argument_group("FERSNet (CK+, Oulu-CASIA)")
    fersnet.add_argument("--fold", nargs="+", choices=FOLD_CHOICES, metavar="K",
                         help="held-out tenths of the subjects, 1 to 10 or all (default: all); others that --out "
                              "has are kept, unless it has one of these, too")  # fmt: skip
    fersnet.add_argument("--folds", choices=tuple(FOLD_RULES),
                         help=f"balanced in classes, or blocks of names (default*: {of_fersnet.folds})")  # fmt: skip
    fersnet.add_argument("--processes", type=_number(int, 1), metavar="N",
                         help="folds trained at a time, each on its share of the cores (default: 1)")  # fmt: skip
    fersnet.add_argument("--pretrain", type=path_argument, metavar="FILE",
                         help="begin with the weights of a FERSNet .t7 file (default: from scratch)")  # fmt: skip
    fersnet.add_argument("--kernel", type=int, choices=(1, 3),
                         help=f"size of the leaky units' convolutions (default*: {of_fersnet.kernel})")  # fmt: skip
    for name, meaning in SYNTHESIS_WEIGHTS.items():
        fersnet.add_argument(f"--{name}", type=_number(float, 0), metavar="W",
                             help=f"weight: {meaning} (default*: {getattr(of_fersnet, name)})")  # fmt: skip
    fersnet.add_argument("--synthetic", type=_number(int, 0), metavar="N",
                         help=f"synthesized faces to tune with (default*: {of_fersnet.synthetic})")  # fmt: skip

    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", choices=DEVICES, default="auto", help="default: auto; mps is not tested")
    machine.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="default: auto (bf16 where the hardware has it, else fp16 on CUDA, FERSNet fp32; else fp32)",
    )
    machine.add_argument("--compile", choices=SWITCHES, default="auto", help="torch.compile (default: auto)")

    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=path_argument, default=Path("."), metavar="DIR", help="default: the current folder"
    )
    output.add_argument("-r", "--resume", action="store_true", help="go on from last.t7 of the same run")
    output.add_argument("--tensorboard", action="store_true",
                        help="also write event files (pip install tensorboard; default: off)")  # fmt: skip
    return parser


def flag(name):
    """The flag of the command line that sets the field `name` of the settings or of the recipe."""
    return SHORT_FLAGS.get(name, f"--{name.replace('_', '-')}")


def default_model(dataset):
    """The name of the model that is trained on a dataset where none is asked for."""
    return fold_models()[0] if DATASETS[dataset].has_subjects else DEFAULT_MODEL


def default_recipe(arguments, dataset):
    """The name of the recipe where none was asked for: `fast` where neither a GPU nor a model was."""
    if dataset == "Demo":
        return "demo"
    is_slow = not has_gpu(arguments.device) and arguments.model is None
    return "fast" if is_slow and not DATASETS[dataset].has_subjects else "default"


def fold_models():
    """The names of the models that are trained on faces of known people, over folds."""
    return [name for name in MODELS if network_class(name).HAS_FOLDS]


def resolve(arguments, dataset):
    """The `Settings` of a new run on the dataset of that name. Raises UserError for flags that do not go together."""
    has_folds = DATASETS[dataset].has_subjects
    model = arguments.model or default_model(dataset)
    recipes = FERSNET_RECIPES if has_folds else RECIPES
    name = arguments.recipe or default_recipe(arguments, dataset)
    _check_flags(arguments, dataset, model)
    if name not in recipes:
        raise UserError(f"--recipe {name} is not for {dataset}: {' or '.join(recipes)}.")
    recipe, tasks = recipes[name], tuple(name for name in TASKS if name in (arguments.tasks or TASKS))
    if network_class(model).HAS_FOLDS:
        tasks = ("classify",)
        if not has_folds:  # one face a subject: nothing to synthesize from it, so the recognition branch alone
            recipe = replace(recipe, sharing="none")
    given = {field.name: getattr(arguments, field.name, None) for field in fields(recipe)}
    recipe = replace(recipe, **{field: value for field, value in given.items() if value is not None})
    sharings = network_class(model).SHARINGS
    if recipe.sharing not in sharings:
        raise UserError(
            f"{model} has no --sharing {recipe.sharing}, which --recipe {name} has: {' or '.join(sharings)}."
        )
    return Settings(
        dataset=dataset,
        data=None if arguments.data is None else str(arguments.data),
        model=model,
        tasks=tasks,
        recipe_name=name,
        recipe=recipe,
        seed=arguments.seed or 0,
        limit=arguments.limit,
        drop_duplicates=bool(arguments.drop_duplicates),
        evaluation=arguments.evaluation or "auto",
        fold=asked_folds(arguments.fold) if has_folds else None,
        pretrain=None if arguments.pretrain is None else str(arguments.pretrain),
    )


def asked_folds(folds):
    """One text for the folds that --fold asked for, a list or None: "all", or their numbers in order."""
    return "all" if folds is None or "all" in folds else " ".join(map(str, sorted(set(map(int, folds)))))


def _check_flags(arguments, dataset, model):
    """Raise UserError for a flag that means nothing for this dataset and model."""
    has_folds, network = DATASETS[dataset].has_subjects, network_class(model)
    if has_folds and not network.HAS_FOLDS:
        raise UserError(f"--dataset {dataset} trains {' or '.join(fold_models())}, not {model}.")
    used, other = ({field.name for field in fields(kind)} for kind in (Recipe, FERSNetRecipe))
    if has_folds:
        used, other = other, used
    foreign = [*(other - used), *(SPLIT_ARGUMENTS if has_folds else FOLD_ARGUMENTS)]
    values = {name: getattr(arguments, name, None) for name in foreign}
    given = [name for name, value in values.items() if value is not None and value is not False and value != "auto"]
    if given:
        raise UserError(f"{flag(sorted(given)[0])} means nothing for {dataset} with {model}: leave it out.")
    allowed = network.SHARINGS
    if network.HAS_FOLDS and not has_folds:
        allowed = ("none",)
        if arguments.tasks not in (None, ["classify"]):
            raise UserError(f"{model} only classifies {dataset}: leave --tasks out.")
    unused = UNUSED_IN.get(arguments.sharing, ()) if has_folds else ()
    given = [name for name in unused if getattr(arguments, name) is not None]
    if given:
        raise UserError(f"{flag(given[0])} means nothing with --sharing {arguments.sharing}: leave one of them out.")
    if arguments.sharing is not None and arguments.sharing not in allowed:
        raise UserError(f"--sharing {arguments.sharing} is not for {dataset} with {model}: {' or '.join(allowed)}.")


def resumed(arguments, saved):
    """The saved `Settings` of the run to resume, with the paths that are given now.

    What lies there is compared by its content, later. Raises UserError when any other flag differs.
    """
    given = {name: getattr(arguments, name) for name in PATHS}
    saved = replace(saved, **{name: str(path) for name, path in given.items() if path is not None})
    kept = {**vars(saved), **vars(saved.recipe), "recipe": saved.recipe_name}
    defining = kept.keys() | {field.name for kind in (Recipe, FERSNetRecipe) for field in fields(kind)}
    for name, value in vars(arguments).items():
        if value is None or name not in defining:
            continue
        before = kept.get(name)
        if name == "tasks":
            value, before = (" ".join(task for task in TASKS if task in some) for some in (value, before))
        value = asked_folds(value) if name == "fold" else value
        value = str(value) if isinstance(value, Path) else value
        if value != before:
            raise UserError(
                f"{flag(name)} {value} differs from the run to resume, which has {before}. Leave the flag out, or "
                "start a new run without --resume."
            )
    return saved
