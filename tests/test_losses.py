"""Losses against brute force, closed forms and finite differences."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.multitask import MultiTask
from models.resnet import BasicBlock
from training.config import Recipe
from training.losses import (
    CONSTRAINTS,
    Objective,
    category_loss,
    constraint_table,
    contradiction_loss,
    dimension_loss,
    orthogonality,
    orthogonality_loss,
    sign_membership,
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 7, dtype=torch.float64, generator=generator)
    values = 2 * torch.rand(6, 3, dtype=torch.float64, generator=generator) - 1
    penalty = torch.rand(7, 3, 3, dtype=torch.float64, generator=generator)
    return logits, values, penalty


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
            total += sum(p[c] * q * penalty[c, k, s] for s, q in enumerate(plain_memberships(values[b, k])))
    assert contradiction_loss(*batch).item() == pytest.approx(total / len(logits), rel=1e-12)


def test_contradictions_have_right_gradients_into_logits_and_values(batch):
    logits, values, table = batch
    logits.requires_grad_(), values.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: contradiction_loss(a, b, table), (logits, values))
    contradiction_loss(logits, values, table).backward()
    assert (logits.grad.abs().sum(1) > 0).all() and (values.grad.abs() > 0).all()


def test_contradictions_are_those_of_the_annotators():
    # Their workbook, a condition a cell: an emotion of FER2013 and what its value must not be.
    never = lambda value: False  # noqa: E731
    not_negative, not_positive = (lambda v: v > 0 or v == 0), (lambda v: v == 0 or v < 0)
    negative, not_zero = (lambda v: v < 0), (lambda v: v > 0 or v < 0)
    workbook = {
        "Valence": (not_negative, not_negative, not_negative, not_positive, not_negative, never, not_zero),
        "Arousal": (negative, negative, never, not_positive, not_negative, not_positive, not_zero),
        "Dominance": (never, not_positive, not_negative, negative, not_negative, not_negative, never),
    }
    table = constraint_table("original", torch.zeros(1).long(), torch.zeros(1, 3))
    for k, conditions in enumerate(workbook.values()):
        for c, contradicts in enumerate(conditions):
            assert table[c, k].tolist() == [float(contradicts(sign)) for sign in (-1, 0, 1)]


def test_the_table_is_of_shares_that_equal_counting():
    rng = np.random.default_rng(0)
    labels, vad = rng.integers(0, 6, 400), rng.integers(-2, 3, (400, 3)).astype("f4")  # class 6 never occurs
    shares = 1 - constraint_table("table", torch.from_numpy(labels), torch.from_numpy(vad)).numpy()
    assert constraint_table("table", torch.from_numpy(labels), None) is None
    for c, k, s in itertools.product(range(7), range(3), range(3)):
        of_class = vad[labels == c, k]
        hits = (np.sign(of_class) == s - 1).sum()
        assert shares[c, k, s] == pytest.approx((hits + 1) / (len(of_class) + 3))
    assert np.allclose(shares[6], 1 / 3)


def test_membership_is_a_distribution_that_peaks_where_it_should():
    q = sign_membership(torch.tensor([[-2.0, 0.0, 2.0]], dtype=torch.float64))[0]
    assert torch.allclose(q.sum(-1), torch.ones(3, dtype=torch.float64)) and (q >= 0).all()
    assert q.argmax(-1).tolist() == [0, 1, 2]


def explicit_matrix(kernel, stride, size):
    """The convolution without padding as a matrix, one row per (output channel, output position).

    Only positions whose window lies inside the image: the Toeplitz form of the paper, in its interior.
    """
    channels = kernel.shape[1]
    columns = []
    for pixel in range(channels * size * size):
        image = torch.zeros(channels * size * size, dtype=kernel.dtype)
        image[pixel] = 1
        out = F.conv2d(image.view(1, channels, size, size), kernel, stride=stride)
        columns.append(out.flatten())
    return torch.stack(columns, dim=1), out.shape[-1]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [3, 1])
def test_orthogonality_equals_the_toeplitz_form(stride, width):
    kernel = torch.randn(4, 2, width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # Wide enough that around the middle position all overlapping positions exist.
    matrix, outputs = explicit_matrix(kernel, stride, size=13)
    gram = matrix @ matrix.T
    middle = outputs // 2 * outputs + outputs // 2
    rows = gram.view(4, outputs * outputs, -1)[:, middle]  # products of the middle rows with all rows
    identity = torch.zeros_like(rows)
    identity.view(4, 4, outputs * outputs)[:, :, middle] = torch.eye(4, dtype=torch.float64)
    expected = (rows - identity).square().sum()
    assert orthogonality(kernel, stride).item() == pytest.approx(expected.sqrt().item(), rel=1e-10)


@pytest.mark.parametrize("stride", [1, 2])
def test_orthogonality_in_bfloat16_is_that_in_float32_to_rounding(stride):
    torch.manual_seed(0)
    block = BasicBlock(24, 32, stride)
    kernel = block.conv1.weight
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        block.zero_grad()
        loss = orthogonality_loss(block, dtype)
        loss.backward()
        found[dtype] = loss.item(), kernel.grad.clone()
        assert loss.dtype == kernel.grad.dtype == torch.float32
    (exact, wanted), (rounded, gradient) = found.values()
    assert rounded == pytest.approx(exact, rel=2e-3) and rounded != exact
    assert (gradient - wanted).norm() < 0.01 * wanted.norm()


def test_padding_one_samples_wrong_shifts_at_stride_two():
    # The reason for the padding in `orthogonality`: shifts of 1 never occur at stride 2.
    kernel = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wrong = F.conv2d(kernel, kernel, stride=2, padding=1)  # (4, 4, 2, 2), none of which is shift 0
    assert (wrong.norm() - orthogonality(kernel, 2)).abs() > 1e-3


def test_eleven_kernels_of_a_network_are_made_orthogonal():
    network = MultiTask(("classify",), base=4).double()
    trunk = network.trunks["shared"]
    expected, kernels = 0, []
    for layer, stride in ((trunk.layer1, 1), (trunk.layer2, 2), (trunk.layer3, 2), (trunk.layer4, 2)):
        kernels += [layer[0].conv1.weight, layer[1].conv1.weight]
        expected += orthogonality(kernels[-2], stride) + orthogonality(kernels[-1], 1)
        if stride == 2:
            matrix = layer[0].shortcut[0].weight.flatten(1)  # twice as many rows as columns
            expected += (matrix.T @ matrix - torch.eye(matrix.shape[1], dtype=matrix.dtype)).norm()
            kernels.append(layer[0].shortcut[0].weight)
    loss = orthogonality_loss(network, torch.float64)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    with_gradient = [p for p in network.parameters() if p.grad is not None and p.grad.any()]
    assert len(with_gradient) == 11 and {id(p) for p in with_gradient} == {id(kernel) for kernel in kernels}
    four = MultiTask(sharing="none", base=4)
    orthogonality_loss(four).backward()
    assert sum(p.grad is not None for p in four.parameters()) == 44


def test_an_orthonormal_kernel_has_no_penalty_and_a_finite_gradient():
    kernel = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q[:4].view(4, 8, 1, 1)
    assert orthogonality(kernel, 1).item() == pytest.approx(0, abs=1e-12)
    exact = torch.eye(4)[:, :, None, None].requires_grad_()
    orthogonality(exact, 1).backward()
    assert exact.grad.isfinite().all()


def test_a_loss_never_broadcasts():
    for values, target in (((4,), (4,)), ((4, 1), (4, 1)), ((4, 1), (3,)), ((4, 2), (4,))):
        with pytest.raises(ValueError, match="must be"):
            dimension_loss(torch.zeros(values), torch.zeros(target))
    with pytest.raises(RuntimeError):
        category_loss(torch.zeros(4, 7), torch.zeros(4, 1, dtype=torch.long))


def test_dimension_loss_equals_its_formula():
    values, target = torch.tensor([[0.5], [-1.0], [1.5]]), torch.tensor([1.0, -1.0, 0.0])
    x, y = values[:, 0].double().numpy(), target.double().numpy()
    ccc = 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert dimension_loss(values, target, 0.5).item() == pytest.approx(np.mean((x - y) ** 2) + (1 - ccc) / 2)


def test_category_loss_with_smoothing_equals_its_formula(batch):
    logits, labels = batch[0], torch.tensor([0, 1, 2, 3, 4, 6])
    logs = torch.log_softmax(logits, 1)
    expected = -(0.9 * logs[torch.arange(6), labels] + 0.1 * logs.mean(1)).mean()
    assert category_loss(logits, labels, 0.1).item() == pytest.approx(expected.item())


def test_objective_is_the_weighted_sum(batch):
    logits, values, penalty = batch
    outputs = {"classify": logits} | {f"regress{d}": values[:, i : i + 1] for i, d in enumerate("VAD")}
    labels, vad = torch.arange(6), torch.linspace(-2, 2, 18, dtype=torch.float64).view(6, 3)
    recipe = Recipe(consistency=0.3, dimension_weight=0.7, ccc_weight=0.5, label_smoothing=0.1)
    expected = category_loss(logits, labels, 0.1) + 0.3 * contradiction_loss(logits, values, penalty)
    for k in range(3):
        expected += 0.7 * dimension_loss(values[:, k : k + 1], vad[:, k], 0.5)
    found = Objective(tuple(outputs), recipe, penalty)(None, outputs, labels, vad)
    assert found.item() == pytest.approx(expected.item())


def test_a_teacher_has_its_share_of_the_category_loss(batch):
    logits, labels = batch[0], torch.tensor([0, 1, 2, 3, 4, 6])
    teacher_probs = torch.randn(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).softmax(1)
    recipe = Recipe(teacher=0.3, label_smoothing=0.1)
    found = Objective(("classify",), recipe, None)(None, {"classify": logits}, labels, None, teacher_probs)
    targets = 0.3 * teacher_probs + 0.7 * (0.9 * F.one_hot(labels, 7) + 0.1 / 7)
    assert found.item() == pytest.approx(-(targets * logits.log_softmax(1)).sum(1).mean().item())


def test_objective_of_one_dimension_uses_its_own_column(batch):
    _, values, penalty = batch
    vad = torch.linspace(-2, 2, 18, dtype=torch.float64).view(6, 3)
    objective = Objective(("regressD",), Recipe(dimension_weight=1.0, ccc_weight=0.0), penalty)
    found = objective(None, {"regressD": values[:, :1]}, torch.zeros(6).long(), vad)
    assert found.item() == pytest.approx((values[:, 0] - vad[:, 2]).square().mean().item())


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_a_constraint_is_added_with_its_weight(constraint):
    labels, vad = torch.arange(14) % 7, torch.linspace(-2, 2, 42).view(14, 3)
    outputs = {"classify": torch.randn(14, 7), "regressA": torch.randn(14, 1)}
    table = constraint_table(constraint, labels, vad)
    losses = [
        Objective(tuple(outputs), Recipe(consistency=weight), table)(None, outputs, labels, vad)
        for weight in (2.0, 0.0)
    ]
    expected = 2 * contradiction_loss(*outputs.values(), table[:, [1]])
    assert (losses[0] - losses[1]).item() == pytest.approx(expected.item(), rel=1e-4)
