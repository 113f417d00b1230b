"""Recipes, the command line made from them, and the settings of a run."""

import argparse
import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from data import DATASETS
from data.subjects.folds import FOLD_RULES, FOLDS
from data.votes import TARGETS
from models import MODELS, free_options, network_class
from training.device import DEVICES, PRECISIONS, has_gpu
from training.losses import CONSTRAINTS
from utils.files import UserError, path_argument
from utils.tasks import TASKS

DEFAULT_MODEL = "ResNet18RegressionTwoOutputs"
EVALUATIONS = ("auto", "center", "tencrop")
PATHS = ("data", "pretrain")  # where these files are may change while a run is interrupted
# Flags that are not named after the field that they set, or have another name beside it.
FLAGS = {
    "batch_size": "--bs",
    "learning_rate": "--lr",
    "orthogonality": "--orth",
    "evaluation": "--eval",
}


def option(default, text, low=0, high=math.inf, choices=None):
    """A field of a recipe. text: for --help; low, high: of a number; choices: its values."""
    rules = {"help": text, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=rules)


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of a training. Which of them have an effect: see `without_effect`."""

    epochs: int = option(20, "passes over the training faces", low=1)
    batch_size: int = option(128, "faces of a training step", low=1)
    learning_rate: float = option(0.03, "highest learning rate", low=1e-30, high=1e30)
    schedule: str = option(
        "one-cycle",
        "warm-up, then cosine to zero, or steps down",
        choices=("one-cycle", "staircase"),
    )
    warmup: float = option(0.15, "share of the steps in which the rate rises", high=1)
    decay: float = option(0.9, "factor of each step down")
    decay_every: int = option(5, "epochs between two steps down", low=1)
    decay_from: int = option(80, "epoch of the first step down")
    weight_decay: float = option(5e-4, "weight decay; of Muon's kernels it is --kernel-decay")
    averaging: float = option(
        1 / 9, "share of the steps so far to average weights over, 0 for none", high=1
    )
    sharing: str = option(
        "trunk",
        "trunk: one for all tasks, none: one each; FERSNet: none, hard or selective",
        choices=("trunk", "none", "hard", "selective"),
    )
    label_smoothing: float = option(0.1, "share of the target spread over all classes", high=1)
    # Of networks for emotions and V/A/D.
    optimizer: str = option(
        "muon", "muon (kernels, the rest by sgd) or sgd", choices=("muon", "sgd")
    )
    nesterov: bool = option(True, "Nesterov momentum")
    kernel_decay: float = option(0.03, "weight decay of Muon's kernels")
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
        "labels", "learn the labels, or the shares of the FER+ votes", choices=TARGETS
    )
    teacher: float = option(
        0.0, "weight of the released network's probabilities among the targets", high=1
    )
    dimension_weight: float = option(0.5, "weight of the losses of V, A and D")
    ccc_weight: float = option(1.0, "weight of 1 - CCC in them")
    constraint: str = option(
        "table", "which emotions and V/A/D contradict each other", choices=CONSTRAINTS
    )
    consistency: float = option(0.1, "weight of the consistency of emotions and V/A/D")
    orthogonality: float = option(0.0, "weight of orthogonal convolutions")
    width: int = option(64, "channels of the first stage", low=1)
    pooled: bool = option(False, "max pooling after the stem")
    dropout: float = option(0.0, "dropout before the classifier", high=0.99)
    # Of a FERSNet over one fold, whose optimizer is Adam.
    folds: str = option(
        "balanced", "folds with balanced classes, or the paper's", choices=tuple(FOLD_RULES)
    )
    kernel: int = option(1, "kernel size of the ConvFLUs", choices=(1, 3))
    reconstruction: float = option(20.0, "weight of the L1 distance to the real face")
    identity: float = option(0.05, "weight of the distance of identity features")
    expression: float = option(0.3, "weight of the expression that another network reads")
    adversarial: float = option(0.1, "weight of the discriminator's score")
    cycle: float = option(0.0, "weight of the squared error of the face synthesized back")
    discriminator_steps: int = option(1, "steps of the discriminator for one of the network")
    synthetic: int = option(0, "synthesized faces for fine-tuning (the paper's FERSNet*)")
    tuning_epochs: int = option(2, "epochs of fine-tuning", low=1)
    tuning_rate: float = option(1e-4, "learning rate of fine-tuning")
    agreed: bool = option(
        True, "fine-tune with those synthesized faces alone in which the network reads the target"
    )


NAMES = [each.name for each in fields(Recipe)]
SYNTHESIS = NAMES[NAMES.index("reconstruction") :]
ONLY_SUBJECTS = ("fold", "pretrain", *NAMES[NAMES.index("folds") :])
ONLY_SPLITS = (
    *("limit", "tasks", "evaluation", "compile", "tensorboard"),
    *NAMES[NAMES.index("optimizer") : NAMES.index("folds")],
)
SUBJECTS = [name for name, loader in DATASETS.items() if loader.has_subjects]
SPLITS = [name for name in DATASETS if name not in SUBJECTS]
# (option, the values of which it must have one, options that have no effect otherwise); None stands
# for any number above 0.
NEEDS = (
    ("schedule", ["one-cycle"], ("warmup",)),
    ("schedule", ["staircase"], ("decay", "decay_every", "decay_from")),
    ("optimizer", ["sgd"], ("nesterov",)),
    ("optimizer", ["muon"], ("kernel_decay",)),
    ("consistency", None, ("constraint",)),
    ("dimension_weight", None, ("ccc_weight",)),
    (
        "tasks",
        ["regressV", "regressA", "regressD"],
        ("dimension_weight", "ccc_weight", "constraint", "consistency"),
    ),
    (
        "tasks",
        ["classify"],
        ("label_smoothing", "targets", "teacher", "dropout", "constraint", "consistency"),
    ),
    ("synthetic", None, ("tuning_epochs", "tuning_rate", "agreed")),
    ("sharing", ["selective"], ("kernel",)),
    ("sharing", ["hard", "selective"], SYNTHESIS),
    ("dataset", SUBJECTS, ONLY_SUBJECTS),
    ("dataset", SPLITS, ONLY_SPLITS),
    ("dataset", ["FER2013"], ("drop_duplicates",)),
    ("dataset", [name for name in DATASETS if name != "Demo"], ("data",)),
)

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
FERSNET = Recipe(
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
    model: str
    tasks: tuple
    recipe_name: str
    recipe: Recipe
    data: str | None = None
    seed: int = 0
    limit: int | None = None
    drop_duplicates: bool = False
    evaluation: str = "auto"
    fold: int | None = None
    pretrain: str | None = None

    @classmethod
    def from_plain(cls, plain):
        """The settings of which `dataclasses.asdict`, or JSON, made plain values."""
        changes = {"recipe": Recipe(**plain["recipe"]), "tasks": tuple(plain["tasks"])}
        return cls(**(plain | changes))

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
        recipe = self.recipe
        options = {"base": recipe.width, "pooled": recipe.pooled, "dropout": recipe.dropout}
        return free_options(self.model, options)

    def effective_recipe(self):
        """{option: value} of the recipe, without those that have no effect in this run."""
        idle = without_effect(self)
        return {name: value for name, value in vars(self.recipe).items() if name not in idle}


def without_effect(settings):
    """{option: what it needs to have an effect} of the options that have none in a run."""
    idle, values = {}, vars(settings) | vars(settings.recipe)
    for name, wanted, options in NEEDS:
        value = values[name]
        given = value if isinstance(value, tuple) else (value,)
        is_met = value > 0 if wanted is None else not set(wanted).isdisjoint(given)
        if not is_met:
            need = "above 0" if wanted is None else " or ".join(wanted)
            idle |= dict.fromkeys(options, f"{flag(name)} {need}")
    free = {"width": "base", "pooled": "pooled", "dropout": "dropout"}
    lacking = [name for name, key in free.items() if key not in settings.network_options]
    return idle | dict.fromkeys(lacking, "a network that has it")


def given_flags(arguments):
    """{option: value} of what was given on the command line, paths as text, tasks in our order."""
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    for name in set(PATHS) & given.keys():
        given[name] = str(given[name])
    if "tasks" in given:
        given["tasks"] = tuple(name for name in TASKS if name in given["tasks"])
    return given


def check_effects(arguments, settings):
    """Raise UserError for a flag that does nothing in the run at hand."""
    idle = without_effect(settings)
    for name in given_flags(arguments):
        if name in idle:
            raise UserError(f"{flag(name)} has no effect without {idle[name]}: leave it out.")


def flag(name):
    """The flag that sets the option called `name`."""
    return FLAGS.get(name, f"--{name.replace('_', '-')}")


def default_model(dataset):
    """The name of the model that is trained on a dataset where none is given."""
    return "FERSNet" if dataset in SUBJECTS else DEFAULT_MODEL


def default_recipe(dataset, model, device):
    """The name of the recipe where none is given: `fast` for the default model without a GPU."""
    if dataset == "Demo":
        return "demo"
    return "fast" if model == DEFAULT_MODEL and not has_gpu(device) else "default"


def resolve(arguments, dataset):
    """The `Settings` of a new run on a dataset. Raises UserError for flags that do not fit."""
    given = {"model": default_model(dataset), **given_flags(arguments)}
    model, network = given["model"], network_class(given["model"])
    recipes = FERSNET_RECIPES if dataset in SUBJECTS else RECIPES
    name = given.get("recipe") or default_recipe(dataset, model, arguments.device)
    if name not in recipes or dataset in SUBJECTS and not network.HAS_FOLDS:
        raise UserError(
            f"--model {model} --recipe {name} is not for {dataset}: there are the recipes "
            f"{' and '.join(recipes)}, and faces of known people need a FERSNet."
        )
    recipe, sharings, tasks = recipes[name], network.SHARINGS, tuple(TASKS)
    if network.HAS_FOLDS:
        tasks = ("classify",)
        if dataset in SPLITS:
            # One face of each person: nothing to synthesize from, so the recognition branch alone.
            recipe, sharings = replace(recipe, sharing="none"), ("none",)
    recipe = replace(recipe, **{key: given[key] for key in NAMES if key in given})
    if recipe.sharing not in sharings:
        raise UserError(f"{model} has no --sharing {recipe.sharing} here: {' or '.join(sharings)}.")
    if network.HAS_FOLDS and given.get("tasks", tasks) != tasks:
        raise UserError(f"{model} only classifies: leave --tasks out.")
    options = {each.name: given[each.name] for each in fields(Settings) if each.name in given}
    fixed = {"dataset": dataset, "recipe_name": name, "recipe": recipe}
    settings = Settings(**({"tasks": tasks} | options | fixed))
    check_effects(arguments, settings)
    return settings


def resumed(arguments, saved):
    """The saved `Settings` of the run to resume, with the paths and the fold that are given now.

    Files there are compared by their content, later. Raises UserError when another flag differs.
    """
    given = given_flags(arguments)
    changes = {name: given.pop(name) for name in (*PATHS, "fold") if name in given}
    known = vars(saved) | vars(saved.recipe) | {"recipe": saved.recipe_name}
    for name, value in given.items():
        if known.get(name, value) != value:
            raise UserError(
                f"{flag(name)} {value} differs from the run to resume, which has {known[name]}. "
                "Leave the flag out, or start a new run without --resume."
            )
    saved = replace(saved, **changes)
    check_effects(arguments, saved)
    return saved


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
    group = parser.add_argument_group("recipe")
    for each in fields(Recipe):
        _add_recipe_option(group.add_argument, each)
    return parser


def _number(kind, low, high=math.inf):
    """What makes a number between two bounds of text."""

    def convert(text):
        value = kind(text)
        if not low <= value <= high or not math.isfinite(value):
            raise ValueError
        return value

    convert.__name__ = "whole number" if kind is int else "number"
    return convert


# fmt: off
def _add_run_options(add):
    add("--dataset", choices=tuple(DATASETS),
        help="default: FER2013 where its data is found, else Demo")
    add("--data", type=path_argument, metavar="PATH",
        help="archive, folder, CSV or data.h5 (default: data/)")
    add("--limit", type=_number(int, 1), metavar="N", help="faces of each split (default: all)")
    add("--drop-duplicates", action="store_true", default=None,
        help="leave out training faces that a test split has, too (default: keep)")
    add("--model", choices=tuple(MODELS),
        help=f"default: {DEFAULT_MODEL}; FERSNet for CK+ and Oulu-CASIA")
    add("--tasks", nargs="+", choices=tuple(TASKS), metavar="TASK",
        help=f"any of {', '.join(TASKS)} (default: all that the data has labels for)")
    add("--recipe", choices=tuple(RECIPES),
        help="default: default; fast without a GPU; demo for Demo")
    add("--seed", type=_number(int, 0, 2**31), metavar="N", help="default: 0")
    add("--eval", dest="evaluation", choices=EVALUATIONS,
        help="crops of a test face; auto: ten on CUDA, else the centre, and ten for the chosen "
             "models at the end (default: auto)")
    add("--fold", type=int, choices=range(1, FOLDS + 1), metavar="K",
        help=f"train one fold, 1 to {FOLDS} (default: all, one after the other)")
    add("--pretrain", type=path_argument, metavar="FILE",
        help="begin with the weights of a FERSNet .t7 file (default: from scratch)")


def _add_machine_options(add):
    add("--device", choices=DEVICES, default="auto", help="default: auto; mps is not tested")
    add("--precision", choices=PRECISIONS,
        help="default: auto (bf16 where the hardware has it, else fp16 or fp32)")
    add("--compile", action="store_true", default=None, help="use torch.compile (default: off)")
    add("--out", type=path_argument, default=Path("."), metavar="DIR",
        help="default: the current folder")
    add("-r", "--resume", action="store_true", help="continue from last.t7 of the same run")
    add("--tensorboard", action="store_true", default=None,
        help="also write event files (pip install tensorboard; default: off)")


# fmt: on
def _add_recipe_option(add, each):
    """Add the flag of a field of a recipe."""
    rules, name = each.metadata, each.name
    defaults = dict.fromkeys(str(getattr(recipe, name)) for recipe in (DEFAULT, FERSNET))
    text = f"{rules['help']} (default: {'; FERSNet '.join(defaults)})"
    kind = float if each.type == float | None else each.type
    if kind is bool:
        options = {"action": argparse.BooleanOptionalAction}
    elif rules["choices"]:
        options = {"type": kind, "choices": rules["choices"]}
    else:
        number = _number(kind, rules["low"], rules["high"])
        options = {"type": number, "metavar": "N" if kind is int else "X"}
    flags = dict.fromkeys((flag(name), f"--{name.replace('_', '-')}"))
    add(*flags, dest=name, default=None, help=text, **options)
