"""FERSNet: its equations, its training step, who learns from what, and the metrics around it."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity as scikit_ssim

from benchmarks.judge import blurred
from data.demo.drawing import CLASS_VAD, draw_face
from data.subjects.faces import SubjectFaces
from models import checkpoint
from models.fersnet import ConvFLU, Discriminator, FERSNet, SmallClassifier, Transform
from models.multitask import MultiTask
from training.config import FERSNET_RECIPES
from training.device import setup_device
from training.fersnet.engine import (
    counterparts,
    evaluate_fold,
    recognize,
    sequence_accuracy,
    shares_to_balance,
    synthesize,
    synthesize_to_balance,
)
from training.fersnet.guides import (
    Supervision,
    expression_network,
    identity_network,
    supervise,
)
from training.fersnet.learner import FERSNetLearner
from training.fersnet.views import random_blurred_view
from training.optim import learning_rate
from utils.files import UserError

Narrow = partial(FERSNet, classes=7, base=4)
both_sizes = pytest.mark.parametrize("size", [48, 96])


def drawn_faces(subjects=2, shown=range(7), frames=1):
    """Drawn faces of a few subjects, each with the expressions of `shown`."""
    cases = [(s, label) for s in range(subjects) for label in shown for _ in range(frames)]
    people, labels = torch.tensor(cases).T
    images = np.stack([draw_face(label, CLASS_VAD[label], subject) for subject, label in cases])
    return SubjectFaces(
        torch.from_numpy(images), labels, people, people * 7 + labels, tuple("abcdefg"),
        tuple(f"S{number}" for number in range(subjects)), tuple(map(str, cases)), "drawn faces",
    )  # fmt: skip


@pytest.fixture(scope="module")
def runtime():
    return setup_device("cpu", "fp32")


def make_learner(runtime, faces, recipe="default", sharing="selective", **changes):
    torch.manual_seed(0)
    recipe = replace(FERSNET_RECIPES[recipe], sharing=sharing, batch_size=8, **changes)
    network, helpers = Narrow(sharing=sharing), (None, None, None)
    if sharing != "none":
        helpers = Discriminator(7, base=4), SmallClassifier(3, base=4), SmallClassifier(7, base=4)
    return FERSNetLearner(network, helpers, recipe, faces, 0, runtime)


def first_batch(learner):
    return next(learner.batches(learner.plan(0)))


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_leaky_unit_is_its_equations(kernel):
    torch.manual_seed(kernel)
    unit = ConvFLU(3, kernel).double()
    own, other = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 3, 4, 5).double()
    weights, both = unit.state_dict(), torch.cat((own, other), dim=1)
    names = ("reset", "update", "received", "kept")
    assert set(weights) == {f"{name}.weight" for name in names}  # and no bias
    convolve = {
        name: partial(F.conv2d, weight=weights[f"{name}.weight"], padding=kernel // 2)
        for name in names
    }
    r, z = 1 / (1 + (-convolve["reset"](both)).exp()), 1 / (1 + (-convolve["update"](both)).exp())
    candidate = torch.tanh(convolve["received"](r * other) + convolve["kept"](own))
    torch.testing.assert_close(unit(own, other), (1 - z) * own + z * candidate)


@both_sizes
@pytest.mark.parametrize("sharing", ["none", "hard", "selective"])
def test_shapes_and_what_depends_on_what(sharing, size):
    torch.manual_seed(0)
    network = FERSNet(sharing=sharing, classes=6, size=size, base=4)
    faces, target = torch.randn(4, 1, size, size), torch.tensor([0, 5, 1, 1])

    def learns(value):
        network.zero_grad(set_to_none=True)
        value.square().sum().backward()
        parameters = network.named_parameters()
        return {name for name, p in parameters if p.grad is not None and p.grad.abs().sum() > 0}

    logits = network(faces)["classify"]
    assert logits.shape == (4, 6) and "synthesized" not in network(faces)
    recognized = learns(logits)
    assert not any(name.startswith("decoder") for name in recognized)
    if sharing == "none":
        return
    made = network(faces, target)["synthesized"]
    assert made.shape == faces.shape
    drawn = learns(made)
    assert not any(name.startswith(("last", "classifier")) for name in drawn)
    # Recognition and synthesis see the same first blocks or, selectively, both branches.
    parts = ("recognition", "synthesis") if sharing == "selective" else ("stem", "recognition")
    shared = {name for name, _ in network.named_parameters() if name.startswith(parts)}
    assert shared <= recognized and shared <= drawn
    same = network.eval()(faces[:1].expand(2, -1, -1, -1), torch.tensor([0, 1]))["synthesized"]
    assert not torch.allclose(*same, atol=1e-4)


def test_a_transform_is_its_equation_and_begins_with_next_to_nothing():
    torch.manual_seed(0)
    transform = Transform(7, 512)
    bound = 0.1 * np.sqrt(6 / (7 + 1024))  # Xavier's, times 0.1
    assert transform.noise == 0 and (transform.lift.bias == 0).all()
    assert 0.95 * bound < transform.lift.weight.abs().max() <= bound
    transform = Transform(5, 3).double()
    transform.noise.data.fill_(0.7)
    features, expression = torch.randn(4, 3, 6, 5).double(), torch.eye(5).double()[[0, 4, 2, 2]]
    torch.manual_seed(1)
    noise = torch.randn(4, 1, 6, 5).double()  # one map per picture, the same for its channels
    torch.manual_seed(1)
    for result, added in ((transform(features, expression), 0.7 * noise),
                          (transform.eval()(features, expression), 0)):  # fmt: skip
        noisy = features + added
        mean, variance = noisy.mean((2, 3), True), noisy.var((2, 3), unbiased=False, keepdim=True)
        lifted = expression @ transform.lift.weight.T + transform.lift.bias
        scale, shift = lifted[:, :3, None, None], lifted[:, 3:, None, None]
        expected = (noisy - mean) / (variance + 1e-5).sqrt() * scale + shift
        torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-6)


def plain_decoder(weights, bottleneck, skips, expression, deep):
    """The paper's decoder in evaluation mode. weights: its state dict; skips: coarse to fine."""

    def transform(name, features):
        lifted = expression @ weights[f"{name}.lift.weight"].T + weights[f"{name}.lift.bias"]
        scale, shift = lifted[:, :, None, None].chunk(2, dim=1)
        return F.instance_norm(features) * scale + shift

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


