"""One network for several tasks: a shared trunk with a head per task, or a trunk per task."""

import torch
import torch.nn.functional as F
from torch import nn

from models.resnet import ResNet18
from utils.tasks import TASKS, VAD_LIMIT


class RegressionHead(nn.Linear):
    """Features (B, F) to values (B, width) within (-VAD_LIMIT, VAD_LIMIT).

    A squared error on raw pooled features diverges at the learning rates that suit the classifier:
    one step changes the output by (learning rate) x |features|^2, and |features|^2 is in the
    hundreds. Dividing the features by sqrt(F) brings that product to the order of the learning
    rate, and the tanh bounds what an outlier can do. Starting from zero, the first prediction is
    the middle of the range.
    """

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, features):
        raw = super().forward(features * self.in_features**-0.5)
        return VAD_LIMIT * torch.tanh(raw / VAD_LIMIT)


HEADS = {"classification": nn.Linear, "regression": RegressionHead}


class MultiTask(nn.Module):
    """Faces (B, 1, H, W) to {task name: logits (B, 7) or values (B, 1)}, float32.

    tasks: names from `TASKS`. sharing: "trunk" (one ResNet-18 for all) or "none" (one each). base,
    pooled: of the trunk, see `ResNet18`. dropout: of the features that the classifier sees.
    original: for checkpoints of the original project, see `models.original`: linear heads; its
    classifier averages a corner of the last map, its V/A/D networks the whole.
    Raises ValueError for another sharing.
    """

    SHARINGS = ("trunk", "none")
    HAS_FOLDS = False

    def __init__(
        self, tasks=tuple(TASKS), sharing="trunk", base=64, pooled=False, dropout=0.0,
        original=False,
    ):  # fmt: skip
        super().__init__()
        if sharing not in self.SHARINGS:
            raise ValueError(f"sharing must be one of {self.SHARINGS}, not {sharing!r}")
        self.tasks, self.sharing, self.dropout = tuple(tasks), sharing, dropout
        owners = ("shared",) if sharing == "trunk" else self.tasks
        corner = original and all(TASKS[name].kind == "classification" for name in self.tasks)
        self.trunks = nn.ModuleDict({owner: ResNet18(base, pooled, corner) for owner in owners})
        self.heads = nn.ModuleDict()
        for name in self.tasks:
            head = nn.Linear if original else HEADS[TASKS[name].kind]
            self.heads[name] = head(8 * base, TASKS[name].width)

    def forward(self, images):
        features = {owner: trunk(images) for owner, trunk in self.trunks.items()}
        # Heads are small and run in float32: losses subtract nearly equal numbers.
        outputs = {}
        with torch.autocast(images.device.type, enabled=False):
            for name, head in self.heads.items():
                seen = features["shared" if self.sharing == "trunk" else name]
                if TASKS[name].kind == "classification":
                    seen = F.dropout(seen, self.dropout, self.training)
                outputs[name] = head(seen)
        return outputs

    def part(self, task):
        """What serves `task` (a name), as (tasks, state dict) that rebuild it.

        With a shared trunk that is the whole network; with a trunk per task its trunk and head.
        """
        state = self.state_dict()
        if self.sharing == "trunk":
            return self.tasks, state
        own = (f"trunks.{task}.", f"heads.{task}.")
        return (task,), {key: value for key, value in state.items() if key.startswith(own)}
