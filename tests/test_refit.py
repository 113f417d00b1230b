"""Heads that are fitted anew: against scikit-learn, closed forms, and from the command line on a few faces."""

import os
import shutil

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from data.faces import Faces
from inference import refit
from inference.ratings import Block
from models import checkpoint
from models.multitask import RegressionHead
from tests.samples import SPLIT_FILES, write_csv
from tests.test_visualize import PREPROCESSING, make_model
from utils.files import UserError
from utils.tasks import TASKS


@pytest.fixture
def features():
    return torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) + 1


def test_a_head_finds_the_line_that_made_its_targets(features):
    weights = torch.linspace(-1, 1, 16)
    target = 2 * torch.tanh((features * 16**-0.5 @ weights + 0.3) / 2)
    head = RegressionHead(16, 1)
    refit.fit_head(head, features, target)
    assert torch.allclose(head(features)[:, 0], target, atol=0.02)


def test_a_head_is_as_good_as_a_regression_where_there_is_noise(features):
    noise = torch.randn(500, generator=torch.Generator().manual_seed(1))
    target = (0.3 * features[:, 0] - 0.2 * features[:, 1] + 0.3 * noise).clamp(-2, 2)
    head = RegressionHead(16, 1)
    refit.fit_head(head, features[:400], target[:400])
    found = head(features[400:])[:, 0].detach().numpy()
    line = LinearRegression().fit(features[:400].numpy(), target[:400].numpy()).predict(features[400:].numpy())
    agreement = [np.corrcoef(values, target[400:].numpy())[0, 1] for values in (found, line)]
    assert agreement[0] > agreement[1] - 0.02


@pytest.mark.parametrize("spread", [0.2, 0.9])
def test_the_spread_is_set_about_what_the_mean_of_the_features_gives(features, spread):
    head = RegressionHead(16, 1)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(2))
    middle = head(features.mean(dim=0, keepdim=True)).item()
    order = head(features)[:, 0].argsort()
    factor = refit.set_spread(head, features, spread)
    assert head(features).std().item() == pytest.approx(spread, rel=1e-3)
    assert head(features.mean(dim=0, keepdim=True)).item() == pytest.approx(middle, abs=1e-4)
    assert torch.equal(head(features)[:, 0].argsort(), order) and factor > 0


def test_the_excess_is_that_of_rated_training_faces():
    vad = torch.linspace(-1, 1, 60).view(20, 3)
    training = Faces(torch.zeros(20, 48, 48, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64), vad)
    rows = torch.tensor([3, 17, 8, 0])
    blocks = [Block("", "Training", rows, 1.5 * vad[rows] + 0.2), Block("", "PublicTest", rows, 9 * vad[rows])]
    assert refit.excess(blocks, training, 1) == pytest.approx(1.5)
    assert refit.excess(blocks[1:], training, 1) == 1 == refit.excess([], training, 1)


