"""What the released FER2013 network reads in the faces that a FERSNet synthesizes, and in real
ones.

    python benchmarks/fersnet_judge.py CK+_FERSNetHalf/released.t7 [MORE.t7 ...] [--data CK+48]

That network has seen no face of the dataset and guided nothing that synthesizes, so it is not
easily flattered. (It is no stranger where it was the teacher of the pre-training, as of the
released one.) Faces are those of the people whom the FERSNet was not trained on, in the views of
`benchmarks.judge`. Contempt is left out, which it does not know. "from others": how often it reads
the expression in the unchanged faces that were to be given it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import add_faces_with_subjects, describe_machine, print_table
from benchmarks.judge import VIEWS, synthesize_others
from data import (
    DATASETS,
    FACE_SIZE,
)
from data.batches import normalise
from inference.checkpoints import teacher
from mainpro_FER import largest_face
from models import checkpoint
from training.device import setup_device
from training.engine import predict
from training.fersnet.engine import to_bytes
from training.fersnet.guides import PREPROCESSING
from utils.tasks import EMOTIONS


def reader(path, runtime):
    """A function from faces (N, S, S) uint8 and a view of `VIEWS` to the numbers (N,) of
    `EMOTIONS` read in them.

    The network sees all at 48x48, as it learnt.
    """
    network, content = checkpoint.load_model(path)
    network = runtime.for_inference(runtime.place(network))

    def read(images, view):
        pictures = view(normalise(images[:, None], **PREPROCESSING))
        images = to_bytes(F.interpolate(pictures, size=FACE_SIZE, mode="area"))
        found = predict(network, images, content["preprocessing"], runtime, "fourcrop")
        return found["classify"].argmax(dim=1)

    return read


def shares(read, faces, synthesized, wanted):
    """What is read in held-out `SubjectFaces` and in what `synthesize_others` made of them, in
    percent.

    {expression that `EMOTIONS` has: {view: (real faces read rightly, unchanged faces of another
    expression read as this one, the same faces synthesized with it read as it)}}; "all" is the
    mean of the expressions.
    """
    seen, found = {view: read(faces.images, look) for view, look in VIEWS.items()}, {}
    for number, name in enumerate(faces.class_names):
        if name not in EMOTIONS:
            continue
        mine, emotion = faces.labels == number, EMOTIONS.index(name)
        made = synthesized[wanted == number]
        found[name] = {}
        for view, look in VIEWS.items():
            kinds = seen[view][mine], seen[view][~mine], read(made, look)
            found[name][view] = tuple(
                100 * (emotions == emotion).float().mean().item() for emotions in kinds
            )
    means = {}
    for view in VIEWS:
        means[view] = np.mean([of_class[view] for of_class in found.values()], axis=0).tolist()
    return found | {"all": means}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="+", help=".t7 files of FERSNets")
    add_faces_with_subjects(parser)
    arguments = parser.parse_args()

    runtime = setup_device("cpu", "auto")
    print(describe_machine())
    faces = DATASETS[arguments.dataset](arguments.data, largest_face)
    read = reader(teacher(), runtime)
    for path in arguments.networks:
        network, content = checkpoint.load_model(path)
        held_out = [faces.subject_names.index(name) for name in content["held_out"]]
        tested = faces.select(torch.isin(faces.subjects, torch.tensor(held_out)))
        network = runtime.for_inference(runtime.place(network))
        print(f"\n{path}: {len(tested)} faces of {len(held_out)} people")
        found = shares(read, tested, *synthesize_others(network, tested, runtime))
        rows = []
        for name, of_class in found.items():
            percent = np.concatenate(list(of_class.values()))
            rows.append([name, *(f"{share:.1f}" for share in percent)])
        columns = [
            f"{column}{view and ', '}{view.lower()}"
            for view in VIEWS
            for column in ("real", "from others", "wanted")
        ]
        print_table(["percent read as", *columns], rows)


if __name__ == "__main__":
    main()
