"""MODELS: name -> constructor, called with the names of the tasks and the way they share a trunk."""

from models.fersnet import FERSNet
from models.multitask import MultiTask

MODELS = {"ResNet18RegressionTwoOutputs": MultiTask, "FERSNet": FERSNet}
