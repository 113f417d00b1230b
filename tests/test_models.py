"""Networks: shapes, sizes, pooling, the regression head, a model of one's own."""

import pytest
import torch
from torch import nn

import mainpro_FER
from inference import refit
from inference.checkpoints import load_networks
from models import MODELS, checkpoint
from models.multitask import MultiTask, RegressionHead
from tests.conftest import run_program
from training.device import setup_device
from training.losses import dimension_loss
from utils.files import UserError
from utils.tasks import TASKS, Task


@pytest.mark.parametrize(("sharing", "trunks"), [("trunk", 1), ("none", 4)])
def test_outputs_and_size_of_the_network(sharing, trunks):
    model = MODELS["ResNet18RegressionTwoOutputs"](tuple(TASKS), sharing)
    outputs = model(torch.randn(2, 1, 44, 44))
    for name, task in TASKS.items():
        assert outputs[name].shape == (2, task.width) and outputs[name].dtype == torch.float32
    # 11,167,680 weights in the trunk (standard ResNet-18, 3x3 one-channel stem), 513 or 3,591 in
    # a head.
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == trunks * 11_167_680 + 3_591 + 3 * 513


def test_pooling_covers_the_whole_map():
    face = torch.randn(1, 1, 44, 44, requires_grad=True)
    MultiTask(("classify",), base=8).eval()(face)["classify"].sum().backward()
    gradient = face.grad[0, 0]
    assert gradient[:4, :4].abs().sum() > 0 and gradient[-4:, -4:].abs().sum() > 0


def test_own_trunks_are_trained_by_their_own_task_alone():
    model = MultiTask(("classify", "regressV"), "none", base=8)
    model(torch.randn(2, 1, 44, 44))["classify"].sum().backward()
    assert model.trunks["classify"].conv1.weight.grad is not None
    assert model.trunks["regressV"].conv1.weight.grad is None


def test_regression_head_stays_finite_where_a_plain_linear_head_diverges():
    def final_loss(head):
        torch.manual_seed(0)
        features, target = torch.rand(64, 512) * 2, torch.randn(64).clamp(-2, 2)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
        for _ in range(30):
            loss = dimension_loss(head(features), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss

    assert not final_loss(nn.Linear(512, 1)) < 1e6
    assert final_loss(RegressionHead(512, 1)) < 2.0


def test_regression_head_starts_at_zero_and_keeps_the_range():
    head = RegressionHead(512, 1)
    assert head(torch.rand(3, 512)).abs().max() == 0
    nn.init.constant_(head.weight, 1e3)
    assert head(torch.rand(3, 512)).abs().max() <= 2.0


class OwnNetwork(nn.Module):
    """Somebody's own model: what `MODELS` asks of a class, and no more."""

    SHARINGS = ("trunk",)
    HAS_FOLDS = False

    def __init__(self, tasks, sharing, dropout=0.0):
        super().__init__()
        self.tasks, self.sharing, self.dropout = tuple(tasks), sharing, nn.Dropout(dropout)
        layers = nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(484, TASKS[name].width) for name in tasks})

    def forward(self, images):
        features = self.dropout(self.trunk(images))
        return {name: head(features).float() for name, head in self.heads.items()}

    def part(self, task):
        return self.tasks, self.state_dict()


def test_a_model_of_ones_own_is_one_class_and_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "Own", OwnNetwork)
    flags = "--dataset", "Demo", "--model", "Own"
    with pytest.raises(UserError, match="--sharing none"):
        run_program(tmp_path, *flags, "--recipe", "paper")
    assert run_program(tmp_path, *flags, "--limit", 32, "--epochs", 1) == 0
    assert run_program(tmp_path, *flags, "--resume") == 0
    (network,) = load_networks(tmp_path / "Demo_Own")
    assert isinstance(network.model, OwnNetwork) and set(network.tasks) == set(TASKS)
    saved = tmp_path / "Demo_Own" / TASKS["classify"].checkpoint("PublicTest")
    assert checkpoint.load_model(saved)[1]["options"] == {"dropout": 0.0}
    with pytest.raises(UserError, match="share a trunk"):
        refit.refit(saved, mainpro_FER.DATASETS["Demo"](limit=9), setup_device("cpu", "fp32"))


def test_a_regression_without_a_dimension_is_no_task():
    """It would be taught the numbers of the classes."""
    with pytest.raises(ValueError, match="uncertainty"):
        Task("uncertainty", "regression", 1, None, "privateUncertainty")
