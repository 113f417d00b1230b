"""MODELS: name -> constructor, called with the names of the tasks and the way they share a trunk.

The class of a network has `SHARINGS`, its ways of sharing, and `HAS_FOLDS`, whether it is trained
by cross-validation over subjects; the first such is the default for datasets with subjects. It has
`tasks`, and `part`, what of it serves one of them; see `MultiTask`.
"""

from functools import partial
from inspect import signature

from models.fersnet import FERSNet
from models.multitask import MultiTask

MODELS = {
    "ResNet18RegressionTwoOutputs": MultiTask,
    "FERSNet": FERSNet,
    "FERSNetHalf": partial(FERSNet, base=32),
}


def free_options(name, options):
    """Those of the `options` that the model of that name takes and does not fix itself."""
    fixed = getattr(MODELS[name], "keywords", {})
    free = signature(network_class(name)).parameters.keys() - fixed.keys()
    return {key: value for key, value in options.items() if key in free}


def network_class(name):
    """The class of the network that `MODELS[name]` makes."""
    return getattr(MODELS[name], "func", MODELS[name])
