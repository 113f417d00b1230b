"""FERSNet: its equations, who learns from what, and the figures around it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter, zoom
from skimage.metrics import structural_similarity as scikit_ssim

from benchmarks.judge import VIEWS, halved, judge_network, judged, synthesize_others
from data.demo.drawing import CLASS_VAD, draw_face
from data.subjects.faces import SubjectFaces
from models import checkpoint
from models.fersnet import ConvFLU, Discriminator, FERSNet, SmallClassifier, Transform
from models.multitask import MultiTask
from training.config import FERSNET_RECIPES
from training.device import setup_device
from training.engine import train_one_epoch
from training.fersnet.engine import (
    counterparts,
    evaluate_fold,
    recognize,
    sequence_accuracy,
    shares_to_balance,
    synthesize,
    synthesize_to_balance,
)
from training.fersnet.guides import expression_network, identity_network, train_classifier
from training.fersnet.learner import FERSNetLearner, frozen, masked_l1, without_running_statistics
from training.fersnet.views import blurred, random_blurred_view
from training.optim import learning_rate
from utils.files import UserError

Narrow = partial(FERSNet, classes=7, base=4)


def drawn_faces(subjects=2, shown=range(7), frames=1):
    """Drawn faces of a few subjects, each with the expressions of `shown`."""
    images, labels, people = [], [], []
    for subject in range(subjects):
        for label in shown:
            for _ in range(frames):
                images.append(draw_face(label, CLASS_VAD[label], subject))
                labels.append(label)
                people.append(subject)
    names = ("a", "b", "c", "d", "e", "f", "g")
    return SubjectFaces(
        torch.from_numpy(np.stack(images)),
        torch.tensor(labels),
        torch.tensor(people),
        torch.tensor(people) * 7 + torch.tensor(labels),
        names,
        tuple(f"S{number}" for number in range(subjects)),
        tuple(map(str, range(len(images)))),
        "drawn faces",
    )


def without_targets(faces):
    """`faces` of whose first two subjects one expression is left, so that nothing shows how they look with another."""
    return faces.select((faces.subjects > 1) | (faces.labels == faces.labels[0]))


@pytest.fixture(scope="module")
def runtime():
    return setup_device("cpu", "fp32")


def first_batch(learner, faces):
    """The first `PairBatch` of an epoch."""
    learner.faces = faces
    return next(learner.batches(learner.plan(0)))


def make_learner(runtime, sharing="selective", **changes):
    torch.manual_seed(0)
    recipe = replace(FERSNET_RECIPES["default"], sharing=sharing, batch_size=8, **changes)
    draws = sharing != "none"
    network, helpers = Narrow(sharing=sharing), (None, None, None)
    if draws:
        helpers = Discriminator(7, base=4), SmallClassifier(3, base=4), SmallClassifier(7, base=4)
    return FERSNetLearner(network, helpers, recipe, None, 0, runtime)


# ---------------------------------------------------------------- the network


def plain_convolution(kernel, features):
    """kernel (out, in, k, k), features (in, H, W) -> (out, H, W), zero padded: four loops and a sum."""
    outer, _, size, _ = kernel.shape
    padded = np.pad(features, ((0, 0), (size // 2,) * 2, (size // 2,) * 2))
    height, width = features.shape[1:]
    result = np.zeros((outer, height, width))
    for channel in range(outer):
        for row in range(height):
            for column in range(width):
                result[channel, row, column] = (
                    kernel[channel] * padded[:, row : row + size, column : column + size]
                ).sum()
    return result


@pytest.mark.parametrize("kernel", (1, 3))
def test_a_leaky_unit_is_its_equations(kernel):
    torch.manual_seed(kernel)
    unit = ConvFLU(3, kernel).double()
    own, other = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 3, 4, 5).double()
    result = unit(own, other)
    weights = {name: value.detach().numpy() for name, value in unit.state_dict().items()}
    assert set(weights) == {f"{name}.weight" for name in ("reset", "update", "received", "kept")}  # and no bias
    for x, y, out in zip(own, other, result, strict=True):
        x, y = x.numpy(), y.numpy()
        both = np.concatenate((x, y))
        expected_r = 1 / (1 + np.exp(-plain_convolution(weights["reset.weight"], both)))
        expected_z = 1 / (1 + np.exp(-plain_convolution(weights["update.weight"], both)))
        candidate = np.tanh(
            plain_convolution(weights["received.weight"], expected_r * y) + plain_convolution(weights["kept.weight"], x)
        )
        np.testing.assert_allclose(out.detach().numpy(), (1 - expected_z) * x + expected_z * candidate, atol=1e-12)


@pytest.mark.parametrize("size", (48, 96))
@pytest.mark.parametrize("sharing", ("none", "hard", "selective"))
def test_shapes_and_ranges(sharing, size):
    network = FERSNet(sharing=sharing, classes=6, size=size, base=4)
    faces, target = torch.randn(2, 1, size, size), torch.tensor([0, 5])
    outputs = network(faces, None if sharing == "none" else target)
    assert outputs["classify"].shape == (2, 6)
    if sharing != "none":
        assert outputs["synthesized"].shape == faces.shape
        assert "synthesized" not in network(faces)


def gradient_names(network, value):
    """Names of the parameters that `value` depends on."""
    network.zero_grad(set_to_none=True)
    value.backward()
    return {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_features_flow_both_ways_where_sharing_is_selective():
    torch.manual_seed(0)
    network = Narrow(sharing="selective").double()
    faces, target = torch.randn(4, 1, 48, 48).double(), torch.tensor([1, 2, 3, 4])
    recognized = gradient_names(network, network(faces)["classify"].square().sum())
    drawn = gradient_names(network, network(faces, target)["synthesized"].double().square().sum())
    encoders = {name for name, _ in network.named_parameters() if name.startswith(("recognition", "synthesis"))}
    assert encoders <= recognized  # recognition learns from what the synthesis branch sees,
    assert encoders <= drawn  # and the other way round
    assert not any(name.startswith("decoder") for name in recognized)
    assert not any(name.startswith(("last", "classifier")) for name in drawn)


def test_hard_sharing_shares_the_first_five_blocks_and_none_draws_nothing():
    torch.manual_seed(0)
    hard, alone = Narrow(sharing="hard"), Narrow(sharing="none")
    blocks = ("stem", "recognition.0", "recognition.1", "recognition.2", "joint")
    pictures = hard(torch.randn(4, 1, 48, 48), torch.tensor([1, 2, 3, 4]))["synthesized"]
    drawn = gradient_names(hard, pictures.square().sum())
    recognized = gradient_names(hard, hard(torch.randn(4, 1, 48, 48))["classify"].square().sum())
    for block in blocks:
        names = {name for name, _ in hard.named_parameters() if name.startswith(block + ".")}
        assert names and names <= drawn and names <= recognized
    only_drawing = {name for name, _ in hard.named_parameters()} - {name for name, _ in alone.named_parameters()}
    assert only_drawing == {name for name, _ in hard.named_parameters() if name.startswith("decoder.")}
    with pytest.raises(AttributeError):
        alone(torch.randn(1, 1, 48, 48), torch.tensor([0]))


def test_the_target_changes_what_is_drawn():
    torch.manual_seed(0)
    network = Narrow(sharing="selective").eval()
    face = torch.randn(1, 1, 48, 48)
    pictures = [network(face, torch.tensor([target]))["synthesized"] for target in range(7)]
    for number, picture in enumerate(pictures):
        for other in pictures[:number]:
            assert not torch.allclose(picture, other, atol=1e-4)


def normalised(features):
    """features (C, H, W): each channel with mean 0 and variance 1, as PyTorch's instance norm does it."""
    mean, variance = features.mean((1, 2), keepdims=True), features.var((1, 2), keepdims=True)
    return (features - mean) / np.sqrt(variance + 1e-5)


