"""The networks in checkpoints, for everything that predicts with them."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from models import checkpoint
from training.engine import predict
from utils.files import UserError
from utils.tasks import EMOTIONS, TASKS

RELEASED = Path(__file__).resolve().parent.parent / "FER2013_ResNet18RegressionTwoOutputs"
RELEASED_LABELS = "released.t7"  # learnt FER2013's labels
RELEASED_FILES = ("photographs.t7", RELEASED_LABELS)  # in the order in which they are taken
RELEASED_SYNTHESIZER = RELEASED.with_name("CK+_FERSNetHalf")
ORIGINAL = "the original project"  # whose files do not name their dataset
# Why the files of a run are taken that are best on a split.
REASONS = {
    "PrivateTest": "best on the private split, as in the original project, and optimistic there",
    "PublicTest": "best on the public split, so that the private split remains a test",
}


@dataclass
class Network:
    """A network, and the tasks for which it is used.

    temperature: logits are divided by it before they become probabilities. epoch: None where a file
    of the original project does not say.
    """

    model: torch.nn.Module
    tasks: list
    preprocessing: dict
    dataset: str
    file: Path
    epoch: int | None
    temperature: float = 1.0


def load_networks(path=None, splits=("PrivateTest", "PublicTest")):
    """[`Network`] for all tasks that checkpoints know.

    path: a folder, a file or a list of files; None: the folder of the released networks. Of a
    folder the checkpoints of a run are loaded where it has any: for each task the file that is best
    on the first of `splits`, then on the second, then any other that knows the task; else the
    first of `RELEASED_FILES`. Raises UserError when there is none, when none classifies, or when
    they are of several datasets.
    """
    path = RELEASED if path is None else path
    files = [Path(file) for file in path] if isinstance(path, (list, tuple)) else [Path(path)]
    for file in files:
        if not file.exists():
            raise UserError(f"{file} does not exist: name a .t7 file, or a folder of them.")
    if files[0].is_dir():
        files = find_checkpoints(files[0], splits)
    networks = []
    for task in TASKS:
        _add_task(networks, task, files)
    shown = ", ".join(map(str, files))
    if not any("classify" in network.tasks for network in networks):
        raise UserError(
            f"{shown}: no checkpoint that classifies emotions. Train with --tasks classify, or "
            "name other files; the original project keeps its classifier in FER2013_Resnet18."
        )
    datasets = sorted({network.dataset for network in networks})
    if len(datasets) > 1:
        raise UserError(f"{shown}: checkpoints of several datasets ({', '.join(datasets)}).")
    return networks


def find_checkpoints(folder, splits):
    """[file] of a run, those best on the first of `splits` first, or of a released network."""
    names = [task.checkpoint(split) for split in splits for task in TASKS.values()]
    files = [folder / name for name in names if (folder / name).exists()]
    released = [folder / name for name in RELEASED_FILES if (folder / name).exists()]
    if not files and not released:
        raise UserError(
            f"{folder} has no checkpoint (such as {names[0]}): train first with "
            "python mainpro_FER.py, or name another folder."
        )
    return files or released[:1]


def reason_of(file):
    """Why a file of a run is taken, from `REASONS`; "" for any other file."""
    return next((why for split, why in REASONS.items() if file.name.startswith(split)), "")


def describe_files(networks):
    """The files of [`Network`], and why they were chosen, in words."""
    files = list(dict.fromkeys(network.file for network in networks))
    names = ", ".join(file.name for file in files)
    reason = reason_of(files[0])
    return f"{names} in {files[0].parent.name}" + (f" ({reason})" if reason else "")


def _add_task(networks, task, files):
    """Use the first file for a task that predicts it; those that are named after it come first."""
    names = [TASKS[task].checkpoint(split) for split in REASONS]
    own = [file for file in files if file.name in names]
    for file in dict.fromkeys((*own, *files)):
        network = next((each for each in networks if each.file == file), None)
        if network is None or task not in network.model.tasks:
            network = _load(file, task if file in own else None)
        if network is not None and task in network.model.tasks:
            equal = [each for each in networks if _equal(each.model, network.model)]
            if not equal:
                networks.append(network)
            (equal or [network])[0].tasks.append(task)
            return


def _load(file, task):
    """The `Network` in a file, for no task yet. Raises UserError when it is unusable.

    A file of the original project predicts the `task` of its name; None where it cannot.
    """
    try:
        model, content = checkpoint.load_model(file, task)
    except checkpoint.OtherTask:
        return None
    names = content.get("class_names", list(EMOTIONS))
    if not isinstance(names, list) or names != list(EMOTIONS):
        raise UserError(
            f"{file} knows other emotions ({str(names)[:100]}) than those of FER2013: name a "
            "checkpoint that was trained on FER2013. (A FERSNet of other expressions serves "
            "python -m inference.synthesize.)"
        )
    if not all(values.isfinite().all() for values in model.state_dict().values()):
        raise UserError(f"{file} holds weights that are not finite: its training diverged.")
    return Network(
        model=model,
        tasks=[],
        preprocessing=content["preprocessing"],
        dataset=str(content.get("dataset", ORIGINAL)),
        file=file,
        epoch=content.get("epoch"),
        temperature=float(content.get("temperature", 1.0)),
    )


def _equal(model, other):
    """Whether two networks have the same weights."""
    state, known = model.state_dict(), other.state_dict()
    return known.keys() == state.keys() and all(known[key].equal(state[key]) for key in state)


def temperature_of(networks):
    """The temperature of the classifier among [`Network`]; 1 where there is none."""
    return next((each.temperature for each in networks if "classify" in each.tasks), 1.0)


def ready_to_predict(networks, runtime):
    """The same [`Network`] on the device of `runtime`, in the form that predicts fastest."""
    return [
        replace(network, model=runtime.for_inference(runtime.place(network.model)))
        for network in networks
    ]


def predict_tasks(networks, images, runtime, crops, label=None):
    """{task: (N, width) float32 on the CPU}, by networks that are `ready_to_predict`.

    The other arguments are those of `training.engine.predict`.
    """
    outputs = {}
    for network in networks:
        found = predict(network.model, images, network.preprocessing, runtime, crops, label)
        outputs |= {task: found[task].float().cpu() for task in network.tasks}
    return {name: outputs[name] for name in TASKS if name in outputs}


def teacher():
    """The released network that learnt FER2013's labels. Raises UserError when it is missing."""
    file = RELEASED / RELEASED_LABELS
    if not file.exists():
        raise UserError(
            f"{file}, the released network from which this recipe learns, does not exist: get it "
            "again, or train without it: --teacher 0."
        )
    return file


def teacher_probs(images, runtime):
    """(N, 7) float32: the released network's probabilities of images (N, 48, 48) uint8.

    They are on the device of the images. Raises UserError when the network does not exist.
    """
    networks = ready_to_predict(load_networks(teacher()), runtime)
    logits = predict_tasks(networks, images, runtime, "center", "teacher")["classify"]
    return logits.softmax(dim=1).to(images.device)
