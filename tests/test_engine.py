"""Evaluation against a loop over images, and what is said when training cannot go on."""

import pytest
import torch

from data.batches import normalise, plan_epoch, ten_crop
from models.multitask import MultiTask
from training.device import setup_device
from training.engine import FiniteCheck, memory_advice, predict, train_one_epoch
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
    return torch.randint(0, 256, (31, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


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
    runtimes = [setup_device("cpu", kind) for kind in ("fp32", "bf16")]
    fine, coarse = (predict(one.for_inference(model), images, PREPROCESSING, one) for one in runtimes)
    for name, output in fine.items():
        assert 0 < (coarse[name] - output).abs().max() < 0.05 * output.abs().max()


def test_the_first_step_that_is_not_finite_is_named():
    check = FiniteCheck(torch.device("cpu"))
    for step, loss in enumerate([1.0, 2.0, float("nan"), 1.0, float("inf")]):
        check.watch(torch.tensor(loss), step)
    with pytest.raises(UserError, match="epoch 4, step 2"):
        check.verify(4)


def test_finite_losses_pass():
    check = FiniteCheck(torch.device("cpu"))
    check.watch(torch.tensor(1.0), 0)
    check.verify(0)


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory"])
def test_running_out_of_memory_says_which_batch_size_to_try(message):
    class Learner:
        metrics, model, runtime = (), torch.nn.Linear(1, 1), setup_device("cpu", "fp32", "off")

        def batches(self, faces, plan, first):
            raise RuntimeError(message)

    with pytest.raises(UserError, match="a batch of 128 faces: try --bs 64"):
        train_one_epoch(Learner(), None, plan_epoch(256, 128, 0, 0), 0, None)


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shape"), memory_advice("here"):
        raise RuntimeError("shape mismatch")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_asking_for_a_gpu_that_is_not_there():
    with pytest.raises(UserError, match="--device cpu"):
        setup_device("cuda")


def test_the_runtime_says_why():
    assert any("no CUDA" in reason or "CUDA device" in reason for reason in setup_device().reasons)
