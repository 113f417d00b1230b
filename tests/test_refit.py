"""inference.refit: heads fitted to other annotations."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from data.fer2013 import load as fer2013
from inference import refit
from models import checkpoint
from models.multitask import RegressionHead
from tests.harness import PREPROCESSING, make_model, run_module, save_checkpoints
from tests.samples import SPLIT_FILES, plain_table, write_csv
from training.device import select_device
from utils.files import UserError
from utils.tasks import TASKS

NAME = TASKS["classify"].checkpoint("PublicTest")


@pytest.fixture
def features():
    return torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) + 1


def test_a_head_is_as_good_as_a_regression(features):
    noise = torch.randn(500, generator=torch.Generator().manual_seed(1))
    target = (0.3 * features[:, 0] - 0.2 * features[:, 1] + 0.3 * noise).clamp(-2, 2)
    head = RegressionHead(16, 1)
    refit.fit_head(head, features[:400], target[:400])
    found = head(features[400:])[:, 0].detach().numpy()
    line = LinearRegression().fit(features[:400].numpy(), target[:400].numpy())
    expected = line.predict(features[400:].numpy())
    correlations = [np.corrcoef(values, target[400:].numpy())[0, 1] for values in (found, expected)]
    assert correlations[0] > correlations[1] - 0.02


@pytest.mark.parametrize("spread", [0.2, 0.9])
def test_the_spread_is_set_about_what_the_mean_of_the_features_gives(features, spread):
    head = RegressionHead(16, 1)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(2))
    mean = features.mean(dim=0, keepdim=True)
    middle, order = head(mean).item(), head(features)[:, 0].argsort()
    refit.set_spread(head, features, spread)
    assert head(features).std().item() == pytest.approx(spread, rel=1e-3)
    assert head(mean).item() == pytest.approx(middle, abs=1e-4)
    assert torch.equal(head(features)[:, 0].argsort(), order)


def write_data(folder, constant=None):
    """28 random faces a split; those of the split `constant` all have the same V/A/D."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, name in SPLIT_FILES.items():
        faces = rng.integers(0, 256, (28, 48, 48), dtype=np.uint8)
        vad = [(1, 0.3, 1)] * 28 if split == constant else rng.uniform(-2, 2, (28, 3)).tolist()
        write_csv(folder / name, faces, list(range(7)) * 4, vad)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The checkpoint of a network that only classifies, and data."""
    folder = tmp_path_factory.mktemp("refit")
    save_checkpoints(folder, make_model(tasks=("classify",)), ["classify"], "PublicTest")
    write_data(folder / "data")
    return folder


def run(folder, out, *flags):
    asked = (
        folder / NAME,
        "--out",
        out,
        "--data",
        folder / "data",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        *flags,
    )
    return run_module(refit, *asked)


def public_spreads(path, splits):
    """Standard deviations of V, A and D of public faces, of the averaged features."""
    model, content = checkpoint.load_model(path)
    faces, runtime = {"PublicTest": splits["PublicTest"]}, select_device("cpu", "fp32")
    found = refit.predict_features(model, faces, content["preprocessing"], runtime)
    with torch.no_grad():
        values = [model.heads[name](found["PublicTest"]).std() for name in list(TASKS)[1:]]
    return torch.stack(values).numpy()


def test_heads_are_fitted_and_the_rest_stays(folder, tmp_path):
    plain, wide = tmp_path / "plain.t7", tmp_path / "wide.t7"
    assert run(folder, plain) == 0
    assert run(folder, wide, "--spread", 0.5, 1, 1.1) == 0
    before, _ = checkpoint.load_model(folder / NAME)
    after, content = checkpoint.load_model(plain)
    state = after.state_dict()
    assert after.tasks == tuple(TASKS) and content["preprocessing"] == PREPROCESSING
    assert all(torch.equal(value, state[name]) for name, value in before.state_dict().items())
    assert content["temperature"] > 1.5  # an untrained network knows nothing
    splits = fer2013.load(folder / "data").splits
    wanted = splits["PublicTest"].vad.std(dim=0).numpy()
    assert public_spreads(plain, splits) == pytest.approx(wanted, rel=0.01)
    assert public_spreads(wide, splits) == pytest.approx(wanted * (0.5, 1, 1.1), rel=0.01)


@pytest.mark.parametrize("split", ["Training", "PublicTest"])
def test_annotations_that_do_not_vary_are_refused(folder, tmp_path, split):
    data = write_data(tmp_path / "data", constant=split)
    with pytest.raises(UserError, match=f"{split} faces are all the same"):
        run(folder, tmp_path / "new.t7", "--data", data)
    assert not (tmp_path / "new.t7").exists()


def test_what_cannot_be_fitted_is_refused(folder, tmp_path, capsys):
    out = tmp_path / "new.t7"
    (tmp_path / "fer2013.csv").write_bytes(plain_table())
    with pytest.raises(UserError, match="valence"):
        run(folder, out, "--data", tmp_path / "fer2013.csv")
    save_checkpoints(tmp_path, make_model(tasks=("regressV",)), ["regressV"], "PublicTest")
    regressor = tmp_path / TASKS["regressV"].checkpoint("PublicTest")
    with pytest.raises(UserError, match="only networks that classify"):
        run_module(refit, regressor, "--out", out, "--data", folder / "data")
    out.write_bytes(b"mine")
    with pytest.raises(SystemExit) as stopped:
        run(folder, out)
    assert stopped.value.code == 2 and str(out) in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
