"""The networks in a folder of checkpoints, for whoever predicts with them."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from models import checkpoint
from models.original import is_original
from training.engine import predict
from utils.files import UserError, sha256_of
from utils.tasks import EMOTIONS, TASKS, TEST_SPLITS

RELEASED = Path(__file__).resolve().parent.parent / "FER2013_ResNet18RegressionTwoOutputs"
RELEASED_SHA256 = "de2050b409bde3a72ffae9ea39fe1ad14ded076b0d7e9a8ea1f54968a7e66c9a"
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


def released():
    """The folder of the released checkpoints; while a run that began there has none yet, where it moved them to."""
    names = [task.checkpoint(split) for task in TASKS.values() for split in TEST_SPLITS]
    earlier = sorted(RELEASED.parent.glob(f"previous/*/{RELEASED.name}"), reverse=True)
    return next(
        (folder for folder in (RELEASED, *earlier) if any((folder / name).exists() for name in names)), RELEASED
    )


def teacher():
    """The file of the released network itself, also where a run in the repository moved it to. Raises UserError."""
    name = TASKS["classify"].checkpoint("PublicTest")
    for folder in (RELEASED, *RELEASED.parent.glob(f"previous/*/{RELEASED.name}")):
        file = folder / name
        if file.exists() and sha256_of(file) == RELEASED_SHA256:
            return file
    raise UserError(
        f"The released network ({RELEASED.name}/{name}), from which this recipe learns, is not there: get it again, or "
        "train without it: --teacher 0."
    )


def taught_probabilities(images, runtime):
    """(N, 7) float32: what the released network makes of images (N, 48, 48) uint8, on their device.

    Raises UserError when it is not there.
    """
    networks = ready_to_predict(load_networks(teacher()), runtime)
    logits = predict_tasks(networks, images, runtime, "center", "what the teacher says")["classify"]
    return logits.softmax(dim=1).to(images.device)


def load_networks(path, splits=("PrivateTest", "PublicTest")):
    """The `Network`s for all tasks that the checkpoints at `path` (folder or file; None: the released ones) know.

    Each stands only once. For a task is taken the file that is best on the first of `splits`, then that of the
    second, then any other of these files whose network knows the task. Raises UserError when there is none, none
    classifies, or they do not go together.
    """
    path = released() if path is None else Path(path)
    files = {task: [path] for task in TASKS}
    if path.is_dir():
        files = {name: [path / task.checkpoint(split) for split in splits] for name, task in TASKS.items()}
    elif not path.exists():
        raise UserError(f"{path} does not exist: give the folder of the .t7 files with --checkpoints.")
    present = {name: [file for file in candidates if file.exists()] for name, candidates in files.items()}
    others = list(dict.fromkeys(file for candidates in present.values() for file in candidates))
    if not others:
        raise UserError(
            f"{path} has no checkpoint (such as {TASKS['classify'].checkpoint('PrivateTest')}): train first with "
            "python mainpro_FER.py, or give the folder of the .t7 files with --checkpoints."
        )
    networks = _networks(present, others)
    of_original = all(network.dataset == ORIGINAL for network in networks)
    if path.is_dir() and of_original:
        networks += _companions(path, networks, splits)
    if not any("classify" in network.tasks for network in networks):
        remedy = "--tasks of their run left it out. Train with --tasks classify"
        if of_original:
            remedy = "the original project keeps that network in a folder of its own, FER2013_Resnet18: put it beside"
        raise UserError(
            f"The checkpoints in {path} do not classify emotions; {remedy}, or give another folder with --checkpoints."
        )
    datasets = sorted({network.dataset for network in networks})
    if len(datasets) > 1:
        raise UserError(f"The checkpoints in {path} are of several datasets ({', '.join(datasets)}): use those of one.")
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
