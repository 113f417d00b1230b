"""MODELS: name -> constructor, called with the names of the tasks and the way they share a trunk."""

from functools import partial

from models.fersnet import FERSNet
from models.multitask import MultiTask

MODELS = {"ResNet18RegressionTwoOutputs": MultiTask, "FERSNet": FERSNet, "FERSNetHalf": partial(FERSNet, base=32)}
# Those that recognize and draw, and are trained on datasets with subjects; the first is the default there.
FOLD_MODELS = ("FERSNet", "FERSNetHalf")
