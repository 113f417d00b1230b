"""Losses against brute force, closed forms and finite differences."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.multitask import MultiTask
from training.config import Recipe
from training.losses import (
    Objective,
    category_loss,
    constraint_table,
    contradiction_loss,
    dimension_loss,
    orthogonality,
    orthogonality_loss,
)

LABELS = torch.tensor([0, 1, 2, 3, 4, 6])
VAD = torch.linspace(-2, 2, 18, dtype=torch.float64).view(6, 3)


@pytest.fixture
def batch():
    """Logits (6, 7), values (6, 3) and a penalty (7, 3, 3)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 7, dtype=torch.float64, generator=generator)
    values = 2 * torch.rand(6, 3, dtype=torch.float64, generator=generator) - 1
    penalty = torch.rand(7, 3, 3, dtype=torch.float64, generator=generator)
    return logits, values, penalty


# ---------------------------------------------------------------- consistency


def plain_memberships(value):
    negative = 1 / (1 + np.exp((0.5 + value) / 0.25))
    positive = 1 / (1 + np.exp((0.5 - value) / 0.25))
    return negative, 1 - negative - positive, positive


def test_contradictions_equal_a_sum_in_plain_python(batch):
    logits, values, penalty = (part.numpy() for part in batch)
    total = 0.0
    for b in range(len(logits)):
        p = np.exp(logits[b]) / np.exp(logits[b]).sum()
        for c, k in itertools.product(range(7), range(3)):
            memberships = plain_memberships(values[b, k])
            total += sum(p[c] * q * penalty[c, k, s] for s, q in enumerate(memberships))
    assert contradiction_loss(*batch).item() == pytest.approx(total / len(logits), rel=1e-12)


def test_contradictions_have_right_gradients_into_logits_and_values(batch):
    logits, values, table = batch
    logits.requires_grad_(), values.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: contradiction_loss(a, b, table), (logits, values))
    contradiction_loss(logits, values, table).backward()
    assert (logits.grad.abs().sum(1) > 0).all() and (values.grad.abs() > 0).all()


def test_the_original_table_is_that_of_the_annotators():
    # Their workbook, a condition a cell: an emotion of FER2013 and what its value must not be.
    never = lambda value: False  # noqa: E731
    not_negative, not_positive = (lambda v: v > 0 or v == 0), (lambda v: v == 0 or v < 0)
    negative, not_zero = (lambda v: v < 0), (lambda v: v > 0 or v < 0)
    workbook = (
        (*[not_negative] * 3, not_positive, not_negative, never, not_zero),
        (negative, negative, never, not_positive, not_negative, not_positive, not_zero),
        (never, not_positive, not_negative, negative, not_negative, not_negative, never),
    )
    table = constraint_table("original", LABELS, VAD)
    for k, conditions in enumerate(workbook):
        for c, contradicts in enumerate(conditions):
            assert table[c, k].tolist() == [float(contradicts(sign)) for sign in (-1, 0, 1)]


def test_the_other_table_is_of_shares_that_equal_counting():
    rng = np.random.default_rng(0)
    labels, vad = rng.integers(0, 6, 400), rng.integers(-2, 3, (400, 3)).astype("f4")
    table = constraint_table("table", torch.from_numpy(labels), torch.from_numpy(vad)).numpy()
    for c, k, s in itertools.product(range(7), range(3), range(3)):
        of_class = vad[labels == c, k]  # class 6 never occurs
        hits = (np.sign(of_class) == s - 1).sum()
        assert 1 - table[c, k, s] == pytest.approx((hits + 1) / (len(of_class) + 3))
    assert constraint_table("table", LABELS, None) is None


# ---------------------------------------------------------------- orthogonality


def explicit_matrix(kernel, stride, size):
    """The convolution without padding as a matrix: a row per output channel and position.

    Only positions whose window lies inside: the Toeplitz form of the paper, in its interior.
    """
    channels = kernel.shape[1]
    images = torch.eye(channels * size * size, dtype=kernel.dtype).view(-1, channels, size, size)
    out = F.conv2d(images, kernel, stride=stride)
    return out.flatten(1).T, out.shape[-1]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [3, 1])
def test_orthogonality_equals_the_toeplitz_form(stride, width):
    generator = torch.Generator().manual_seed(1)
    kernel = torch.randn(4, 2, width, width, dtype=torch.float64, generator=generator)
    # Wide enough that around the middle position all overlapping positions exist.
    matrix, outputs = explicit_matrix(kernel, stride, size=13)
    middle = outputs // 2 * outputs + outputs // 2
    rows = (matrix @ matrix.T).view(4, outputs * outputs, -1)[:, middle]
    identity = torch.zeros_like(rows)
    identity.view(4, 4, outputs * outputs)[:, :, middle] = torch.eye(4, dtype=torch.float64)
    expected = (rows - identity).norm().item()
    assert orthogonality(kernel, stride).item() == pytest.approx(expected, rel=1e-10)


