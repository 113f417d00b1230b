"""Read the original project's checkpoints: a 3-channel ResNet-18 whose head is called `linear`."""

from models.multitask import MultiTask
from utils.files import UserError
from utils.tasks import TASKS

# The original feeds pixels / 255 without further normalisation.
ORIGINAL_PREPROCESSING = {"mean": 0.0, "std": 1.0}


def is_original(state):
    """Whether a state dict has the original project's parameter names (also saved from DataParallel)."""
    keys = {key.removeprefix("module.") for key in state}
    return {"conv1.weight", "linear.weight", "layer4.1.conv2.weight"} <= keys


def convert_original(state, task):
    """Build the one-channel network that predicts what the 3-channel original does on a grey face.

    A grey face repeats one channel three times, so summing the stem over its input channels gives
    the same result. state: the original's `net`. task: "classify" for a head of 7 outputs, or
    "regressV", "regressA", "regressD" for a head of 1. Returns a `MultiTask` in evaluation mode.
    Raises UserError when the head's width is not the task's.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    width = state["linear.weight"].shape[0]
    if width != TASKS[task].width:
        raise UserError(f"The checkpoint has {width} outputs, but {task} needs {TASKS[task].width}.")
    renamed = {}
    for key, value in state.items():
        if key.startswith("linear."):
            renamed[f"heads.{task}.{key.removeprefix('linear.')}"] = value
        else:
            renamed[f"trunks.shared.{key}"] = value
    stem = "trunks.shared.conv1.weight"
    renamed[stem] = renamed[stem].sum(dim=1, keepdim=True)
    model = MultiTask((task,), original=True)
    model.load_state_dict(renamed)
    return model.eval()
