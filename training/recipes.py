"""RECIPES: complete sets of hyper-parameters. A flag on the command line overrides its recipe."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class BaseRecipe:
    """What every training has; the defaults are those of `Recipe`.

    schedule: "one-cycle" (linear warm-up over `warmup` of all steps, then cosine to zero) or
    "staircase" (times `decay` every `decay_every` epochs, first at epoch `decay_from`).
    averaging: share of the steps so far over which the weights are averaged for what is evaluated and saved (0: none).
    sharing: how the tasks share a network, one of `SHARINGS` of its class.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.03
    schedule: str = "one-cycle"
    warmup: float = 0.15
    decay: float = 0.9
    decay_every: int = 5
    decay_from: int = 80
    weight_decay: float = 5e-4
    averaging: float = 1 / 9
    sharing: str = "trunk"


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """Everything that decides how a network is trained, besides the data and the seed.

    optimizer: "muon" (convolution kernels by `training.muon`, the rest by SGD with Nesterov momentum; kernel_decay is
    the weight decay of those kernels, weight_decay of the rest) or "sgd".
    decay_all: whether weight_decay is for norms and biases, too, and not for weights alone.
    clip_value: bound on the absolute value of each gradient, None for no bound.
    rotation, scaling: the most that a training face is turned either way, in degrees, and enlarged or made smaller,
    as a share.
    corruption: share of the training faces that is blurred, noisy, compressed and the like (`data.corruptions`).
    targets: what the category is to be, one of `data.votes.TARGETS`.
    teacher: weight of the released network's probabilities among what the category is to be; the targets have the rest.
    constraint: a key of `losses.CONSTRAINTS`; consistency is its weight.
    dimension_weight scales mse_weight * MSE + ccc_weight * (1 - CCC) of each dimension.
    width, pooled, dropout: of the network: channels of its first stage, whether its stem is pooled (see `ResNet18`),
    and the share of the features that its classifier does not see in a training step.
    """

    optimizer: str = "muon"
    momentum: float = 0.9
    nesterov: bool = True
    kernel_decay: float = 0.03
    decay_all: bool = False
    clip_value: float | None = None
    rotation: float = 0.0
    scaling: float = 0.0
    corruption: float = 0.0
    targets: str = "labels"
    label_smoothing: float = 0.1
    teacher: float = 0.0
    dimension_weight: float = 0.5
    mse_weight: float = 1.0
    ccc_weight: float = 1.0
    constraint: str = "table"
    consistency: float = 0.1
    orthogonality: float = 0.0
    width: int = 64
    pooled: bool = False
    dropout: float = 0.0

    @property
    def network_options(self):
        """What makes the network, besides its tasks and its sharing."""
        return {"base": self.width, "pooled": self.pooled, "dropout": self.dropout}


DEFAULT = Recipe(rotation=10.0, scaling=0.1, corruption=0.5)
RECIPES = {
    # The best that we know; the README says what it reaches.
    "default": DEFAULT,
    # The same for photographs and cameras: what people see, not FER2013's labels.
    "photographs": replace(DEFAULT, targets="votes", label_smoothing=0.0),
    # What an ordinary computer can train: the pooled stem is some three times as fast.
    "fast": Recipe(epochs=18, rotation=5.0, scaling=0.05, corruption=0.5, pooled=True, teacher=0.7),
    # The drawn faces, in a minute or two on two processor cores: so few steps that Muon and averages would not pay.
    "demo": Recipe(epochs=5, batch_size=16, learning_rate=0.02, optimizer="sgd", averaging=0.0, width=32, pooled=True),
    # The original project's hyper-parameters with its faults mended (see the README).
    "paper": Recipe(
        epochs=20,
        batch_size=16,
        learning_rate=0.01,
        schedule="staircase",
        decay_from=85,
        optimizer="sgd",
        nesterov=False,
        decay_all=True,
        clip_value=0.1,
        averaging=0.0,
        label_smoothing=0.0,
        dimension_weight=1.0,
        ccc_weight=0.0,
        constraint="original",
        consistency=1.0,
        orthogonality=0.5,
        dropout=0.5,
        sharing="none",
    ),
}


@dataclass(frozen=True)
class FERSNetRecipe(BaseRecipe):
    """Everything that decides how a FERSNet is trained in one fold, besides the data and the seed.

    The optimizer is Adam.
    folds: how subjects are put into folds, one of `data.subjects.folds.FOLD_RULES`; the paper's are "by-name".
    sharing: "none" (the paper's Baseline), "hard" (Baseline*) or "selective"; kernel: of the ConvFLUs, 1 or 3.
    label_smoothing: of the recognition's cross-entropy (0 in the paper).
    reconstruction, identity, expression, adversarial, cycle: weights of the losses of a synthesized face, whose pixels
    are in 0..1 (see `training.fersnet.learner`; the paper has no expression).
    discriminator_steps: for each step of the network.
    synthetic: synthesized faces with which the recognition is tuned after the last epoch (0: none; the paper's FERSNet*
    has 21,000), for `tuning_epochs` passes at `tuning_rate`. agreed: leave out those in which the network itself reads
    another expression than the wanted one (the paper takes all).
    """

    epochs: int = 30
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup: float = 0.1
    decay: float = 0.1
    decay_every: int = 250
    decay_from: int = 150
    averaging: float = 0.06
    folds: str = "balanced"
    sharing: str = "selective"
    kernel: int = 1
    label_smoothing: float = 0.1
    reconstruction: float = 20.0
    identity: float = 0.05
    expression: float = 0.3
    adversarial: float = 0.1
    cycle: float = 0.0
    discriminator_steps: int = 1
    synthetic: int = 0
    tuning_epochs: int = 2
    tuning_rate: float = 1e-4
    agreed: bool = True


FERSNET_RECIPES = {
    # Short enough for a processor; the README says what it reaches.
    "default": FERSNetRecipe(),
    # What the paper and its authors' code tell of their training.
    "paper": FERSNetRecipe(
        folds="by-name",
        epochs=500,
        batch_size=8,
        learning_rate=1e-4,
        schedule="staircase",
        averaging=0.0,
        reconstruction=1.0,
        adversarial=0.3,
        cycle=0.5,
        discriminator_steps=3,
        label_smoothing=0.0,
        expression=0.0,
        agreed=False,
    ),
}