def test_a_transform_is_its_equation():
    torch.manual_seed(0)
    transform = Transform(5, 3).double()
    transform.noise.data.fill_(0.7)
    features, expression = torch.randn(4, 3, 6, 5).double(), F.one_hot(torch.tensor([0, 4, 2, 2]), 5).double()
    weight, bias = transform.lift.weight.detach().numpy(), transform.lift.bias.detach().numpy()
    torch.manual_seed(1)
    noise = torch.randn(4, 1, 6, 5).numpy()  # one map per picture, the same for its channels
    torch.manual_seed(1)
    learning, evaluated = transform(features, expression), transform.eval()(features, expression)
    for number in range(4):
        lifted = weight @ expression[number].numpy() + bias
        scale, shift = lifted[:3, None, None], lifted[3:, None, None]
        for result, added in ((learning, 0.7 * noise[number]), (evaluated, 0)):
            expected = normalised(features[number].numpy() + added) * scale + shift
            np.testing.assert_allclose(result[number].detach().numpy(), expected, atol=1e-6)


def test_a_transform_begins_with_next_to_nothing_and_without_noise():
    torch.manual_seed(0)
    transform = Transform(7, 512)
    assert transform.noise == 0 and (transform.lift.bias == 0).all()
    bound = 0.1 * np.sqrt(6 / (7 + 1024))  # Xavier's, times 0.1
    assert 0.95 * bound < transform.lift.weight.abs().max() <= bound
    assert transform(torch.randn(2, 512, 6, 6), torch.eye(7)[:2]).abs().max() < 0.1