@pytest.mark.parametrize(("rated", "same"), [([3], None), ([3, 5], "ratings"), ([3, 5], "annotations")])
def test_what_does_not_vary_has_no_spread(rated, same):
    vad = torch.full((20, 3), 0.3) if same == "annotations" else torch.linspace(-1, 1, 60).view(20, 3)
    ratings = torch.full((len(rated), 3), 0.7) if same == "ratings" else torch.linspace(0, 1, 6).view(2, 3)
    training = Faces(torch.zeros(20, 48, 48, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64), vad)
    block = Block("", "Training", torch.tensor(rated), ratings[: len(rated)])
    with pytest.raises(UserError, match=f"The {same or 'ratings'} .* are all the same"):
        refit.excess([block], training, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The checkpoint of a network, and a data folder of a few random faces."""
    folder, rng = tmp_path_factory.mktemp("refit"), np.random.default_rng(0)
    description = {"dataset": "FER2013", "model": "Narrow", "preprocessing": PREPROCESSING}
    results = {"epoch": 3, "PublicTest": {"classify": {"Acc": 50.0}, "regressV": {"CCC": 0.4}}}
    checkpoint.save(folder / "one.t7", checkpoint.task_checkpoint(make_model(), "classify", 3, results, description))
    (folder / "data").mkdir()
    for name in SPLIT_FILES.values():
        faces = rng.integers(0, 256, (28, 48, 48), dtype=np.uint8)
        write_csv(folder / "data" / name, faces, list(range(7)) * 4, rng.uniform(-2, 2, (28, 3)).tolist())
    return folder


@pytest.mark.parametrize("split", ["Training", "PublicTest"])
def test_annotations_that_do_not_vary_are_told(folder, tmp_path, split):
    shutil.copytree(folder / "data", tmp_path / "data", ignore=shutil.ignore_patterns("*.h5"))
    faces = np.random.default_rng(1).integers(0, 256, (28, 48, 48), dtype=np.uint8)
    write_csv(tmp_path / "data" / SPLIT_FILES[split], faces, list(range(7)) * 4, [(1, 0.3, 1)] * 28)
    with pytest.raises(UserError, match=f"The annotations of {split} faces are all the same"):
        run(folder / "one.t7", tmp_path / "new", "--data", tmp_path / "data", "--device", "cpu")
    assert not (tmp_path / "new").exists()


def run(*arguments):
    return refit.main(refit.build_parser().parse_args([str(argument) for argument in arguments]))


def test_from_the_command_line_only_the_heads_change(folder, tmp_path, capsys):
    before, _ = checkpoint.load_model(folder / "one.t7")
    assert run(folder / "one.t7", tmp_path, "--data", folder / "data", "--device", "cpu") == 0
    after, content = checkpoint.load_model(tmp_path / "one.t7")
    changed = {key for key, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[key])}
    heads = {f"heads.{task.name}.{part}" for task in TASKS.values() if task.dimension is not None
             for part in ("weight", "bias")}  # fmt: skip
    assert changed == heads
    assert content["results"] == {"epoch": 3, "PublicTest": {"classify": {"Acc": 50.0}}}
    assert content["temperature"] > 1.5  # a network that was never trained knows nothing
    assert "heads fitted, then multiplied: regressV" in capsys.readouterr().out
    with pytest.raises(UserError, match="is there already"):
        run(folder / "one.t7", tmp_path, "--data", folder / "data")


def test_of_data_that_cannot_be_written_to_the_faces_go_beside_the_network(folder, tmp_path, monkeypatch):
    data = shutil.copytree(folder / "data", tmp_path / "data", ignore=shutil.ignore_patterns("data*"))
    before = sorted(data.iterdir())
    access = os.access
    monkeypatch.setattr(os, "access", lambda place, *rest, **options: place != data and access(place, *rest, **options))
    assert run(folder / "one.t7", tmp_path / "new", "--data", data, "--device", "cpu") == 0
    assert sorted(data.iterdir()) == before
    assert {"data.h5", "one.t7"} <= {path.name for path in (tmp_path / "new").iterdir()}


def test_a_network_that_only_classifies_gets_heads(folder, tmp_path):
    description = {"dataset": "FER2013", "model": "Narrow", "preprocessing": PREPROCESSING}
    content = checkpoint.task_checkpoint(make_model(tasks=("classify",)), "classify", 0, {}, description)
    checkpoint.save(tmp_path / "one.t7", content)
    assert run(tmp_path / "one.t7", tmp_path / "new", "--data", folder / "data", "--device", "cpu") == 0
    model, _ = checkpoint.load_model(tmp_path / "new" / "one.t7")
    assert model.tasks == tuple(TASKS)


def test_what_cannot_be_fitted_is_said(folder, tmp_path):
    description = {"dataset": "FER2013", "model": "Narrow", "preprocessing": PREPROCESSING}
    content = checkpoint.task_checkpoint(make_model(tasks=("regressV",)), "regressV", 0, {}, description)
    checkpoint.save(tmp_path / "one.t7", content)
    with pytest.raises(UserError, match="classify and share a trunk"):
        run(tmp_path / "one.t7", tmp_path / "new", "--data", folder / "data")
    lines = ["emotion,pixels,Usage"] + [
        f"3,{' '.join(['7'] * 2304)},{usage}" for usage in ("Training", "PublicTest", "PrivateTest")
    ]
    (tmp_path / "fer2013.csv").write_text("\n".join(lines))
    (tmp_path / "ratings.csv").write_text("index,Valence,Arousal,Dominance\n0,1,0,-1\n3,0,1,1\n")
    flags = ("--data", folder / "data", "--ratings", tmp_path / "ratings.csv")
    with pytest.raises(UserError, match=r"ratings\.csv rates no training faces: say Training in its column split"):
        run(folder / "one.t7", tmp_path / "new", *flags)
    with pytest.raises(UserError, match="no valence, arousal and dominance"):
        run(folder / "one.t7", tmp_path / "new", "--data", tmp_path / "fer2013.csv")
