"""RECIPES: complete sets of hyper-parameters. A flag on the command line overrides its recipe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained, besides the data and the seed.

    schedule: "one-cycle" (linear warm-up over `warmup` of all steps, then cosine to zero) or
    "staircase" (times `decay` every `decay_every` epochs, first at epoch `decay_from`).
    clip_value: bound on the absolute value of each gradient, None for no bound.
    dimension_weight scales mse_weight * MSE + ccc_weight * (1 - CCC) of each dimension.
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.02
    schedule: str = "one-cycle"
    warmup: float = 0.15
    decay: float = 0.9
    decay_every: int = 5
    decay_from: int = 80
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    clip_value: float | None = None
    label_smoothing: float = 0.1
    dimension_weight: float = 0.5
    mse_weight: float = 1.0
    ccc_weight: float = 1.0
    consistency: float = 0.1
    orthogonality: float = 0.0
    sharing: str = "trunk"


RECIPES = {
    # The best that we know; the README says what it reaches.
    "default": Recipe(),
    # The drawn faces, in minutes on two processor cores.
    "demo": Recipe(epochs=5, batch_size=16, learning_rate=0.02),
    # The original project's hyper-parameters with its faults mended (see the README).
    "paper": Recipe(
        epochs=20,
        batch_size=16,
        learning_rate=0.01,
        schedule="staircase",
        nesterov=False,
        clip_value=0.1,
        label_smoothing=0.0,
        dimension_weight=1.0,
        ccc_weight=0.0,
        consistency=1.0,
        orthogonality=0.5,
        sharing="none",
    ),
}