def plain_decoder(weights, bottleneck, skips, expression, deep):
    """The decoder of the paper in evaluation mode, size by size. weights: its state dict; skips: coarse to fine."""

    def transform(name, features):
        scale, shift = (expression @ weights[f"{name}.lift.weight"].T + weights[f"{name}.lift.bias"]).chunk(2, dim=1)
        return F.instance_norm(features) * scale[:, :, None, None] + shift[:, :, None, None]

    x = transform("transform_bottleneck", bottleneck)
    for size in range(5):
        if size or deep:
            kernel = weights[f"doublings.{size}.0.weight"]
            x = F.relu(F.instance_norm(F.conv_transpose2d(x, kernel, stride=2, padding=1)))
        if size < 4:
            x = torch.cat((x, transform(f"transforms.{size}", skips[size])), dim=1)
        for number in (0, 3):
            kernel = weights[f"refinings.{size}.{number}.weight"]
            x = F.leaky_relu(F.instance_norm(F.conv2d(x, kernel, padding=1)), 0.2)
    return F.conv2d(x, weights["draw.weight"], weights["draw.bias"], padding=1)


@pytest.mark.parametrize("size", (48, 96))
def test_the_decoder_is_its_equations_and_has_the_papers_sizes(size):
    torch.manual_seed(0)
    deep = size == 96
    decoder = FERSNet(size=size, base=64).decoder.double().eval()
    sides = {48: (3, 6, 12, 24), 96: (6, 12, 24, 48)}[size]
    skips = [
        torch.randn(1, channels, side, side).double() for channels, side in zip((512, 256, 128, 64), sides, strict=True)
    ]
    bottleneck, expression = torch.randn(1, 512, 3, 3).double(), torch.eye(7).double()[2:3]
    made = decoder(bottleneck, skips[::-1], expression)
    assert made.shape == (1, 1, size, size)
    expected = plain_decoder(decoder.state_dict(), bottleneck, skips, expression, deep)
    torch.testing.assert_close(made.double(), expected, atol=1e-5, rtol=1e-5)
    widths = [tuple(doubling[0].weight.shape[:2]) for doubling in decoder.doublings if len(list(doubling.children()))]
    assert widths == [(512, 512), (512, 256), (256, 128), (128, 64), (64, 64)][0 if deep else 1 :]
    joined = [refining[0].in_channels for refining in decoder.refinings]
    assert joined == [1024, 512, 256, 128, 64]  # the last is joined with nothing


@pytest.mark.parametrize("size", (48, 96))
def test_the_skips_are_what_the_units_gave_and_the_first_pooling(size):
    torch.manual_seed(0)
    network, seen = Narrow(sharing="selective", size=size).eval(), {}
    faces = torch.rand(2, 1, size, size)
    network.decoder.register_forward_pre_hook(lambda _, inputs: seen.update(inputs=inputs))
    units = []
    for exchange in network.exchange:
        exchange.register_forward_hook(lambda _, inputs, outputs: units.append(outputs[1]))
    network.joint.register_forward_hook(lambda _, inputs, outputs: seen.update(joint=outputs))
    network(faces, torch.tensor([1, 2]))
    bottleneck, skips, expression = seen["inputs"]
    assert torch.equal(expression, torch.eye(7)[[1, 2]])
    assert torch.equal(skips[0], F.max_pool2d(network.stem(faces), 2)) and len(skips) == 4
    for skip, unit in zip(skips[1:], units, strict=True):
        assert torch.equal(skip, unit)
    joint = F.max_pool2d(seen["joint"], 2) if size == 96 else seen["joint"]
    assert torch.equal(bottleneck, joint[:, 32:]) and bottleneck.shape == (2, 32, 3, 3)
    # Recognition has batch norms and synthesis instance norms without weights; shortcuts have none.
    norms = {type(module) for module in network.recognition.modules() if "Norm" in type(module).__name__}
    assert norms == {torch.nn.BatchNorm2d}
    norms = [module for module in network.synthesis.modules() if "Norm" in type(module).__name__]
    assert len(norms) == 6 and all(isinstance(n, torch.nn.InstanceNorm2d) and n.weight is None for n in norms)
    for block in (*network.recognition, *network.synthesis):
        assert isinstance(block.shortcut, torch.nn.Conv2d) and block.shortcut.bias is None


