"""Muon, parameter groups and averaged weights, against singular values, `torch.optim.SGD` and plain formulas."""

import pytest
import torch

from models.multitask import MultiTask
from training.config import RECIPES, Recipe
from training.muon import Muon, orthogonalise
from training.optim import WeightAverage, build_optimizer


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_orthogonalising_keeps_the_directions_and_evens_out_their_strengths(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, strengths, right = torch.linalg.svd(matrix, full_matrices=False)
    assert strengths.max() / strengths.min() > 1.5
    inside = left.T @ orthogonalise(matrix[None])[0] @ right.T
    assert (inside - inside.diag().diag()).abs().max() < 0.02
    assert 0.65 < inside.diag().min() and inside.diag().max() < 1.25


def rounds_by_hand(strengths):
    """Four rounds of the iteration on singular values, which it treats one by one."""
    strengths = strengths / strengths.square().norm().sqrt()
    for _ in range(4):
        strengths = 3.4445 * strengths - 4.7750 * strengths**3 + 2.0315 * strengths**5
    return strengths


@pytest.mark.parametrize("strengths", ["equal", "falling", "half of them tiny"])
@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-4), (torch.bfloat16, 0.12)])
def test_orthogonalising_is_four_rounds_on_each_singular_value(strengths, dtype, error):
    rank = 256
    values = {
        "equal": torch.ones(rank),
        "falling": 1 / torch.arange(1, rank + 1),
        "half of them tiny": torch.cat((torch.ones(rank // 2), torch.full((rank // 2,), 1e-4))),
    }[strengths]
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rank, rank, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(9 * rank, rank, generator=generator))[0]
    expected = left * rounds_by_hand(values) @ right.T
    found = orthogonalise((left * values @ right.T)[None], dtype)[0]
    assert (found - expected).norm() < error * expected.norm()


def test_nothing_to_orthogonalise_stays_nothing():
    assert not orthogonalise(torch.zeros(2, 4, 9)).any()


def test_matrices_that_are_orthogonalised_together_know_nothing_of_each_other():
    matrices = (
        torch.randn(3, 6, 20, generator=torch.Generator().manual_seed(2)) * torch.tensor([1, 1e3, 0])[:, None, None]
    )
    together = orthogonalise(matrices)
    for one, alone in zip(together, matrices, strict=True):
        assert torch.allclose(one, orthogonalise(alone[None])[0], atol=1e-6)


def test_kernels_of_all_shapes_step_as_if_they_were_alone():
    shapes = [(4, 2, 3, 3), (8, 4, 1, 1), (4, 2, 3, 3), (8, 4, 3, 3)]
    generator = torch.Generator().manual_seed(3)
    kernels = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    alone = [torch.nn.Parameter(kernel.detach().clone()) for kernel in kernels]
    group = {"orthogonal": True, "weight_decay": 0.1}
    optimizer = Muon([{"params": kernels, **group}], 0.1, 0.9, torch.float32)
    others = [Muon([{"params": [kernel], **group}], 0.1, 0.9, torch.float32) for kernel in alone]
    for _ in range(2):
        for kernel, other in zip(kernels, alone, strict=True):
            kernel.grad = torch.randn(kernel.shape, generator=generator)
            other.grad = kernel.grad.clone()
        for each in (optimizer, *others):
            each.step()
    assert all(torch.allclose(kernel, other, atol=1e-6) for kernel, other in zip(kernels, alone, strict=True))


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_kernel_steps_along_its_orthogonalised_momentum(channels_last):
    generator = torch.Generator().manual_seed(1)
    kernel = torch.nn.Parameter(torch.randn(20, 2, 3, 3, generator=generator))
    if channels_last:
        kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    optimizer = Muon([{"params": [kernel], "orthogonal": True, "weight_decay": 0.5}], 0.1, 0.9, torch.float32)
    expected, momentum = kernel.detach().clone(), torch.zeros(20, 18)
    for _ in range(3):
        gradient = torch.randn(20, 2, 3, 3, generator=generator)
        kernel.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + gradient.reshape(20, 18)
        step = orthogonalise((gradient.reshape(20, 18) + 0.9 * momentum)[None])[0] * (20 / 18) ** 0.5
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * step.reshape(20, 2, 3, 3)
    assert torch.allclose(kernel.detach(), expected, atol=1e-4)


def test_the_other_parameters_step_as_with_sgd():
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4)) for _ in range(2))
    muon = Muon([{"params": [ours], "weight_decay": 0.01}], 0.1, 0.9, torch.float32)
    sgd = torch.optim.SGD([theirs], 0.1, 0.9, weight_decay=0.01, nesterov=True)
    for number in range(4):
        for parameter, optimizer in ((ours, muon), (theirs, sgd)):
            parameter.grad = torch.cos(torch.arange(12.0) * (number + 1)).view(3, 4)
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("recipe", [Recipe(optimizer="muon"), Recipe(optimizer="sgd"), RECIPES["paper"]])
def test_every_parameter_is_in_one_group_and_is_decayed_as_the_recipe_says(recipe):
    model = MultiTask(base=8)
    optimizer = build_optimizer(model, recipe, torch.tensor(0.1))
    grouped = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(id(p) for p, _ in grouped) == sorted(id(p) for p in model.parameters())
    for parameter, group in grouped:
        orthogonal = group.get("orthogonal", False)
        assert orthogonal == (recipe.optimizer == "muon" and parameter.ndim == 4 and parameter.shape[1] > 1)
        if not orthogonal:
            decayed = parameter.ndim > 1 or recipe is RECIPES["paper"]  # the original project decays everything
            assert group["weight_decay"] == (recipe.weight_decay if decayed else 0)


def test_the_state_of_muon_is_restored():
    def learn(steps, state=None):
        torch.manual_seed(0)
        model = torch.nn.Conv2d(2, 4, 3)
        optimizer = Muon([{"params": [model.weight], "orthogonal": True}], 0.1, 0.9, torch.float32)
        if state:
            model.load_state_dict(state[0])
            optimizer.load_state_dict(state[1])
        for number in steps:
            model.weight.grad = torch.sin(torch.arange(72.0) * (number + 1)).view_as(model.weight)
            optimizer.step()
        return {k: v.clone() for k, v in model.state_dict().items()}, optimizer.state_dict()

    whole, _ = learn(range(4))
    resumed, _ = learn(range(2, 4), learn(range(2)))
    assert torch.equal(whole["weight"], resumed["weight"])


def test_the_average_follows_its_formula_and_takes_in_running_statistics():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    average = WeightAverage(model, 0.2)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(100):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape))
        model(torch.randn(8, 3))
        average.update(step)
        decay = (1 + step) / (6 + step)
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    found = average.model.state_dict()
    for name in ("0.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert torch.allclose(found[name], expected[name], atol=1e-5), name


def test_no_averaging_is_the_network_itself():
    model = torch.nn.Linear(3, 3)
    average = WeightAverage(model, 0.0)
    with torch.no_grad():
        model.weight.mul_(3)
    average.update(50)
    assert torch.equal(average.model.weight, model.weight)