def test_eleven_kernels_of_a_network_are_made_orthogonal():
    network = MultiTask(("classify",), base=4).double()
    trunk, kernels, expected = network.trunks["shared"], [], 0
    for number, layer in enumerate((trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)):
        kernels += [layer[0].conv1.weight, layer[1].conv1.weight]
        expected += orthogonality(kernels[-2], 2 if number else 1) + orthogonality(kernels[-1], 1)
        if number:  # twice as many rows as columns
            kernels.append(layer[0].shortcut[0].weight)
            strengths = torch.linalg.svdvals(kernels[-1].flatten(1))
            expected += (strengths**2 - 1).norm()
    loss = orthogonality_loss(network, torch.float64)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    with_gradient = {id(p) for p in network.parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient == {id(kernel) for kernel in kernels} and len(kernels) == 11


def test_an_orthonormal_kernel_has_no_penalty_and_a_finite_gradient():
    exact = torch.eye(4)[:, :, None, None].requires_grad_()
    loss = orthogonality(exact, 1)
    loss.backward()
    assert loss == 0 and exact.grad.isfinite().all()


# ---------------------------------------------------------------- tasks and their sum


def test_a_loss_never_broadcasts():
    for values, target in (((4,), (4,)), ((4, 1), (4, 1)), ((4, 1), (3,)), ((4, 2), (4,))):
        with pytest.raises(ValueError, match="must be"):
            dimension_loss(torch.zeros(values), torch.zeros(target))
    with pytest.raises(RuntimeError):
        category_loss(torch.zeros(4, 7), torch.zeros(4, 1, dtype=torch.long))


def test_dimension_loss_equals_its_formula():
    values, target = torch.tensor([[0.5], [-1.0], [1.5]]), torch.tensor([1.0, -1.0, 0.0])
    x, y = values[:, 0].double().numpy(), target.double().numpy()
    covariance = np.cov(x, y, bias=True)[0, 1]
    ccc = 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    expected = np.mean((x - y) ** 2) + (1 - ccc) / 2
    assert dimension_loss(values, target, 0.5).item() == pytest.approx(expected)


def test_category_loss_with_smoothing_equals_its_formula(batch):
    logs = torch.log_softmax(batch[0], 1)
    expected = -(0.9 * logs[torch.arange(6), LABELS] + 0.1 * logs.mean(1)).mean()
    assert category_loss(batch[0], LABELS, 0.1).item() == pytest.approx(expected.item())


def test_objective_is_the_weighted_sum(batch):
    logits, values, penalty = batch
    outputs = {f"regress{letter}": values[:, [k]] for k, letter in enumerate("VAD")}
    recipe = Recipe(consistency=0.3, dimension_weight=0.7, ccc_weight=0.5)
    expected = 0.7 * sum(dimension_loss(values[:, [k]], VAD[:, k], 0.5) for k in range(3))
    found = Objective(tuple(outputs), recipe, penalty)(None, outputs, LABELS, VAD)
    assert found.item() == pytest.approx(expected.item())
    outputs["classify"] = logits
    expected += category_loss(logits, LABELS, 0.1) + 0.3 * contradiction_loss(*batch)
    found = Objective(tuple(outputs), recipe, penalty)(None, outputs, LABELS, VAD)
    assert found.item() == pytest.approx(expected.item())


def test_a_teacher_has_its_share_of_the_category_loss(batch):
    logits, generator = batch[0], torch.Generator().manual_seed(3)
    teacher_probs = torch.randn(6, 7, dtype=torch.float64, generator=generator).softmax(1)
    objective = Objective(("classify",), Recipe(teacher=0.3, label_smoothing=0.1), None)
    found = objective(None, {"classify": logits}, LABELS, None, teacher_probs)
    targets = 0.3 * teacher_probs + 0.7 * (0.9 * F.one_hot(LABELS, 7) + 0.1 / 7)
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    assert found.item() == pytest.approx(expected.item())


def test_one_dimension_uses_its_own_column(batch):
    logits, values, penalty = batch
    outputs = {"classify": logits, "regressD": values[:, :1]}
    recipe = Recipe(dimension_weight=1.0, ccc_weight=0.0, consistency=2.0)
    expected = (values[:, 0] - VAD[:, 2]).square().mean() + category_loss(logits, LABELS, 0.1)
    expected += 2 * contradiction_loss(logits, values[:, :1], penalty[:, [2]])
    found = Objective(tuple(outputs), recipe, penalty)(None, outputs, LABELS, VAD)
    assert found.item() == pytest.approx(expected.item())