@pytest.mark.parametrize("size", (48, 96))
def test_the_discriminator_is_its_equations(size):
    torch.manual_seed(0)
    discriminator = Discriminator(7, base=4).double()
    faces, expression = torch.rand(2, 1, size, size).double(), torch.tensor([0, 3])
    weights, x = discriminator.state_dict(), torch.zeros(2, 8, size, size).double()
    x[:, :1] = faces
    for face, label in enumerate(expression.tolist()):
        x[face, 1 + label] = 1
    for layer, first in enumerate((0, 2, 5, 8)):
        x = F.conv2d(x, weights[f"{first}.weight"], weights[f"{first}.bias"], stride=2, padding=1)
        x = F.leaky_relu(F.instance_norm(x) if layer else x, 0.2)
    padded = torch.zeros(2, x.shape[1], size // 16 + 1, size // 16 + 1).double()
    padded[:, :, 1:, 1:] = x  # a row above, a column on the left
    expected = F.conv2d(padded, weights["12.weight"], weights["12.bias"], padding=1)
    scores = discriminator(faces, expression)
    assert scores.shape == (2, 1, size // 16, size // 16)
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=1e-5)
    widths = [module.out_channels for module in Discriminator(7) if isinstance(module, torch.nn.Conv2d)]
    assert widths == [64, 128, 256, 512, 1]


# ---------------------------------------------------------------- a step


def test_the_l1_counts_only_faces_with_a_real_target():
    torch.manual_seed(0)
    drawn, wanted = torch.randn(5, 1, 6, 6), torch.randn(5, 1, 6, 6)
    known = torch.tensor([True, False, True, True, False])
    expected = np.mean([np.abs((drawn[i] - wanted[i]).numpy()).mean() for i in (0, 2, 3)])
    assert masked_l1(drawn, wanted, known).item() == pytest.approx(expected, rel=1e-6)
    assert masked_l1(drawn, wanted, torch.zeros(5, dtype=torch.bool)).item() == 0


def changed_by(module, action):
    """Names of the parameters of `module` that `action` changed."""
    before = {name: value.clone() for name, value in module.state_dict().items() if value.is_floating_point()}
    action()
    return {name for name, value in before.items() if not torch.equal(value, module.state_dict()[name])}


def test_each_optimizer_touches_its_own_network(runtime):
    faces = drawn_faces()
    learner = make_learner(runtime)
    batch = first_batch(learner, faces)
    drawn = learner._synthesize(batch)
    learner.rate.fill_(1e-3)
    step = partial(learner._discriminator_step, batch, drawn)
    assert not changed_by(learner.model, step)
    parameters = {name for name, _ in learner.discriminator.named_parameters()}
    assert changed_by(learner.discriminator, step) >= {name for name in parameters if name.endswith("weight")}

    losses = learner._synthesis_losses(batch, learner.model(batch.faces, batch.target_labels)["synthesized"])
    learner._weighted(dict.fromkeys(learner.metrics, 0.0) | losses).backward()
    assert all(p.grad is None for p in learner.discriminator.parameters())
    assert all(p.grad is None for guide in (learner.identity, learner.expression) for p in guide.parameters())
    assert all(p.requires_grad for p in learner.discriminator.parameters())
    assert learner.model.decoder.draw.weight.grad.abs().sum() > 0

    alone = make_learner(runtime, discriminator_steps=0)
    assert not changed_by(alone.discriminator, lambda: alone.step(batch, 0, 10))
    assert not changed_by(alone.identity, lambda: alone.step(batch, 0, 10))
    assert not changed_by(alone.expression, lambda: alone.step(batch, 0, 10))
    assert changed_by(alone.model, lambda: alone.step(batch, 0, 10))


def test_running_statistics_are_those_of_real_faces(runtime):
    faces = drawn_faces()
    learner = make_learner(runtime)
    batch = first_batch(learner, faces)
    reference = make_learner(runtime).model.train()
    reference(batch.faces)  # the same weights see the real faces once
    learner.step(batch, 0, 10)
    for name, value in learner.model.state_dict().items():
        if "running" in name:
            assert torch.equal(value, reference.state_dict()[name]), name
    with without_running_statistics(reference), pytest.raises(KeyError):
        raise KeyError
    assert {m.momentum for m in reference.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}


def test_every_kernel_learns_in_bf16(runtime):
    learner = make_learner(replace(runtime, precision="bf16"))
    batch = first_batch(learner, drawn_faces())
    weights = {name for name, parameter in learner.model.named_parameters() if parameter.dim() == 4}
    assert changed_by(learner.model, lambda: learner.step(batch, 0, 10)) >= weights


@pytest.mark.parametrize("all_known", (True, False))
def test_the_losses_are_their_formulas(runtime, monkeypatch, all_known):
    monkeypatch.setattr("training.fersnet.learner.random_blurred_view", lambda pictures: pictures.flip(3))
    faces = drawn_faces(4, (0, 2, 3, 5))
    faces = faces if all_known else without_targets(faces)
    learner = make_learner(runtime, discriminator_steps=0, cycle=0.7)
    batch = first_batch(learner, faces)
    learner.model.train()
    with torch.no_grad():
        outputs = learner.model(batch.faces, batch.target_labels)
        again = learner.model(outputs["synthesized"], batch.labels)
        scores = learner.discriminator(outputs["synthesized"], batch.target_labels).numpy()
        features = [
            F.normalize(learner.identity.trunk(2 * x - 1).mean((2, 3))).numpy()
            for x in (outputs["synthesized"], batch.real)
        ]
        read = learner.expression(outputs["synthesized"].flip(3)).softmax(1).numpy()  # its view
    logarithms = outputs["classify"].log_softmax(1).numpy()
    expected = {
        "Loss": -np.mean([logarithms[i, label] for i, label in enumerate(batch.labels)]),
        "L1": np.abs((outputs["synthesized"] - batch.real).numpy())[batch.known.numpy()].mean(),
        "Identity": ((features[0] - features[1]) ** 2).sum(1).mean(),
        "Expression": -np.mean([np.log(read[i, label]) for i, label in enumerate(batch.target_labels)]),
        "Adversarial": ((scores - 1) ** 2).mean(),
        "Cycle": ((again["synthesized"] - batch.faces).numpy() ** 2).mean(),
    }
    assert batch.known.any() and batch.known.all() == all_known
    loss, sums = learner.step(batch, 0, 10)
    figures = learner.to_dict((sums / 8).tolist())
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-4), name
    weights = {"Loss": 1, "L1": 20, "Identity": 0.05, "Expression": 0.3, "Adversarial": 0.1, "Cycle": 0.7}
    expected["Loss"] = 0.9 * expected["Loss"] - 0.1 * logarithms.mean()  # labels are smoothed by a tenth
    assert loss.item() == pytest.approx(sum(weights[name] * expected[name] for name in weights), rel=1e-4)


