"""Recipes, the command line made from them, and the settings of a run."""

import argparse
import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from data import DATASETS
from data.subjects.folds import FOLD_RULES, FOLDS
from data.votes import TARGETS
from models import MODELS, free_options, network_class
from training.device import DEVICES, PRECISIONS, SWITCHES, has_gpu
from training.losses import CONSTRAINTS
from utils.files import UserError, path_argument
from utils.tasks import TASKS

DEFAULT_MODEL = "ResNet18RegressionTwoOutputs"
EVALUATIONS = ("auto", "center", "tencrop")
PATHS = ("data", "pretrain")  # where these files are may change while a run is interrupted
# Flags that have a name of their own, beside that of the field they set.
SHORT_FLAGS = {"batch_size": "--bs", "learning_rate": "--lr", "orthogonality": "--orth"}
NAMES = {"evaluation": "eval"}

# What an option needs to have an effect in a run, as flags that give it (see `missing_need`).
SPLITS = "--dataset " + " or ".join(name for name in DATASETS if not DATASETS[name].has_subjects)
SUBJECTS = "--dataset " + " or ".join(name for name in DATASETS if DATASETS[name].has_subjects)
CLASSIFY, DIMENSIONS = "--tasks classify", "--tasks regressV or regressA or regressD"
SYNTHESIS, NETWORK = "--sharing hard or selective", "a network that has it"
NEEDS = {
    "data": f"--dataset {' or '.join(name for name in DATASETS if name != 'Demo')}",
    "drop_duplicates": "--dataset FER2013",
    **dict.fromkeys(("limit", "tasks", "evaluation", "compile", "tensorboard"), SPLITS),
    **dict.fromkeys(("fold", "pretrain"), SUBJECTS),
}


def option(default, text, *needs, low=0, high=None, choices=None):
    """A field of a recipe.

    text: for --help; needs: without which it has no effect; low, high: smallest and largest number;
    choices: the values that it may have.
    """
    return field(
        default=default,
        metadata={"help": text, "needs": needs, "low": low, "high": high, "choices": choices},
    )


@dataclass(frozen=True)
class BaseRecipe:
    """Hyper-parameters of every training; the defaults are those of `Recipe`."""

    epochs: int = option(20, "passes over the training faces", low=1)
    batch_size: int = option(128, "faces of a training step", low=1)
    learning_rate: float = option(0.03, "highest learning rate", low=1e-30, high=1e30)
    schedule: str = option(
        "one-cycle",
        "warm-up, then cosine to zero, or steps down",
        choices=("one-cycle", "staircase"),
    )
    warmup: float = option(
        0.15, "share of the steps in which the rate rises", "--schedule one-cycle", high=1
    )
    decay: float = option(0.9, "factor of each step down", "--schedule staircase")
    decay_every: int = option(5, "epochs between two steps down", "--schedule staircase", low=1)
    decay_from: int = option(80, "epoch of the first step down", "--schedule staircase")
    weight_decay: float = option(5e-4, "weight decay; of Muon's kernels it is --kernel-decay")
    averaging: float = option(
        1 / 9, "share of the steps so far to average weights over, 0 for none", high=1
    )
    sharing: str = option(
        "trunk", "trunk: one for all tasks, none: one each; FERSNet: none, hard or selective",
        choices=("trunk", "none", "hard", "selective"),
    )  # fmt: skip
    label_smoothing: float = option(
        0.1, "share of the target spread over all classes", CLASSIFY, high=1
    )


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """Hyper-parameters of a network for emotions and V/A/D."""

    optimizer: str = option(
        "muon", "muon (kernels, the rest by sgd) or sgd", choices=("muon", "sgd")
    )
    momentum: float = option(0.9, "momentum", high=1)
    nesterov: bool = option(True, "Nesterov momentum", "--optimizer sgd")
    kernel_decay: float = option(0.03, "weight decay of Muon's kernels", "--optimizer muon")
    decay_all: bool = option(False, "weight decay of norms and biases, too")
    clip_value: float | None = option(None, "largest absolute value of a gradient")
    rotation: float = option(0.0, "largest rotation of a training face, in degrees", high=180)
    scaling: float = option(
        0.0, "largest change of the size of a training face, as a share", high=0.9
    )
    corruption: float = option(
        0.0, "share of the training faces that is blurred, noisy, compressed, ...", high=1
    )
    targets: str = option(
        "labels", "learn the labels, or the shares of the FER+ votes", CLASSIFY, choices=TARGETS
    )
    teacher: float = option(
        0.0, "weight of the released network's probabilities among the targets", CLASSIFY, high=1
    )
    dimension_weight: float = option(0.5, "weight of the losses of V, A and D", DIMENSIONS)
    mse_weight: float = option(
        1.0, "weight of the squared error in them", DIMENSIONS, "--dimension-weight above 0"
    )
    ccc_weight: float = option(
        1.0, "weight of 1 - CCC in them", DIMENSIONS, "--dimension-weight above 0"
    )
    constraint: str = option(
        "table", "which emotions and V/A/D contradict each other", CLASSIFY, DIMENSIONS,
        "--consistency above 0", choices=tuple(CONSTRAINTS),
    )  # fmt: skip
    consistency: float = option(
        0.1, "weight of the consistency of emotions and V/A/D", CLASSIFY, DIMENSIONS
    )
    orthogonality: float = option(0.0, "weight of orthogonal convolutions")
    width: int = option(64, "channels of the first stage", NETWORK, low=1)
    pooled: bool = option(False, "max pooling after the stem", NETWORK)
    dropout: float = option(0.0, "dropout before the classifier", NETWORK, CLASSIFY, high=0.99)

    @property
    def network_options(self):
        """Arguments of the network, besides its tasks and its sharing."""
        return {"base": self.width, "pooled": self.pooled, "dropout": self.dropout}


