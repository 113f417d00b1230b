"""Memory of visualize.py over a folder of many pictures: its resident size after every 1,000.

    python benchmarks/visualize_memory.py [--quick]

10,000 drawn faces (--quick: 3,000) are written to a temporary folder as small PNGs and read by the released network
on the processor, with --face none --no-pictures --csv.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import asked_for_quick, describe_machine, print_table  # noqa: E402
from data.demo.demo import draw_faces  # noqa: E402

EVERY = 1000  # pictures from row to row of the table


def write_pictures(folder, count):
    """`count` different drawn faces as PNGs."""
    folder.mkdir()
    for start in range(0, count, EVERY):
        for number, face in enumerate(draw_faces(EVERY, start)[0], start):
            Image.fromarray(face).save(folder / f"{number:06}.png")


def measure(pictures, table):
    """Run visualize.py on a folder; [[pictures, resident MB, pictures/s since the row before]] as text."""
    flags = "--face none --no-pictures --device cpu --csv".split()
    command = [sys.executable, ROOT / "visualize.py", pictures, *flags, table]
    rows, started = [], time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        next(process.stdout)  # what the values mean; from here on a line a picture
        for count, _ in enumerate(process.stdout, 1):
            if count % EVERY == 0:
                now, resident = time.perf_counter(), psutil.Process(process.pid).memory_info().rss
                rows.append([f"{count:,}", f"{resident / 1e6:.0f}", f"{EVERY / (now - started):.0f}"])
                started = now
    if process.returncode:
        raise SystemExit(process.returncode)
    return rows


def main():
    quick = asked_for_quick(__doc__)
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        write_pictures(pictures, 3000 if quick else 10_000)
        print_table(["pictures", "resident MB", "pictures/s"], measure(pictures, Path(folder) / "faces.csv"))


if __name__ == "__main__":
    main()