def test_the_loss_of_the_discriminator_is_its_formula(runtime):
    faces = drawn_faces()
    learner = make_learner(runtime)
    batch = first_batch(learner, faces)
    drawn = torch.rand_like(batch.faces)
    cases = ((batch.real, batch.real_labels), (drawn, batch.target_labels))
    with torch.no_grad():
        real, false = (learner.discriminator(*case).double().numpy() for case in cases)
    expected = ((real - 1) ** 2).mean() + (false**2).mean()
    assert learner._discriminator_step(batch, drawn).item() == pytest.approx(expected / 2, rel=1e-5)
    assert (batch.labels != batch.target_labels).all()


def test_a_batch_has_the_target_cut_like_the_face(runtime):
    """The target where there is one, else the face itself, each with its own expression; pixels in 0..1."""
    faces = without_targets(drawn_faces(3, (0, 2, 3, 5), frames=3))
    learner = make_learner(runtime)
    learner.faces = faces
    plan = learner.plan(0)
    seen = {True: 0, False: 0}
    for step, batch in enumerate(learner.batches(plan)):
        parts = plan.batch(step)
        assert 0 <= batch.faces.min() and 0.5 < batch.faces.max() <= 1
        for place, (source, target) in enumerate(zip(parts["order"].tolist(), parts["target"].tolist(), strict=True)):
            known = target >= 0
            other = target if known else source
            assert batch.known[place] == known
            assert batch.real_labels[place] == faces.labels[other]
            assert faces.subjects[other] == faces.subjects[source]
            assert (
                batch.target_labels[place] == faces.labels[target]
                if known
                else batch.target_labels[place] != (faces.labels[source])
            )
            for pictures, number in ((batch.faces, source), (batch.real, other)):
                padded = np.pad(faces.images[number].numpy(), 4, mode="edge")
                top, left = (int(parts[name][place]) + 4 for name in ("top", "left"))
                cut = padded[top : top + 48, left : left + 48]
                cut = cut[:, ::-1] if parts["flip"][place] else cut
                np.testing.assert_allclose(pictures[place, 0].numpy(), cut / 255, atol=1e-6)
            seen[known] += 1
    assert min(seen.values()) >= 3


def test_the_paper_learns_in_its_order(runtime, monkeypatch):
    """Faces made in evaluation mode; three steps of the discriminator with them; then one of the network."""
    faces, recipe = drawn_faces(), FERSNET_RECIPES["paper"]
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (500, 8, 1e-4, 5e-4)
    weights = (recipe.reconstruction, recipe.identity, recipe.adversarial, recipe.cycle)
    ours = (recipe.expression, recipe.label_smoothing, recipe.agreed, recipe.averaging)
    assert (weights, ours) == ((1, 0.05, 0.3, 0.5), (0, 0, False, 0))
    rates = [learning_rate(recipe, epoch * 10, 10) for epoch in (0, 149, 150, 399, 400, 499)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])

    torch.manual_seed(0)
    learner = FERSNetLearner(
        Narrow(), (Discriminator(7, base=4), SmallClassifier(3, base=4), None), recipe, faces, 0, runtime
    )
    for optimizer in (learner.optimizer, learner.discriminator_optimizer):
        (group,) = optimizer.param_groups
        assert type(optimizer) is torch.optim.Adam
        assert (group["betas"], group["weight_decay"]) == ((0.5, 0.999), 5e-4)
    batch = first_batch(learner, faces)
    with torch.no_grad():
        expected = learner.model.eval()(batch.faces, batch.target_labels)["synthesized"]
    learner.model.train()
    done, judged_faces = [], []
    discriminate, take_step = learner._discriminator_step, torch.optim.Adam.step

    def discriminator_step(batch, synthesized):
        judged_faces.append(synthesized)
        return discriminate(batch, synthesized)

    def step(optimizer):
        done.append("network" if optimizer is learner.optimizer else "discriminator")
        return take_step(optimizer)

    monkeypatch.setattr(learner, "_discriminator_step", discriminator_step)
    monkeypatch.setattr(torch.optim.Adam, "step", step)
    monkeypatch.setattr("training.fersnet.learner.random_blurred_view", None)  # no guide
    before = learner.model.training
    learner.step(batch, 0, 10)
    assert done == ["discriminator"] * 3 + ["network"]
    assert len(judged_faces) == 3 and all(torch.equal(each, expected) for each in judged_faces)
    assert before and learner.model.training