@dataclass(frozen=True)
class FERSNetRecipe(BaseRecipe):
    """Hyper-parameters of a FERSNet over one fold; the optimizer is Adam."""

    folds: str = option(
        "balanced", "folds with balanced classes, or the paper's", choices=tuple(FOLD_RULES)
    )
    kernel: int = option(1, "kernel size of the ConvFLUs", "--sharing selective", choices=(1, 3))
    reconstruction: float = option(20.0, "weight of the L1 distance to the real face", SYNTHESIS)
    identity: float = option(0.05, "weight of the distance of identity features", SYNTHESIS)
    expression: float = option(
        0.3, "weight of the expression that another network reads", SYNTHESIS
    )
    adversarial: float = option(0.1, "weight of the discriminator's score", SYNTHESIS)
    cycle: float = option(
        0.0, "weight of the squared error of the face synthesized back", SYNTHESIS
    )
    discriminator_steps: int = option(
        1, "steps of the discriminator for one of the network", SYNTHESIS
    )
    synthetic: int = option(
        0, "synthesized faces for fine-tuning (the paper's FERSNet*)", SYNTHESIS
    )
    tuning_epochs: int = option(2, "epochs of fine-tuning", SYNTHESIS, "--synthetic above 0", low=1)
    tuning_rate: float = option(
        1e-4, "learning rate of fine-tuning", SYNTHESIS, "--synthetic above 0"
    )
    agreed: bool = option(
        True, "fine-tune with those synthesized faces alone in which the network reads the target",
        SYNTHESIS, "--synthetic above 0",
    )  # fmt: skip


