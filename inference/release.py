"""Make a checkpoint small enough to give away: half-precision weights, nothing else changed.

python -m inference.release RUN/PublicTest_model_classify.t7 new/released.t7
"""

import argparse
import sys

from models import checkpoint
from utils.files import UserError, exit_code, path_argument, sha256_of


def release(source, target):
    """Write the checkpoint `source` in half precision to the file `target`.

    Raises UserError when the source is no checkpoint, or the target is there already.
    """
    _, content = checkpoint.load_model(source)  # makes sure that it can be used
    if target.exists():
        raise UserError(f"{target} is there already: move it away first.")
    halved = {
        name: value.half() if value.is_floating_point() else value
        for name, value in content["net"].items()
    }
    checkpoint.save(target, {**content, "net": halved})


def main(arguments):
    """The command line; returns the exit code."""
    target = arguments.target
    release(arguments.checkpoint, target)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256_of(target)}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m inference.release", description="Write a checkpoint in half precision."
    )
    parser.add_argument("checkpoint", type=path_argument, help="a .t7 file of a run")
    parser.add_argument("target", type=path_argument, help="the file to write")
    sys.exit(exit_code(lambda: main(parser.parse_args())))