def test_a_frozen_network_thaws():
    network = torch.nn.Linear(2, 2)
    with frozen(network):
        assert not any(p.requires_grad for p in network.parameters())
    assert all(p.requires_grad for p in network.parameters())


class CentredLearner(FERSNetLearner):
    """Learns from faces that are neither moved nor mirrored."""

    def plan(self, epoch):
        plan = super().plan(epoch)
        still = {name: torch.zeros_like(plan.columns[name]) for name in ("top", "left", "flip")}
        return replace(plan, columns=plan.columns | still)


@pytest.mark.slow
def test_four_faces_are_learnt_by_heart(runtime):
    faces = drawn_faces(1, (0, 3, 5, 6))
    torch.manual_seed(0)
    recipe = replace(
        FERSNET_RECIPES["default"],
        epochs=150,
        batch_size=4,
        learning_rate=5e-3,
        averaging=0.06,
        adversarial=0.0,
        cycle=0.0,
        identity=0.0,
        expression=0.0,
        discriminator_steps=0,
    )
    helpers = Discriminator(7, 8), SmallClassifier(1), None
    network = FERSNet(sharing="selective", base=16)
    learner = CentredLearner(network, helpers, recipe, faces, 0, runtime)
    for epoch in range(recipe.epochs):
        train_one_epoch(learner, epoch, None)
    network = learner.averaged.eval()
    assert (recognize(network, faces.images, runtime).argmax(1) == faces.labels).all()
    figures = evaluate_fold(network, faces, runtime)
    assert figures["SSIM"] > 0.8 > figures["CopySSIM"]
    # Much nearer to the wanted face than the face that it was drawn from.
    assert figures["L1"] < 0.75 * figures["CopyL1"]
    # Of the faces of its subject the one that was wanted is the nearest to what is synthesized.
    for number in range(len(faces)):
        mine = (faces.subjects == faces.subjects[number]).nonzero()[:, 0]
        for wanted in set(mine.tolist()) - {number}:
            made = synthesize(network, faces.images[number : number + 1], faces.labels[wanted : wanted + 1], runtime)
            distances = (faces.images[mine].double() - made.double()).abs().mean((1, 2))
            assert mine[distances.argmin()] == wanted


# ---------------------------------------------------------------- around it


def test_the_frames_of_a_sequence_vote():
    generator = torch.Generator().manual_seed(3)
    sequences = torch.tensor([5, 5, 5, 2, 2, 2, 9, 9, 0, 7, 7, 7])
    labels = torch.tensor([1, 1, 1, 0, 0, 0, 2, 2, 3, 3, 3, 3])
    outcomes = set()
    for _ in range(200):
        logits = 3 * torch.randn(12, 4, generator=generator)
        right = []
        for number in set(sequences.tolist()):
            mine = (sequences == number).nonzero()[:, 0].tolist()
            votes = [logits[place].argmax().item() for place in mine]
            most = max(votes.count(label) for label in range(4))
            tied = [label for label in range(4) if votes.count(label) == most]
            chosen = max(tied, key=lambda label: sum(logits[place].softmax(0)[label].item() for place in mine))
            right.append(chosen == labels[mine[0]])
        outcomes.add(sum(right))
        assert sequence_accuracy(logits, labels, sequences) == pytest.approx(100 * np.mean(right))
    assert len(outcomes) >= 4


def test_fine_tuning_keeps_the_statistics_of_real_faces(runtime):
    torch.manual_seed(0)
    faces, network, told = drawn_faces(), Narrow(), []
    before = {name: value.clone() for name, value in network.state_dict().items()}
    train = partial(train_classifier, network, faces.images, faces.labels, 2, 0, runtime)
    train(fixed_norms=True, after_epoch=lambda tuned: told.append(tuned.training))
    assert told == [False, False] and not network.training
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "running" in name)
    assert not torch.equal(before["stem.1.weight"], after["stem.1.weight"])
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    train()
    after = network.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in before if "running" in name)


def test_views_against_plain_means():
    pictures = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    numbers = pictures.numpy()
    expected = np.stack([gaussian_filter(picture[0], 1.0, mode="mirror", truncate=3.0) for picture in numbers])
    np.testing.assert_allclose(blurred(pictures)[:, 0].numpy(), expected, atol=1e-5)
    small = numbers.reshape(2, 24, 2, 24, 2).mean((2, 4))
    for picture, again in zip(small, halved(pictures)[:, 0].numpy(), strict=True):
        expected = zoom(np.pad(picture, 1, mode="edge"), 2, order=1, grid_mode=True, mode="nearest")[2:-2, 2:-2]
        np.testing.assert_allclose(again, expected, atol=1e-5)
    grain = torch.ones(1, 1, 48, 48)
    grain[..., ::2, ::2] = grain[..., 1::2, 1::2] = 0  # a chequerboard: grain alone
    assert halved(grain).std() < 1e-6 and blurred(grain).std() < 0.1 * grain.std()
    assert halved(torch.rand(1, 1, 96, 96)).shape == (1, 1, 96, 96)