DEFAULT = Recipe(rotation=10.0, scaling=0.1, corruption=0.5)
RECIPES = {
    # The best that we know; the README says what it reaches.
    "default": DEFAULT,
    # The same for photographs and cameras: what people see, not FER2013's labels.
    "photographs": replace(DEFAULT, targets="votes", label_smoothing=0.0),
    # What an ordinary computer can train: the pooled stem is some three times as fast.
    "fast": Recipe(epochs=18, rotation=5.0, scaling=0.05, corruption=0.5, pooled=True, teacher=0.7),
    # The drawn faces, in a minute or two on two cores: too few steps for Muon and averages.
    "demo": Recipe(
        epochs=5, batch_size=16, learning_rate=0.02, optimizer="sgd", averaging=0.0, width=32,
        pooled=True,
    ),
    # The original project's hyper-parameters with its faults mended (see the README).
    "paper": Recipe(
        batch_size=16, learning_rate=0.01, schedule="staircase", decay_from=85, optimizer="sgd",
        nesterov=False, decay_all=True, clip_value=0.1, averaging=0.0, label_smoothing=0.0,
        dimension_weight=1.0, ccc_weight=0.0, constraint="original", consistency=1.0,
        orthogonality=0.5, dropout=0.5, sharing="none",
    ),
}  # fmt: skip
FERSNET = FERSNetRecipe(
    epochs=30, batch_size=8, learning_rate=1e-3, warmup=0.1, decay=0.1, decay_every=250,
    decay_from=150, averaging=0.06, sharing="selective",
)  # fmt: skip
FERSNET_RECIPES = {
    # Short enough for a processor; the README says what it reaches.
    "default": FERSNET,
    # What the paper and its authors' code say of their training.
    "paper": replace(
        FERSNET, folds="by-name", epochs=500, learning_rate=1e-4, schedule="staircase",
        averaging=0.0, reconstruction=1.0, adversarial=0.3, cycle=0.5, discriminator_steps=3,
        label_smoothing=0.0, expression=0.0, agreed=False,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What defines a run: equal settings on equal machines give equal numbers.

    data: path that was given, or None; limit: faces of each split, None for all; fold: the fold of
    a cross-validation to train, 1 to 10, None for all; pretrain: checkpoint to begin with, or None.
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
    fold: int | None = None
    pretrain: str | None = None

    def to_plain(self):
        """Plain values, for a checkpoint."""
        return {**asdict(self), "tasks": list(self.tasks)}

    @classmethod
    def from_plain(cls, plain):
        """The settings that `to_plain` gave."""
        kind = FERSNetRecipe if DATASETS[plain["dataset"]].has_subjects else Recipe
        return cls(**{**plain, "recipe": kind(**plain["recipe"]), "tasks": tuple(plain["tasks"])})

    @property
    def run_name(self):
        """Name of the folder for checkpoints: <dataset>_<model>."""
        return f"{self.dataset}_{self.model}"

    @property
    def has_subjects(self):
        """Whether it trains on faces of known people, over folds."""
        return DATASETS[self.dataset].has_subjects

    @property
    def network_options(self):
        """Arguments of the network, besides its tasks and its sharing, that it takes."""
        if network_class(self.model).HAS_FOLDS:
            return {}
        return free_options(self.model, self.recipe.network_options)

    def effective_recipe(self):
        """{option: value} of the recipe, without those that have no effect in this run."""
        values = vars(self.recipe).items()
        return {name: value for name, value in values if missing_need(self, name) is None}


def missing_need(settings, name):
    """What the option called `name` lacks to have an effect in a run, None where it has one."""
    recipe_needs = {each.name: each.metadata["needs"] for each in fields(settings.recipe)}
    other = Recipe if settings.has_subjects else FERSNetRecipe
    if name not in recipe_needs and name in (each.name for each in fields(other)):
        return SPLITS if settings.has_subjects else SUBJECTS
    needs = recipe_needs.get(name, (NEEDS[name],) if name in NEEDS else ())
    if NETWORK in needs and {"width": "base"}.get(name, name) not in settings.network_options:
        return NETWORK
    values = vars(settings) | vars(settings.recipe)
    return next((need for need in needs if need != NETWORK and not _is_met(need, values)), None)


def _is_met(need, values):
    """Whether {option: value} has what a need says: one of some values, or a number above 0."""
    name, _, wanted = need.removeprefix("--").partition(" ")
    value = values[name.replace("-", "_")]
    if wanted == "above 0":
        return value > 0
    value = value if isinstance(value, tuple) else (value,)
    return not set(wanted.split(" or ")).isdisjoint(value)


def check_effects(arguments, settings):
    """Raise UserError for a flag that does nothing in the run at hand."""
    for name, value in vars(arguments).items():
        missing = missing_need(settings, name) if value not in (None, "auto") else None
        if missing:
            raise UserError(f"{flag(name)} has no effect without {missing}: leave it out.")


def flag(name):
    """The flag that sets the option called `name`."""
    return SHORT_FLAGS.get(name, f"--{NAMES.get(name, name).replace('_', '-')}")


def _number(kind, low, high=None):
    def convert(text):
        value = kind(text)
        if value < low or (high is not None and value > high) or not math.isfinite(value):
            raise ValueError
        return value

    convert.__name__ = "whole number" if kind is int else "number"
    return convert


def build_parser():
    """The argument parser. Options that define a run are None where they are not given."""
    parser = argparse.ArgumentParser(
        prog="mainpro_FER.py",
        usage="%(prog)s [options]",
        description="Train a network for seven emotions and for valence, arousal and dominance.",
        epilog="Defaults of the recipe's options are those of --recipe default.",
    )
    _add_run_options(parser.add_argument_group("run").add_argument)
    _add_machine_options(parser.add_argument_group("machine and output").add_argument)
    added = set()
    for title, recipe in (("recipe", DEFAULT), ("recipe of FERSNet", FERSNET)):
        group = parser.add_argument_group(title)
        for each in fields(recipe):
            if each.name not in added:
                _add_recipe_option(group, each)
                added.add(each.name)
    return parser


def _add_run_options(add):
    add("--dataset", choices=tuple(DATASETS),
        help="default: FER2013 where its data is found, else Demo")  # fmt: skip
    add("--data", type=path_argument, metavar="PATH",
        help="archive, folder, CSV or data.h5 (default: data/)")  # fmt: skip
    add("--limit", type=_number(int, 1), metavar="N", help="faces of each split (default: all)")
    add("--drop-duplicates", action="store_true", default=None,
        help="leave out training faces that a test split has, too (default: keep)")  # fmt: skip
    add("--model", choices=tuple(MODELS),
        help=f"default: {DEFAULT_MODEL}; FERSNet for CK+ and Oulu-CASIA")  # fmt: skip
    add("--tasks", nargs="+", choices=tuple(TASKS), metavar="TASK",
        help=f"any of {', '.join(TASKS)} (default: all that the data has labels for)")  # fmt: skip
    add("--recipe", choices=tuple(RECIPES),
        help="default: default; fast without a GPU; demo for Demo")  # fmt: skip
    add("--seed", type=_number(int, 0, 2**31), metavar="N", help="default: 0")
    add("--eval", dest="evaluation", choices=EVALUATIONS,
        help="crops of a test face; auto: ten on CUDA, else the centre, and ten for the chosen "
             "models at the end (default: auto)")  # fmt: skip
    add("--fold", type=int, choices=range(1, FOLDS + 1), metavar="K",
        help=f"train one fold, 1 to {FOLDS} (default: all, one after the other)")  # fmt: skip
    add("--pretrain", type=path_argument, metavar="FILE",
        help="begin with the weights of a FERSNet .t7 file (default: from scratch)")  # fmt: skip


def _add_machine_options(add):
    add("--device", choices=DEVICES, default="auto", help="default: auto; mps is not tested")
    add("--precision", choices=PRECISIONS,
        help="default: auto (bf16 where the hardware has it, else fp16 or fp32)")  # fmt: skip
    add("--compile", choices=SWITCHES, default="auto", help="torch.compile (default: auto)")
    add("--out", type=path_argument, default=Path("."), metavar="DIR",
        help="default: the current folder")  # fmt: skip
    add("-r", "--resume", action="store_true", help="continue from last.t7 of the same run")
    add("--tensorboard", action="store_true", default=None,
        help="also write event files (pip install tensorboard; default: off)")  # fmt: skip


def _add_recipe_option(group, each):
    """Add the flag of a field of a recipe."""
    rules, name = each.metadata, each.name
    defaults = [
        f"{getattr(recipe, name)}" for recipe in (DEFAULT, FERSNET) if hasattr(recipe, name)
    ]
    options = {
        "dest": name,
        "default": None,
        "help": f"{rules['help']} (default: {'; FERSNet '.join(defaults)})",
    }
    kind = {float | None: float}.get(each.type, each.type)
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif rules["choices"]:
        options |= {"type": kind, "choices": rules["choices"]}
    else:
        options |= {
            "type": _number(kind, rules["low"], rules["high"]),
            "metavar": "N" if kind is int else "X",
        }
    group.add_argument(*dict.fromkeys((flag(name), f"--{name.replace('_', '-')}")), **options)


def default_model(dataset):
    """The name of the model that is trained on a dataset where none is given."""
    return fold_models()[0] if DATASETS[dataset].has_subjects else DEFAULT_MODEL


def default_recipe(arguments, dataset, model):
    """The name of the recipe where none is given: `fast` for the default model without a GPU."""
    if dataset == "Demo":
        return "demo"
    return "fast" if model == DEFAULT_MODEL and not has_gpu(arguments.device) else "default"


def fold_models():
    """The names of the models that are trained on faces of known people, over folds."""
    return [name for name in MODELS if network_class(name).HAS_FOLDS]


def resolve(arguments, dataset):
    """The `Settings` of a new run on a dataset. Raises UserError for flags that do not fit."""
    has_subjects = DATASETS[dataset].has_subjects
    model = arguments.model or default_model(dataset)
    if has_subjects and model not in fold_models():
        raise UserError(f"--model {model} is not for {dataset}: {' or '.join(fold_models())}.")
    recipes = FERSNET_RECIPES if has_subjects else RECIPES
    name = arguments.recipe or default_recipe(arguments, dataset, model)
    if name not in recipes:
        raise UserError(f"--recipe {name} is not for {dataset}: {' or '.join(recipes)}.")
    settings = Settings(
        dataset=dataset,
        data=None if arguments.data is None else str(arguments.data),
        model=model,
        tasks=_tasks(arguments, model, dataset),
        recipe_name=name,
        recipe=_recipe(arguments, recipes[name], model, has_subjects),
        seed=arguments.seed or 0,
        limit=arguments.limit,
        drop_duplicates=bool(arguments.drop_duplicates),
        evaluation=arguments.evaluation or "auto",
        fold=arguments.fold,
        pretrain=None if arguments.pretrain is None else str(arguments.pretrain),
    )
    check_effects(arguments, settings)
    return settings


def _tasks(arguments, model, dataset):
    """The tasks to train, in the order of the table."""
    tasks = tuple(name for name in TASKS if name in (arguments.tasks or TASKS))
    if not network_class(model).HAS_FOLDS:
        return tasks
    if arguments.tasks not in (None, ["classify"]):
        raise UserError(f"{model} only classifies {dataset}: leave --tasks out.")
    return ("classify",)


def _recipe(arguments, recipe, model, has_subjects):
    """The recipe with what was given on the command line."""
    sharings = network_class(model).SHARINGS
    if network_class(model).HAS_FOLDS and not has_subjects:
        # One face of each person: nothing to synthesize from, so the recognition branch alone.
        recipe, sharings = replace(recipe, sharing="none"), ("none",)
    given = {each.name: getattr(arguments, each.name) for each in fields(recipe)}
    recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
    if recipe.sharing not in sharings:
        raise UserError(f"{model} has no --sharing {recipe.sharing} here: {' or '.join(sharings)}.")
    return recipe


def resumed(arguments, saved):
    """The saved `Settings` of the run to resume, with the paths that are given now.

    Files there are compared by their content, later. Raises UserError when another flag differs.
    """
    given = {
        name: str(value)
        for name, value in vars(arguments).items()
        if name in PATHS and value is not None
    }
    saved = replace(saved, **given)
    check_effects(arguments, saved)
    known = {**vars(saved), **vars(saved.recipe), "recipe": saved.recipe_name}
    for name, value in vars(arguments).items():
        if value is None or name not in known or name in (*PATHS, "fold"):
            continue
        if name == "tasks":
            value = tuple(task for task in TASKS if task in value)
        if value != known[name]:
            raise UserError(
                f"{flag(name)} {value} differs from the run to resume, which has {known[name]}. "
                "Leave the flag out, or start a new run without --resume."
            )
    return saved if arguments.fold is None else replace(saved, fold=arguments.fold)
