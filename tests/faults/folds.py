"""A short cross-validation in a process of its own: two folds of narrow networks on drawn faces."""

FOLDS_RUN = "CK+_FERSNet"
FOLDS_PROGRAM = """
import sys
import mainpro_FER
from tests.test_cross_validation import shrink
shrink(folds=2)
sys.exit(mainpro_FER.command_line())
"""


def folds_flags(tree):
    """Flags of `FOLDS_PROGRAM`. tree: a folder like CK+."""
    flags = "--dataset CK+ --epochs 3 --bs 8 --synthetic 4 --device cpu --precision fp32"
    return (*flags.split(), "--data", tree)