@both_sizes
def test_the_decoder_is_its_equations_and_has_the_papers_sizes(size):
    torch.manual_seed(0)
    decoder, deep = FERSNet(size=size, base=64).decoder.double().eval(), size == 96
    pairs = zip((512, 256, 128, 64), (3, 6, 12, 24), strict=True)
    skips = [torch.randn(1, c, s * size // 48, s * size // 48).double() for c, s in pairs]
    bottleneck, expression = torch.randn(1, 512, 3, 3).double(), torch.eye(7).double()[2:3]
    made = decoder(bottleneck, skips[::-1], expression)
    expected = plain_decoder(decoder.state_dict(), bottleneck, skips, expression, deep)
    torch.testing.assert_close(made.double(), expected, atol=1e-5, rtol=1e-5)
    widths = [tuple(each[0].weight.shape[:2]) for each in list(decoder.doublings)[not deep :]]
    assert widths == [(512, 512), (512, 256), (256, 128), (128, 64), (64, 64)][not deep :]
    joined = [refining[0].in_channels for refining in decoder.refinings]
    assert joined == [1024, 512, 256, 128, 64]  # the last is joined with nothing


@both_sizes
def test_the_skips_are_what_the_units_gave_and_the_first_pooling(size):
    torch.manual_seed(0)
    network, seen, units = Narrow(sharing="selective", size=size).eval(), {}, []
    faces = torch.rand(2, 1, size, size)
    network.decoder.register_forward_pre_hook(lambda _, inputs: seen.update(inputs=inputs))
    for exchange in network.exchange:
        exchange.register_forward_hook(lambda _, inputs, outputs: units.append(outputs[1]))
    network.joint.register_forward_hook(lambda _, inputs, outputs: seen.update(joint=outputs))
    network(faces, torch.tensor([1, 2]))
    bottleneck, skips, expression = seen["inputs"]
    assert torch.equal(expression, torch.eye(7)[[1, 2]])
    expected = [F.max_pool2d(network.stem(faces), 2), *units]
    assert len(skips) == 4 and all(map(torch.equal, skips, expected))
    joint = F.max_pool2d(seen["joint"], 2) if size == 96 else seen["joint"]
    assert torch.equal(bottleneck, joint[:, 32:]) and bottleneck.shape == (2, 32, 3, 3)
    # Recognition has batch norms and synthesis instance norms without weights.
    for branch, kind in (
        (network.recognition, "BatchNorm2d"),
        (network.synthesis, "InstanceNorm2d"),
    ):
        names = {type(module).__name__ for module in branch.modules()}
        assert {name for name in names if "Norm" in name} == {kind}


@both_sizes
def test_the_discriminator_is_its_equations(size):
    torch.manual_seed(0)
    discriminator, expression = Discriminator(7, base=4).double(), torch.tensor([0, 3])
    faces = torch.rand(2, 1, size, size).double()
    maps = torch.eye(7).double()[expression][:, :, None, None].expand(-1, -1, size, size)
    weights, x = discriminator.state_dict(), torch.cat((faces, maps), dim=1)
    for layer, first in enumerate((0, 2, 5, 8)):
        x = F.conv2d(x, weights[f"{first}.weight"], weights[f"{first}.bias"], stride=2, padding=1)
        x = F.leaky_relu(F.instance_norm(x) if layer else x, 0.2)
    x = F.pad(x, (1, 0, 1, 0))  # a row above, a column on the left
    expected = F.conv2d(x, weights["12.weight"], weights["12.bias"], padding=1)
    scores = discriminator(faces, expression).double()
    assert scores.shape == (2, 1, size // 16, size // 16)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    layers = [module for module in Discriminator(7) if isinstance(module, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == [64, 128, 256, 512, 1]


# ---------------------------------------------------------------- a step


def reference_losses(learner, network, judge, batch):
    """The losses of one step of the network, and their weighted sum, as the paper has them."""
    recipe, guides = learner.recipe, (learner.identity, learner.expression)
    outputs = network.train()(batch.faces, batch.target_labels)
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    logarithms, made = outputs["classify"].log_softmax(1), outputs["synthesized"]
    pictures = (made, batch.real)
    features = [F.normalize(guides[0].trunk(2 * x - 1).mean((2, 3))) for x in pictures]
    losses = {
        "L1": (made - batch.real).abs()[batch.known].mean(),
        "Identity": (features[0] - features[1]).square().sum(1).mean(),
        "Adversarial": (judge(made, batch.target_labels) - 1).square().mean(),
    }
    if recipe.cycle:
        again = network(made, batch.labels)["synthesized"]
        losses["Cycle"] = (again - batch.faces).square().mean()
    if recipe.expression:
        read = guides[1](torch.cat([random_blurred_view(made) for _ in range(2)])).log_softmax(1)
        targets = batch.target_labels.repeat(2)
        losses["Expression"] = -read[torch.arange(len(read)), targets].mean()
    weights = {"L1": recipe.reconstruction, "Identity": 0.05, "Adversarial": recipe.adversarial,
               "Cycle": recipe.cycle, "Expression": recipe.expression}  # fmt: skip
    total = sum(weights[name] * loss for name, loss in losses.items())
    losses["Loss"] = -logarithms[torch.arange(len(made)), batch.labels].mean()
    total = total + (1 - recipe.label_smoothing) * losses["Loss"]
    losses["total"] = total - recipe.label_smoothing * logarithms.mean()
    return losses, statistics


def reference_step(learner, batch, rate):
    """The states of network and discriminator after one step, and its losses.

    The discriminator learns first, from faces synthesized in evaluation mode.
    """
    network, judge = copy.deepcopy(learner.model), copy.deepcopy(learner.discriminator)
    options = {"lr": rate, "betas": (0.5, 0.999), "weight_decay": 5e-4}
    optimizers = [torch.optim.Adam(each.parameters(), **options) for each in (network, judge)]
    with torch.no_grad():
        made = network.eval()(batch.faces, batch.target_labels)["synthesized"]
    for _ in range(learner.recipe.discriminator_steps):
        real, false = judge(batch.real, batch.real_labels), judge(made, batch.target_labels)
        optimizers[1].zero_grad()
        (((real - 1) ** 2).mean() / 2 + (false**2).mean() / 2).backward()
        optimizers[1].step()
    losses, statistics = reference_losses(learner, network, judge, batch)
    losses["total"].backward()
    optimizers[0].step()
    # The running statistics of batch norms are those of the real faces alone.
    return network.state_dict() | statistics, judge.state_dict(), losses


def assert_equal_but_for_rounding(value, expected, rate):
    """Adam divides a gradient by its own size: of one that is nearly zero, rounding decides."""
    difference = (value - expected).abs()
    is_off = difference > 2e-5 + 1e-3 * expected.abs()
    assert is_off.double().mean() < 1e-3 and difference[is_off].le(2 * rate).all()


@pytest.mark.parametrize("recipe", ["default", "paper"])
@pytest.mark.parametrize("all_known", [True, False])
def test_a_step_is_that_of_the_paper(runtime, recipe, all_known):
    faces = drawn_faces(4, (0, 2, 3, 5))
    if not all_known:  # of the first two people nothing shows how they look otherwise
        faces = faces.select((faces.subjects > 1) | (faces.labels == 0))
    learner = make_learner(runtime, faces, recipe)
    batch, rate = first_batch(learner), learning_rate(learner.recipe, 5, 10)
    assert batch.known.any() and batch.known.all() == all_known
    guide = copy.deepcopy(learner.identity.state_dict())
    torch.manual_seed(1)
    network, judge, losses = reference_step(learner, batch, rate)
    torch.manual_seed(1)
    loss, sums = learner.step(batch, 5, 10)
    metrics = learner.to_dict((sums / 8).tolist())
    for name, value in losses.items():
        found = loss.item() if name == "total" else metrics[name]
        assert found == pytest.approx(value.item(), rel=1e-4), name
    for module, expected in ((learner.model, network), (learner.discriminator, judge)):
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                assert_equal_but_for_rounding(value, expected[name], rate)
    after = learner.identity.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in guide.items())


def test_the_paper_has_its_hyper_parameters():
    recipe = FERSNET_RECIPES["paper"]
    expected = {"epochs": 500, "batch_size": 8, "learning_rate": 1e-4, "weight_decay": 5e-4,
                "reconstruction": 1, "identity": 0.05, "adversarial": 0.3, "cycle": 0.5,
                "discriminator_steps": 3, "expression": 0, "label_smoothing": 0, "agreed": False,
                "averaging": 0, "folds": "by-name"}  # fmt: skip
    assert {name: getattr(recipe, name) for name in expected} == expected
    rates = [learning_rate(recipe, epoch * 10, 10) for epoch in (0, 149, 150, 399, 400, 499)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])


def test_every_kernel_learns_in_bf16(runtime):
    learner = make_learner(replace(runtime, precision="bf16"), drawn_faces())
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    learner.step(first_batch(learner), 0, 10)
    after = dict(learner.model.named_parameters())
    assert not any(torch.equal(p, after[name]) for name, p in before.items() if p.ndim == 4)


def test_a_batch_has_the_target_cut_like_the_face(runtime):
    """The target where there is one, else the face itself, each with its own expression."""
    faces = drawn_faces(3, (0, 2, 3, 5), frames=3)
    faces = faces.select((faces.subjects > 1) | (faces.labels == 0))
    learner = make_learner(runtime, faces)
    plan, seen = learner.plan(0), []
    for step, batch in enumerate(learner.batches(plan)):
        parts = {name: values.tolist() for name, values in plan.batch(step).items()}
        for place, (source, target) in enumerate(zip(parts["order"], parts["target"], strict=True)):
            other = target if target >= 0 else source
            assert batch.known[place] == (target >= 0)
            assert batch.real_labels[place] == faces.labels[other]
            assert batch.target_labels[place] != faces.labels[source] == batch.labels[place]
            assert target < 0 or batch.target_labels[place] == faces.labels[target]
            top, left = parts["top"][place] + 4, parts["left"][place] + 4
            for pictures, number in ((batch.faces, source), (batch.real, other)):
                padded = np.pad(faces.images[number].numpy(), 4, mode="edge")
                cut = padded[top : top + 48, left : left + 48]
                cut = cut[:, ::-1] if parts["flip"][place] else cut
                np.testing.assert_allclose(pictures[place, 0].numpy(), cut / 255, atol=1e-6)
            seen.append(target >= 0)
    assert 3 <= sum(seen) <= len(seen) - 3


# ---------------------------------------------------------------- around it


def test_the_frames_of_a_sequence_vote():
    generator, outcomes = torch.Generator().manual_seed(3), set()
    sequences = torch.tensor([5, 5, 5, 2, 2, 2, 9, 9, 0, 7, 7, 7])
    labels = torch.tensor([1, 1, 1, 0, 0, 0, 2, 2, 3, 3, 3, 3])
    for _ in range(200):
        logits, right = 3 * torch.randn(12, 4, generator=generator), []
        for number in set(sequences.tolist()):
            mine = sequences == number
            votes, shares = logits[mine].argmax(1).tolist(), logits[mine].softmax(1).sum(0)
            chosen = max(votes, key=lambda x: (votes.count(x), shares[x].item()))
            right.append(chosen == labels[mine][0])
        outcomes.add(sum(right))
        accuracy = sequence_accuracy(logits, labels, sequences)
        assert accuracy == pytest.approx(100 * np.mean(right))
    assert len(outcomes) >= 4


@pytest.mark.parametrize("fixed", [True, False])
def test_fine_tuning_keeps_the_statistics_of_real_faces(runtime, fixed):
    torch.manual_seed(0)
    faces, network = drawn_faces(), Narrow()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    how = Supervision(2, fixed_norms=fixed)
    epochs = supervise(network, faces.images, faces.labels, how, 0, runtime)
    assert [tuned.training for tuned in epochs] == [False, False]
    after = network.state_dict()
    for name, value in before.items():
        if "running" in name:
            assert torch.equal(value, after[name]) == fixed, name
    for name in ("stem.1.weight", "classifier.weight"):
        assert not torch.equal(before[name], after[name])


@both_sizes
def test_views_are_blurred_and_shifted_pictures_with_noise(size):
    pictures = torch.rand(3, 1, size, size, dtype=torch.float64)
    options = {"mode": "mirror", "truncate": 3.0}
    for picture, view in zip(pictures[:, 0], blurred(pictures)[:, 0], strict=True):
        expected = gaussian_filter(picture.numpy(), size / 48, **options)
        np.testing.assert_allclose(view.numpy(), expected, atol=1e-5)
    for seed in range(5):
        torch.manual_seed(seed)
        found = random_blurred_view(pictures)
        torch.manual_seed(seed)
        sigma, noise = (torch.rand(2) * torch.tensor([1.5, 0.1])).tolist()
        top, left = torch.randint(7, (2,)).tolist()
        sigma = max(sigma, 0.1) * size / 48
        reach = max(1, round(3 * sigma))
        for picture, view, grain in zip(pictures, found, torch.randn(pictures.shape), strict=True):
            blurry = gaussian_filter(picture[0].numpy(), sigma, mode="mirror", radius=reach)
            expected = np.pad(blurry, 3, mode="edge")[top : top + size, left : left + size]
            expected = expected + noise * grain[0].numpy()
            np.testing.assert_allclose(view[0].numpy(), expected, atol=1e-5)


def test_guides_compute_in_float32_under_autocast():
    torch.manual_seed(0)
    guide, faces = SmallClassifier(5, base=8).eval(), torch.rand(4, 1, 48, 48)
    with torch.no_grad():
        expected = guide.embed(faces), guide(faces)
        with torch.autocast("cpu", torch.bfloat16):
            found = guide.embed(faces), guide(faces)
    assert all(map(torch.equal, expected, found))


def test_counterparts_against_a_search():
    faces = drawn_faces(3, (0, 2, 5), frames=2)
    faces = faces.select(torch.tensor([0, 1, 3, 4, 6, 7, 9, 12, 14, 17]))
    found = counterparts(faces)
    for number in range(len(faces)):
        for label in range(7):
            same = (faces.subjects == faces.subjects[number]) & (faces.labels == label)
            rows = [] if label == faces.labels[number] else same.nonzero()[:, 0].tolist()
            assert found[number, label] == max(rows, default=-1)


@pytest.mark.parametrize("present", [(5, 1, 3), (9, 0, 9), (2, 2)])
@pytest.mark.parametrize("count", [0, 4, 100])
def test_the_smallest_classes_are_filled_up(present, count):
    shares = shares_to_balance(torch.tensor(present), count)
    assert sum(shares) == count and min(shares) >= 0
    after = [a + b for a, b in zip(present, shares, strict=True)]
    highest = max((a for a, b in zip(after, shares, strict=True) if b), default=0)
    assert highest <= min(after) + 1


def test_faces_synthesized_to_balance_come_from_other_expressions(runtime):
    faces = drawn_faces(3).select(torch.arange(12))
    images, labels = synthesize_to_balance(
        lambda pictures, wanted: {"synthesized": pictures}, faces, 9, 0, runtime
    )
    counts = torch.bincount(torch.cat((faces.labels, labels)), minlength=7)
    assert counts.tolist() == [3] * 7
    for picture, wanted in zip(images, labels, strict=True):
        (number,) = [n for n in range(len(faces)) if torch.equal(faces.images[n], picture)]
        assert faces.labels[number] != wanted


def test_guides_tell_people_and_expressions_apart(runtime, monkeypatch):
    monkeypatch.setattr("training.fersnet.guides.GUIDE_EPOCHS", 90)
    faces = drawn_faces(16)
    few = faces.select(faces.subjects < 4)
    cases = (
        (identity_network, few, few.labels < 5, few.subjects, 0.75),  # one in four by chance
        (expression_network, faces, faces.subjects < 10, faces.labels, 0.3),  # one in seven
    )
    for train, shown, known, truth, least in cases:
        network = train(shown.select(known), 0, runtime)
        pictures = shown.images[~known][:, None].float() / 255
        with torch.no_grad():
            right = network(pictures).argmax(1) == truth[~known]
            lengths = network.embed(pictures).norm(dim=1)
        assert right.double().mean() >= least
        assert lengths.allclose(torch.ones(len(pictures)))


def test_synthesized_and_unchanged_faces_are_compared_with_the_real_ones(runtime):
    torch.manual_seed(0)
    faces, network = drawn_faces(2, (0, 3, 5)), Narrow(sharing="selective").eval()
    metrics, known = evaluate_fold(network, faces, runtime), {}
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = [(a, b) for a in range(6) for b in range(6) if a != b and a // 3 == b // 3]
    for source, wanted in pairs:
        face, target = faces.images[source : source + 1], faces.labels[wanted : wanted + 1]
        made = synthesize(network, face, target, runtime)[0]
        for prefix, picture in (("", made), ("Copy", face[0])):
            x, y = picture.numpy() / 255, faces.images[wanted].numpy() / 255
            known.setdefault(f"{prefix}L1", []).append(np.abs(x - y).mean())
            known.setdefault(f"{prefix}SSIM", []).append(scikit_ssim(x, y, data_range=1, **options))
    for name, values in known.items():
        assert metrics[name] == pytest.approx(np.mean(values), abs=1e-5), name
    logits = recognize(network, faces.images, runtime)
    assert metrics["SeqAcc"] == sequence_accuracy(logits, faces.labels, faces.sequences)
    alone = evaluate_fold(network, drawn_faces(3, (2,)), runtime)  # nobody has a second face
    assert alone["L1"] is None and alone["SSIM"] is None and sum(map(sum, alone["confusion"])) == 3
    assert "L1" not in evaluate_fold(Narrow(sharing="none").eval(), faces, runtime)


# ---------------------------------------------------------------- pre-training


def saved(path, network):
    checkpoint.save(path, {"net": network.state_dict(), "model": "FERSNet"})
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
    wide, target = saved(tmp_path / "wide.t7", FERSNet(sharing="none", base=8)), Narrow()
    other = saved(tmp_path / "other.t7", MultiTask(base=4))
    before = {name: value.clone() for name, value in target.state_dict().items()}
    for path in (wide, other):
        with pytest.raises(UserError, match=path.name):
            checkpoint.load_pretrained(target, path)
    after = target.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
