"""Evaluation against a loop over images, and what is said when training cannot go on."""

import pytest
import torch

from data.batches import normalise, plan_epoch, ten_crop
from models.multitask import MultiTask
from training.device import setup_device
from training.engine import predict, train_one_epoch
from utils.files import UserError

PREPROCESSING = {"mean": 0.5, "std": 0.25}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = MultiTask(("classify", "regressV"), base=8)
    torch.nn.init.normal_(model.heads["regressV"].weight, std=5)
    model(torch.randn(32, 1, 44, 44))  # running statistics away from their start
    return model.eval()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (31, 48, 48), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("crops", ["center", "tencrop"])
def test_predictions_equal_a_loop_over_images(model, images, crops):
    runtime = setup_device("cpu", "fp32")
    found = predict(runtime.for_inference(model), images, PREPROCESSING, runtime, crops)
    for number, image in enumerate(images):
        views = ten_crop(image[None])[0] if crops == "tencrop" else image[None, 2:46, 2:46]
        with torch.no_grad():
            outputs = model(normalise(views[:, None], **PREPROCESSING))
        for name, output in outputs.items():
            assert torch.allclose(found[name][number], output.mean(0), atol=1e-4), (number, name)


def test_bf16_predicts_what_fp32_does_to_its_precision(model, images):
    found = []
    for precision in ("fp32", "bf16"):
        runtime = setup_device("cpu", precision)
        found.append(predict(runtime.for_inference(model), images, PREPROCESSING, runtime))
    fine, coarse = found
    for name, output in fine.items():
        assert 0 < (coarse[name] - output).abs().max() < 0.05 * output.abs().max()


class FakeLearner:
    """Learns nothing: its steps have the losses given, or raise the error given."""

    metrics, model, runtime = (), torch.nn.Linear(1, 1), setup_device("cpu", "fp32")

    def __init__(self, *losses, error=None):
        self.losses, self.error = losses, error

    def plan(self, epoch):
        return plan_epoch(2 * len(self.losses), 2, 0, epoch)

    def batches(self, plan, first):
        yield from self.losses

    def step(self, loss, number, steps):
        if self.error:
            raise self.error
        return torch.tensor(loss), torch.zeros(0, dtype=torch.float64)

    def to_dict(self, means):
        return {}


def test_the_first_step_whose_loss_is_not_finite_is_named():
    assert train_one_epoch(FakeLearner(1.0, 2.0), 4, None)[0] == {}
    with pytest.raises(UserError, match="epoch 4, step 2"):
        train_one_epoch(FakeLearner(1.0, 2.0, float("nan"), 1.0, float("inf")), 4, None)


@pytest.mark.parametrize(
    "message", ["CUDA out of memory. Tried", "Allocator: can't allocate memory"]
)
def test_running_out_of_memory_says_what_to_do(message, images):
    with pytest.raises(UserError, match="--bs 1"):
        train_one_epoch(FakeLearner(1.0, error=RuntimeError(message)), 0, None)

    def network(pixels):
        raise RuntimeError(message)

    with pytest.raises(UserError, match="evaluated"):
        predict(network, images, PREPROCESSING, setup_device("cpu", "fp32"))


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shape"):
        train_one_epoch(FakeLearner(1.0, error=RuntimeError("shape mismatch")), 0, None)
