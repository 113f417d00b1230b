"""MODELS: name -> constructor, called with the names of the tasks and the way they share a trunk.

The class of a network says what ways of sharing it has (`SHARINGS`) and whether it is trained on faces of known
people, over folds (`HAS_FOLDS`). The first that is serves such datasets where no model is asked for. It has `tasks`,
and `part`, which says what of it serves one of them; see `MultiTask`. Of a recipe's options it gets those that it has.
"""

from functools import partial
from inspect import signature

from models.fersnet import FERSNet
from models.multitask import MultiTask

MODELS = {"ResNet18RegressionTwoOutputs": MultiTask, "FERSNet": FERSNet, "FERSNetHalf": partial(FERSNet, base=32)}


def free_options(name, options):
    """Those of the `options` that the model of that name has and does not fix itself, as its width perhaps."""
    free = signature(network_class(name)).parameters.keys() - getattr(MODELS[name], "keywords", {}).keys()
    return {key: value for key, value in options.items() if key in free}


def network_class(name):
    """The class of the network that `MODELS[name]` makes."""
    return getattr(MODELS[name], "func", MODELS[name])
