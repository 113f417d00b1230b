"""Muon, parameter groups and averaged weights, against singular values, SGD and plain formulas."""

import pytest
import torch

from models.multitask import MultiTask
from training.config import RECIPES, Recipe
from training.muon import Muon, orthogonalise
from training.optim import WeightAverage, build_optimizer


def rounds_by_hand(strengths):
    """Four rounds of the iteration on singular values, which it treats one by one."""
    strengths = strengths / strengths.square().norm().sqrt()
    for _ in range(4):
        strengths = 3.4445 * strengths - 4.7750 * strengths**3 + 2.0315 * strengths**5
    return strengths


STRENGTHS = {
    "equal": torch.ones(256),
    "falling": 1 / torch.arange(1, 257),
    "half of them tiny": torch.cat((torch.ones(128), torch.full((128,), 1e-4))),
}


@pytest.mark.parametrize("strengths", STRENGTHS.values(), ids=STRENGTHS.keys())
@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-4), (torch.bfloat16, 0.12)])
def test_orthogonalising_is_four_rounds_on_each_singular_value(strengths, dtype, error):
    rank, generator = len(strengths), torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rank, rank, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(9 * rank, rank, generator=generator))[0]
    expected = left * rounds_by_hand(strengths) @ right.T
    matrix = left * strengths @ right.T
    wide, tall = orthogonalise(matrix[None], dtype)[0], orthogonalise(matrix.T[None], dtype)[0]
    for found in (wide, tall.T):
        assert (found - expected).norm() < error * expected.norm()


def test_matrices_that_are_orthogonalised_together_know_nothing_of_each_other():
    scales = torch.tensor([1, 1e3, 0])[:, None, None]
    generator = torch.Generator().manual_seed(2)
    matrices = torch.randn(3, 6, 20, generator=generator) * scales
    together = orthogonalise(matrices)
    for one, alone in zip(together, matrices, strict=True):
        assert torch.allclose(one, orthogonalise(alone[None])[0], atol=1e-6)
    assert not together[2].any()  # nothing stays nothing


@pytest.mark.parametrize("channels_last", [False, True])
def test_kernels_step_along_their_orthogonalised_momentum(channels_last):
    shapes = [(20, 2, 3, 3), (8, 4, 1, 1), (20, 2, 3, 3), (8, 4, 3, 3)]
    generator = torch.Generator().manual_seed(1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    kernels = [torch.nn.Parameter(start.clone(memory_format=layout)) for start in starts]
    group = {"params": kernels, "orthogonal": True, "weight_decay": 0.5}
    optimizer = Muon([group], torch.tensor(0.1), 0.9, torch.float32)
    expected = [start.flatten(1) for start in starts]
    momenta = [torch.zeros_like(value) for value in expected]
    for _ in range(3):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes]
        for kernel, gradient in zip(kernels, gradients, strict=True):
            kernel.grad = gradient.clone()
        optimizer.step()
        for number, gradient in enumerate(gradients):
            gradient = gradient.flatten(1)
            momenta[number] = 0.9 * momenta[number] + gradient
            step = orthogonalise((gradient + 0.9 * momenta[number])[None])[0]
            step = step * max(1, step.shape[0] / step.shape[1]) ** 0.5
            expected[number] = expected[number] * (1 - 0.1 * 0.5) - 0.1 * step
    for kernel, value in zip(kernels, expected, strict=True):
        assert torch.allclose(kernel.detach().flatten(1), value, atol=1e-4)


def test_the_other_parameters_step_as_with_sgd():
    start = torch.linspace(-1, 1, 12).view(3, 4)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    group = {"params": [ours], "weight_decay": 0.01}
    muon = Muon([group], torch.tensor(0.1), 0.9, torch.float32)
    sgd = torch.optim.SGD([theirs], 0.1, 0.9, weight_decay=0.01, nesterov=True)
    for number in range(4):
        for parameter, optimizer in ((ours, muon), (theirs, sgd)):
            parameter.grad = torch.cos(torch.arange(12.0) * (number + 1)).view(3, 4)
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(optimizer="sgd"), RECIPES["paper"]])
def test_every_parameter_is_in_one_group_and_is_decayed_as_the_recipe_says(recipe):
    model = MultiTask(base=8)
    optimizer = build_optimizer(model, recipe, torch.tensor(0.1))
    grouped = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(id(p) for p, _ in grouped) == sorted(id(p) for p in model.parameters())
    for parameter, group in grouped:
        is_kernel = parameter.ndim == 4 and parameter.shape[1] > 1
        orthogonal = group.get("orthogonal", False)
        assert orthogonal == (recipe.optimizer == "muon" and is_kernel)
        if not orthogonal:  # the original project decays everything
            decayed = parameter.ndim > 1 or recipe is RECIPES["paper"]
            assert group["weight_decay"] == (recipe.weight_decay if decayed else 0)


def test_the_average_follows_its_formula_and_takes_in_running_statistics():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    average, none = WeightAverage(model, 0.2), WeightAverage(model, 0.0)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(100):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape))
        model(torch.randn(8, 3))
        average.update(step)
        none.update(step)
        decay = (1 + step) / (6 + step)
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    found = average.model.state_dict()
    for name in ("0.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert torch.allclose(found[name], expected[name], atol=1e-5), name
    assert none.model is model