@pytest.mark.parametrize("size", [48, 96])
def test_a_random_view_is_a_blurred_and_shifted_picture_with_noise(size):
    pictures = torch.rand(3, 1, size, size, dtype=torch.float64)
    for seed in range(5):
        torch.manual_seed(seed)
        found = random_blurred_view(pictures)
        torch.manual_seed(seed)
        sigma, noise = (torch.rand(2) * torch.tensor([1.5, 0.1])).tolist()
        top, left = (torch.randint(7, (2,))).tolist()
        sigma = max(sigma, 0.1) * size / 48
        reach = max(1, round(3 * sigma))
        for picture, view, grain in zip(pictures, found, torch.randn(pictures.shape), strict=True):
            blurry = gaussian_filter(picture[0].numpy(), sigma, mode="mirror", radius=reach)
            padded = np.pad(blurry, 3, mode="edge")[top : top + size, left : left + size]
            expected = padded + noise * grain[0].numpy()
            np.testing.assert_allclose(view[0].numpy(), expected, atol=1e-5)


def test_guides_compute_in_float32_under_autocast():
    torch.manual_seed(0)
    guide, faces = SmallClassifier(5, base=8).eval(), torch.rand(4, 1, 48, 48)
    with torch.no_grad():
        expected = guide.embed(faces), guide(faces)
        with torch.autocast("cpu", torch.bfloat16):
            found = guide.embed(faces), guide(faces)
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


def test_what_a_judge_reads_is_told_for_every_view(runtime):
    torch.manual_seed(0)
    faces, network = drawn_faces(2), Narrow().eval()
    judge = SmallClassifier(7, base=4).eval()
    found = judged(judge, faces, *synthesize_others(network, faces, runtime), runtime)
    hits, pairs = 0, [(face, wanted) for face in range(14) for wanted in range(7) if wanted != faces.labels[face]]
    for face, wanted in pairs:
        made = synthesize(network, faces.images[face : face + 1], torch.tensor([wanted]), runtime)
        with torch.no_grad():
            hits += judge(blurred(made[:, None].float() / 255)).argmax(1).item() == wanted
    assert found["TargetShareBlurred"] == pytest.approx(100 * hits / len(pairs))
    with torch.no_grad():
        real = judge(halved(faces.images[:, None].float() / 255)).argmax(1) == faces.labels
    assert found["JudgeAccHalved"] == pytest.approx(100 * real.double().mean().item())
    assert found.keys() == {f"{name}{view}" for name in ("TargetShare", "JudgeAcc") for view in VIEWS}


def test_counterparts_against_a_search():
    faces = drawn_faces(3, (0, 2, 5), frames=2).select(torch.tensor([0, 1, 3, 4, 6, 7, 9, 12, 14, 17]))
    found = counterparts(faces)
    for number in range(len(faces)):
        for label in range(7):
            same = [
                other
                for other in range(len(faces))
                if faces.subjects[other] == faces.subjects[number] and faces.labels[other] == label
            ]
            expected = max(same, default=-1) if label != faces.labels[number] else -1
            assert found[number, label] == expected


@pytest.mark.parametrize("present, count", (((5, 1, 3), 4), ((5, 1, 3), 100), ((9, 0, 9), 5), ((2, 2), 0), ((7, 7), 3)))
def test_classes_are_filled_up_one_by_one(present, count):
    level = list(present)
    for _ in range(count):
        level[level.index(min(level))] += 1
    shares = shares_to_balance(torch.tensor(present), count)
    assert shares.sum() == count and (shares >= 0).all()
    assert sorted((torch.tensor(present) + shares).tolist()) == sorted(level)


def test_faces_drawn_to_balance_come_from_other_expressions(runtime, monkeypatch):
    faces = drawn_faces(3, (0, 1, 2, 3, 4, 5, 6)).select(torch.arange(12))
    seen = {}

    def spy(network, images, expressions, runtime):
        seen.update(images=images, expressions=expressions)
        return images

    monkeypatch.setattr("training.fersnet.engine.synthesize", spy)
    images, labels = synthesize_to_balance(None, faces, 9, 0, runtime)
    assert len(images) == len(labels) == 9
    assert torch.bincount(torch.cat((faces.labels, labels)), minlength=7).tolist() == [3, 3, 3, 3, 3, 3, 3]
    for picture, wanted in zip(seen["images"], seen["expressions"], strict=True):
        number = next(n for n in range(len(faces)) if torch.equal(faces.images[n], picture))
        assert faces.labels[number] != wanted


