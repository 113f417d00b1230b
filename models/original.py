"""Read the original project's checkpoints: a 3-channel ResNet-18 whose head is called `linear`."""

from models.multitask import MultiTask

# The original feeds pixels / 255 without further normalisation.
ORIGINAL_PREPROCESSING = {"mean": 0.0, "std": 1.0}


def unwrapped(state):
    """A state dict with the names that it has when it is not saved from DataParallel."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def is_original(state):
    """Whether a state dict has the original project's names, also saved from DataParallel."""
    return {"conv1.weight", "linear.weight", "layer4.1.conv2.weight"} <= unwrapped(state).keys()


def convert_original(state, task):
    """Build the one-channel network that predicts what the 3-channel original does on a grey face.

    A grey face repeats one channel three times, so summing the stem over its input channels gives
    the same result. state: the original's `net`. task: "classify" for a head of 7 outputs, or
    "regressV", "regressA", "regressD" for a head of 1. Returns a `MultiTask` in evaluation mode.
    Raises RuntimeError when the head's width is not the task's.
    """
    renamed = {}
    for key, value in unwrapped(state).items():
        if key.startswith("linear."):
            renamed[f"heads.{task}.{key.removeprefix('linear.')}"] = value
        else:
            renamed[f"trunks.shared.{key}"] = value
    stem = "trunks.shared.conv1.weight"
    renamed[stem] = renamed[stem].sum(dim=1, keepdim=True)
    model = MultiTask((task,), original=True)
    model.load_state_dict(renamed)
    return model.eval()
