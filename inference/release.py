"""Write a checkpoint in half precision, to give away.

python -m inference.release RUN/PublicTest_model_classify.t7 --out new/released.t7
"""

import argparse
import sys

from models import checkpoint
from utils.files import exit_code, new_file_argument, path_argument, sha256_of


def main(arguments):
    """Write the checkpoint. Returns the exit code."""
    _, content = checkpoint.load_model(arguments.checkpoint)  # raises when it cannot be used
    net = {
        name: value.half() if value.is_floating_point() else value
        for name, value in content["net"].items()
    }
    checkpoint.save(arguments.out, content | {"net": net})
    megabytes = arguments.out.stat().st_size / 1e6
    print(f"Written: {arguments.out}, {megabytes:.1f} MB, SHA-256 {sha256_of(arguments.out)}")
    return 0


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.release", description="Write a checkpoint in half precision."
    )
    parser.add_argument("checkpoint", type=path_argument, help="a .t7 file of a run")
    parser.add_argument("--out", type=new_file_argument, required=True, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