def test_the_identity_network_tells_people_apart(runtime, monkeypatch):
    monkeypatch.setattr("training.fersnet.guides.GUIDE_EPOCHS", 90)
    faces = drawn_faces(4)
    known, unknown = faces.select(faces.labels < 5), faces.select(faces.labels >= 5)
    network = identity_network(known, 0, runtime)
    pictures = unknown.images[:, None].float() / 255
    with torch.no_grad():
        told = network(pictures).argmax(1)
        assert network.embed(pictures).norm(dim=1).allclose(torch.ones(len(unknown)))
    assert (told == unknown.subjects).double().mean() >= 0.75  # one in four by chance


def test_the_expression_network_tells_expressions_apart(runtime, monkeypatch):
    monkeypatch.setattr("training.fersnet.guides.GUIDE_EPOCHS", 150)
    faces = drawn_faces(20)
    known, unknown = faces.select(faces.subjects < 10), faces.select(faces.subjects >= 10)
    network = expression_network(known, 0, runtime)
    with torch.no_grad():
        told = network(unknown.images[:, None].float() / 255).argmax(1)
    assert (told == unknown.labels).double().mean() >= 0.3  # of 70, one in seven by chance


def test_a_judge_shares_no_chance_with_what_it_judges(runtime, monkeypatch):
    """Else it would begin with the kernels of a guide, and see its batches."""
    made = []

    def train(network, images, labels, epochs, seed, *others, **options):
        made.append((seed, network, torch.initial_seed()))
        return network

    for module in ("training.fersnet.guides", "benchmarks.judge"):
        monkeypatch.setattr(f"{module}.train_classifier", train)
    faces = drawn_faces(2)
    for make in (expression_network, identity_network, judge_network):
        make(faces, 3, runtime)
    (guide, *_), _, (judge, _, began_with) = made
    assert guide == 3 and judge == began_with > 100_000  # far above those of all folds of all seeds


def test_drawn_and_unchanged_faces_are_compared_with_the_real_ones(runtime):
    torch.manual_seed(0)
    faces = drawn_faces(2, (0, 3, 5))
    network = Narrow(sharing="selective").eval()
    figures, known = evaluate_fold(network, faces, runtime), {"L1": [], "SSIM": [], "CopyL1": [], "CopySSIM": []}
    for source in range(6):
        for wanted in range(6):
            if faces.subjects[source] == faces.subjects[wanted] and source != wanted:
                target = faces.labels[wanted : wanted + 1]
                drawn = synthesize(network, faces.images[source : source + 1], target, runtime)[0]
                for prefix, picture in (("", drawn), ("Copy", faces.images[source])):
                    pair = picture.numpy() / 255, faces.images[wanted].numpy() / 255
                    known[f"{prefix}L1"].append(np.abs(pair[0] - pair[1]).mean())
                    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
                    known[f"{prefix}SSIM"].append(scikit_ssim(*pair, data_range=1.0, **options))
    for name, values in known.items():
        assert len(values) == 12
        assert figures[name] == pytest.approx(np.mean(values), abs=1e-5), name


def test_a_fold_without_pairs_has_no_figures_of_drawing(runtime):
    faces = drawn_faces(3, (2,))
    figures = evaluate_fold(Narrow(sharing="selective").eval(), faces, runtime)
    assert figures["L1"] is None and figures["SSIM"] is None
    assert sum(map(sum, figures["confusion"])) == 3
    assert "L1" not in evaluate_fold(Narrow(sharing="none").eval(), faces, runtime)


# ---------------------------------------------------------------- pre-training


def saved(path, network, **content):
    checkpoint.save(path, {"net": network.state_dict(), "model": "FERSNet", **content})
    return path


def test_pre_trained_recognition_is_taken_over(tmp_path):
    torch.manual_seed(0)
    source, target = Narrow(sharing="none"), Narrow(sharing="selective")
    before = {name: value.clone() for name, value in target.state_dict().items()}
    checkpoint.load_pretrained(target, saved(tmp_path / "pre.t7", source))
    given = source.state_dict()
    for name, value in target.state_dict().items():
        if name.startswith(("classifier", "synthesis", "exchange", "decoder")):
            assert torch.equal(value, before[name]), name
        elif name.startswith("joint") and value.ndim == 4:
            half = len(value) // 2
            assert torch.equal(value[:half, :half], given[name])
            assert torch.equal(value[half:], before[name][half:])
        elif not name.startswith("joint"):
            assert torch.equal(value, given[name]), name


def test_what_does_not_fit_for_pre_training_is_told(tmp_path):
    wide = FERSNet(sharing="none", base=8)
    for source, target in ((wide, Narrow()), (Narrow(sharing="none"), FERSNet(base=8)), (wide, Narrow(sharing="none"))):
        before = {name: value.clone() for name, value in target.state_dict().items()}
        with pytest.raises(UserError, match="--model"):
            checkpoint.load_pretrained(target, saved(tmp_path / "wide.t7", source))
        assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    with pytest.raises(UserError, match="holds no FERSNet"):
        checkpoint.load_pretrained(wide, saved(tmp_path / "other.t7", MultiTask(base=4)))
