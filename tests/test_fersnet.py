"""FERSNet: its equations, who learns from what, and the figures around it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity as scikit_ssim

from data.demo.drawing import CLASS_VAD, draw_face
from data.subjects.trees import SubjectFaces
from models import checkpoint
from models.fersnet import ConvFLU, Discriminator, FERSNet, SmallClassifier
from models.multitask import MultiTask
from training.engine import train_one_epoch
from training.fersnet.engine import (
    counterparts,
    evaluate_fold,
    recognize,
    shares_to_balance,
    synthesize,
    synthesize_to_balance,
)
from training.fersnet.guides import expression_network, identity_network
from training.fersnet.learner import FERSNetLearner, frozen, masked_l1, without_running_statistics
from training.recipes import FERSNetRecipe
from training.runtime import decide
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
        names,
        tuple(f"S{number}" for number in range(subjects)),
        tuple(map(str, range(len(images)))),
        "drawn faces",
    )


@pytest.fixture(scope="module")
def runtime():
    return decide("cpu", "fp32", "off")


def first_batch(learner, faces):
    """The first `PairBatch` of an epoch."""
    return next(learner.batches(faces, learner.plan(faces, 0, 0)))


def make_learner(runtime, sharing="selective", **changes):
    torch.manual_seed(0)
    recipe = replace(FERSNetRecipe(), sharing=sharing, batch_size=8, **changes)
    draws = sharing != "none"
    return FERSNetLearner(
        Narrow(sharing=sharing),
        Discriminator(7, base=4) if draws else None,
        SmallClassifier(3, base=4) if draws else None,
        SmallClassifier(7, base=4).eval() if draws else None,
        recipe,
        runtime,
    )


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
    result, reset, update = unit(own, other)
    weights = {name: value.detach().numpy() for name, value in unit.state_dict().items()}
    assert set(weights) == {f"{name}.weight" for name in ("reset", "update", "received", "kept")}  # and no bias
    for x, y, r, z, out in zip(own, other, reset, update, result, strict=True):
        x, y = x.numpy(), y.numpy()
        both = np.concatenate((x, y))
        expected_r = 1 / (1 + np.exp(-plain_convolution(weights["reset.weight"], both)))
        expected_z = 1 / (1 + np.exp(-plain_convolution(weights["update.weight"], both)))
        candidate = np.tanh(
            plain_convolution(weights["received.weight"], expected_r * y) + plain_convolution(weights["kept.weight"], x)
        )
        np.testing.assert_allclose(r.detach().numpy(), expected_r, atol=1e-12)
        np.testing.assert_allclose(z.detach().numpy(), expected_z, atol=1e-12)
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
        assert outputs["synthesized"].abs().max() <= 1
        assert "synthesized" not in network(faces)
    assert ("gates" in outputs) == (sharing == "selective")
    for stage in outputs.get("gates", ()):
        for gates in stage.values():
            assert all(0 < gate.min() and gate.max() < 1 for gate in gates)


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


def test_the_discriminator_looks_at_patches_and_at_the_expression():
    torch.manual_seed(0)
    discriminator = Discriminator(7, base=4)
    face = torch.randn(2, 1, 48, 48)
    scores = discriminator(face, torch.tensor([0, 0]))
    assert scores.shape == (2, 1, 4, 4)
    assert not torch.allclose(scores, discriminator(face, torch.tensor([1, 1])))
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
    learner = make_learner(runtime, unpaired=0.0)
    batch = first_batch(learner, faces)
    drawn = learner.model(batch.faces, batch.target_labels)["synthesized"].detach()
    step = partial(learner._discriminator_step, batch, drawn)
    assert not changed_by(learner.model, step)
    parameters = {name for name, _ in learner.discriminator.named_parameters()}
    assert changed_by(learner.discriminator, step) >= {name for name in parameters if name.endswith("weight")}

    losses = learner._synthesis_losses(batch, learner.model(batch.faces, batch.target_labels)["synthesized"])
    learner._weighted(losses).backward()
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


def test_the_losses_are_their_formulas(runtime):
    faces = drawn_faces()
    learner = make_learner(runtime, discriminator_steps=0, unpaired=0.0)
    batch = first_batch(learner, faces)
    learner.model.train()
    with torch.no_grad():
        outputs = learner.model(batch.faces, batch.target_labels)
        again = learner.model(outputs["synthesized"], batch.labels)
        scores = learner.discriminator(outputs["synthesized"], batch.target_labels).numpy()
        features = [
            F.normalize(learner.identity.trunk(x).mean((2, 3))).numpy() for x in (outputs["synthesized"], batch.faces)
        ]
        read = learner.expression(outputs["synthesized"]).softmax(1).numpy()
    probabilities = outputs["classify"].softmax(1).numpy()
    expected = {
        "Loss": -np.mean([np.log(probabilities[i, label]) for i, label in enumerate(batch.labels)]),
        "L1": np.abs((outputs["synthesized"] - batch.targets).numpy()).mean(),
        "Identity": ((features[0] - features[1]) ** 2).sum(1).mean(),
        "Expression": -np.mean([np.log(read[i, label]) for i, label in enumerate(batch.target_labels)]),
        "Adversarial": ((scores - 1) ** 2).mean(),
        "Cycle": ((again["synthesized"] - batch.faces).numpy() ** 2).mean(),
    }
    assert batch.known.all()
    loss, sums = learner.step(batch, 0, 10)
    figures = learner.as_figures((sums / 8).tolist())
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-4), name
    weights = {"Loss": 1, "L1": 10, "Identity": 0.05, "Expression": 0.3, "Adversarial": 0.3, "Cycle": 0.5}
    assert loss.item() == pytest.approx(sum(weights[name] * expected[name] for name in weights), rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_loss_of_the_discriminator_is_its_formula(runtime, share):
    faces = drawn_faces()
    learner = make_learner(runtime, mismatched=share)
    batch = first_batch(learner, faces)
    drawn = torch.rand_like(batch.faces)
    cases = ((batch.faces, batch.labels), (drawn, batch.target_labels), (batch.faces, batch.target_labels))
    with torch.no_grad():
        real, false, wrong = (learner.discriminator(*case).double().numpy() for case in cases)
    expected = ((real - 1) ** 2).mean() + (1 - share) * (false**2).mean() + share * (wrong**2).mean()
    assert learner._discriminator_step(batch, drawn).item() == pytest.approx(expected / 2, rel=1e-5)
    assert (batch.labels != batch.target_labels).all()


def test_a_frozen_network_thaws():
    network = torch.nn.Linear(2, 2)
    with frozen(network):
        assert not any(p.requires_grad for p in network.parameters())
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.slow
def test_eight_faces_are_learnt_by_heart(runtime):
    faces = drawn_faces(2, (0, 3, 5, 6))
    torch.manual_seed(0)
    recipe = replace(
        FERSNetRecipe(),
        epochs=150,
        batch_size=8,
        learning_rate=5e-3,
        averaging=0.9,
        adversarial=0.0,
        cycle=0.0,
        identity=0.0,
        expression=0.0,
        discriminator_steps=0,
        unpaired=0.0,
    )
    learner = FERSNetLearner(
        FERSNet(sharing="selective", base=8), Discriminator(7, 8), *map(SmallClassifier, (2, 7)), recipe, runtime
    )
    for epoch in range(recipe.epochs):
        plan = learner.plan(faces, 0, epoch)
        centre = torch.zeros_like(plan.top)
        plan = replace(plan, top=centre, left=centre, flip=torch.zeros_like(plan.flip))
        train_one_epoch(learner, faces, plan, epoch, None)
    network = learner.averaged.eval()
    assert (recognize(network, faces.images, runtime).argmax(1) == faces.labels).all()
    figures = evaluate_fold(network, faces, runtime)
    assert figures["SSIM"] > 0.8 > figures["CopySSIM"]
    # Much nearer to the wanted face than the face that it was drawn from.
    assert figures["L1"] < 0.75 * figures["CopyL1"]


# ---------------------------------------------------------------- around it


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
    monkeypatch.setattr("training.fersnet.guides.GUIDE_EPOCHS", 30)
    faces = drawn_faces(4)
    known, unknown = faces.select(faces.labels < 5), faces.select(faces.labels >= 5)
    network = identity_network(known, 0, runtime)
    pictures = (unknown.images[:, None].float() / 127.5) - 1
    with torch.no_grad():
        told = network(pictures).argmax(1)
        assert network.embed(pictures).norm(dim=1).allclose(torch.ones(len(unknown)))
    assert (told == unknown.subjects).double().mean() >= 0.75  # one in four by chance


def test_the_expression_network_tells_expressions_apart(runtime, monkeypatch):
    monkeypatch.setattr("training.fersnet.guides.GUIDE_EPOCHS", 60)
    faces = drawn_faces(12)
    known, unknown = faces.select(faces.subjects < 10), faces.select(faces.subjects >= 10)
    network = expression_network(known, 0, runtime)
    with torch.no_grad():
        told = network((unknown.images[:, None].float() / 127.5) - 1).argmax(1)
    assert (told == unknown.labels).double().mean() >= 0.7  # one in seven by chance


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
        assert figures[name] == pytest.approx(np.mean(values), abs=1e-6), name


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
    with pytest.raises(UserError, match="other widths"):
        checkpoint.load_pretrained(Narrow(sharing="none"), saved(tmp_path / "wide.t7", wide))
    with pytest.raises(UserError, match="holds no FERSNet"):
        checkpoint.load_pretrained(wide, saved(tmp_path / "other.t7", MultiTask(base=4)))
