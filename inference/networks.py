"""The networks in a folder of checkpoints, for whoever predicts with them."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from models import checkpoint
from models.original import is_original
from training.engine import predict
from utils.files import UserError
from utils.tasks import EMOTIONS, TASKS

RELEASED = Path(__file__).resolve().parent.parent / "FER2013_ResNet18RegressionTwoOutputs"
RELEASED_LABELS = "released.t7"  # learnt FER2013's labels
RELEASED_FILES = ("photographs.t7", RELEASED_LABELS)  # in the order in which they are taken
ORIGINAL = "the original project"  # what its files do not say of themselves
RELEASED_SYNTHESIZER = RELEASED.with_name("CK+_FERSNetHalf")


@dataclass
class Network:
    """A network, the tasks that are asked of it, the preprocessing and the dataset that it was trained with.

    file, epoch: where it comes from; of a file of the original project the epoch may be unknown (None).
    temperature: by which logits are divided before they become probabilities.
    """

    model: torch.nn.Module
    tasks: list
    preprocessing: dict
    dataset: str
    file: Path
    epoch: int | None
    temperature: float = 1.0


def find_checkpoints(folder, splits):
    """{task: its files in `folder`}: those of a run, else a released network.

    A run's file that is best on the first of `splits` comes first.
    """
    names = {name: [task.checkpoint(split) for split in splits] for name, task in TASKS.items()}
    present = {path.name for path in folder.iterdir()}
    found = {
        name: [folder / file for file in files if file in present] for name, files in names.items()
    }
    if any(found.values()):
        return found
    released = [folder / name for name in RELEASED_FILES if name in present]
    return dict.fromkeys(TASKS, released[:1])


def teacher():
    """The released network that learnt FER2013's labels. Raises UserError when it is not there."""
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


def load_networks(path=None, splits=("PrivateTest", "PublicTest")):
    """The `Network`s for all tasks that the checkpoints at `path` know.

    path: a folder or a file; None for the folder of the released networks.
    Of a folder, a run's checkpoints are loaded where it has any, else a released network
    (`RELEASED_FILES`): for each task the file that is best on the first of `splits`, then on the
    second, then any other of these files whose network has the task. Raises UserError when there
    is none, none classifies, or they are of several datasets.
    """
    folder = RELEASED if path is None else Path(path)
    if not folder.exists():
        raise UserError(f"{folder} does not exist: give the folder of the .t7 files with --checkpoints.")
    present = find_checkpoints(folder, splits) if folder.is_dir() else dict.fromkeys(TASKS, [folder])
    others = list(dict.fromkeys(file for candidates in present.values() for file in candidates))
    if not others:
        raise UserError(
            f"{folder} has no checkpoint (such as {TASKS['classify'].checkpoint('PrivateTest')}): train first with "
            "python mainpro_FER.py, or give the folder of the .t7 files with --checkpoints."
        )
    networks = _networks(present, others)
    of_original = all(network.dataset == ORIGINAL for network in networks)
    if folder.is_dir() and of_original:
        networks += _companions(folder, networks, splits)
    if not any("classify" in network.tasks for network in networks):
        remedy = "--tasks of their run left it out. Train with --tasks classify"
        if of_original:
            remedy = "the original project keeps that network in a folder of its own, FER2013_Resnet18: put it beside"
        raise UserError(
            f"The checkpoints in {folder} do not classify emotions; {remedy}, or give another folder "
            "with --checkpoints."
        )
    datasets = sorted({network.dataset for network in networks})
    if len(datasets) > 1:
        raise UserError(
            f"The checkpoints in {folder} are of several datasets ({', '.join(datasets)}): use those of one."
        )
    return networks


def _networks(present, others):
    """The `Network`s of {task: its files} and of other files whose network may know a task, too."""
    networks, loaded = [], {}
    for task in TASKS:
        for file in dict.fromkeys((*present.get(task, ()), *others)):
            network = loaded.get(file) or _load(file, task if file in present.get(task, ()) else None, loaded)
            if network is not None and task in network.model.tasks:
                _add(networks, network, task)
                break
    return networks


def _companions(path, networks, splits):
    """The `Network`s of tasks that the original project keeps in another folder beside `path`: its classifier."""
    known = {task for network in networks for task in network.tasks}
    found = {}
    for name in (name for name in TASKS if name not in known):
        folders = (folder for folder in sorted(path.resolve().parent.glob("FER2013_*")) if folder != path.resolve())
        files = [folder / TASKS[name].checkpoint(split) for folder in folders for split in splits]
        found[name] = [file for file in files if file.exists() and is_original(checkpoint.load_network(file)["net"])]
    companions = _networks(found, ())
    for network in companions:
        print(f"{', '.join(network.tasks)}: by {network.file}")
    return companions


def describe_files(networks):
    """Where several `Network`s were loaded from, in words."""
    files = dict.fromkeys(network.file for network in networks)
    return f"{', '.join(file.name for file in files)} in {networks[0].file.parent.name}"


def temperature_of(networks):
    """The temperature of the one of several `Network`s that classifies; 1 where none does."""
    return next((network.temperature for network in networks if "classify" in network.tasks), 1.0)


def ready_to_predict(networks, runtime):
    """The same `Network`s on the device of `runtime`, in the form that predicts fastest."""
    return [replace(network, model=runtime.for_inference(runtime.place(network.model))) for network in networks]


def predict_tasks(networks, images, runtime, crops, label=None):
    """{task: (N, width) float32 on the CPU} of networks that are `ready_to_predict`; the rest as in `predict`."""
    outputs = {}
    for network in networks:
        found = predict(network.model, images, network.preprocessing, runtime, crops, label)
        outputs |= {task: found[task].float().cpu() for task in network.tasks}
    return {name: outputs[name] for name in TASKS if name in outputs}


def _load(file, task, loaded):
    """The `Network` in a file; None when it is one of the original project that predicts another task.

    loaded: {file: `Network`}, to which it is added if it predicts the same whatever `task` it is asked for.
    """
    try:
        model, content = checkpoint.load_model(file, task)
    except checkpoint.OtherTask:
        return None
    names = content.get("class_names", list(EMOTIONS))
    if not isinstance(names, list) or names != list(EMOTIONS):
        raise UserError(
            f"{file} knows other emotions ({str(names)[:100]}) than those of FER2013: give checkpoints that were "
            "trained on FER2013. (A FERSNet of other expressions serves visualize.py --synthesize.)"
        )
    if not all(torch.isfinite(values).all() for values in model.state_dict().values()):
        raise UserError(
            f"{file} holds weights that are not finite numbers: its training diverged. Give those of another run."
        )
    dataset, epoch = str(content.get("dataset", ORIGINAL)), content.get("epoch")
    temperature = float(content.get("temperature", 1.0))
    network = Network(model, [], content["preprocessing"], dataset, file, epoch, temperature)
    if not is_original(content["net"]):  # such a file does not say what it predicts
        loaded[file] = network
    return network


def _add(networks, new, task):
    """Ask `task` of the network `new`, or of its equal among `networks`."""
    state = new.model.state_dict()
    for network in networks:
        known = network.model.state_dict()
        if network is new or known.keys() == state.keys() and all(torch.equal(known[key], state[key]) for key in state):
            network.tasks.append(task)
            return
    new.tasks.append(task)
    networks.append(new)
