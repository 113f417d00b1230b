"""The training program as a whole: equal runs, interruption, resuming, records."""

import csv
import math
import os
import shutil
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import mainpro_FER
import training.run
from data import DATASETS
from data.batches import center_crop, normalise
from inference import checkpoints
from models import checkpoint
from tests.conftest import run_program
from tests.programs import enter
from tests.runs import (
    FLAGS,
    MODELS_SAVED,
    RUN_NAME,
    TABLES,
    assert_same_run,
    assert_same_tables,
    run,
)
from training.device import setup_device
from training.engine import evaluate
from training.run import Run, RunFolder
from utils.files import UserError
from utils.tasks import TASKS


class StopAfter:
    """Stands in for the signal handler: asks to stop when it has been consulted `count` times."""

    def __init__(self, count):
        self.left = count

    def __call__(self):
        self.left -= 1
        return self.left < 0

    def at_once(self):
        return nullcontext()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


@pytest.fixture
def interrupted(monkeypatch):
    """A function that runs the program until it was asked `count` times whether to stop."""

    def start(count, out, *flags):
        with monkeypatch.context() as patch:
            patch.setattr(mainpro_FER, "StopRequest", lambda: StopAfter(count))
            assert run_program(out, *flags) == 130
        torch.manual_seed(1234)  # nothing may depend on the state the process happens to be in

    return start


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    assert run(out) == 0
    return out


def read_table(path):
    with open(path, newline="") as table:
        return list(csv.DictReader(table))


# ---------------------------------------------------------------- records


def test_it_writes_every_file(finished):
    for name in [*TABLES, "data.txt", "AccProcess.xlsx", "AccProcess.png", "run.log"]:
        assert (finished / name).stat().st_size > 0
    saved = {path.name for path in (finished / RUN_NAME).iterdir()}
    assert saved == {
        *MODELS_SAVED,
        "last.t7",
        "PublicTest_confusion.png",
        "PrivateTest_confusion.png",
    }
    for name in TABLES:
        rows = read_table(finished / name)
        assert [row["Epoch"] for row in rows] == ["0", "1"]
        assert all(math.isfinite(float(cell)) for row in rows for cell in row.values())


def test_best_checkpoints_load_safely_and_give_the_recorded_results(finished):
    faces = DATASETS["Demo"](None, False, 24).splits["PrivateTest"]
    runtime, written = setup_device("cpu", "fp32"), {}
    for task in TASKS.values():
        path = finished / RUN_NAME / task.checkpoint("PublicTest")
        model, content = checkpoint.load_model(path)
        assert task.name in content["tasks"] and content["dataset"] == "Demo"
        assert content["constraint_table"].shape == (7, 3, 3)
        epoch, results = content["epoch"], content["results"]
        row = read_table(finished / f"AccProcess_{task.name}.csv")[epoch]
        metric = task.rules.decisive
        expected = results["PublicTest"][task.name][metric]
        assert float(row[f"Pubtest{metric}{task.letter}"]) == pytest.approx(expected, abs=1e-3)
        pixels = content["preprocessing"]
        network = runtime.for_inference(model)
        found = evaluate(network, faces, pixels, runtime, content["evaluation"])[task.name]
        for metric, value in results["PrivateTest"][task.name].items():
            expected = value if metric == "confusion" else pytest.approx(value, abs=1e-5)
            assert found[metric] == expected, (task.name, metric)
        written.setdefault(epoch, set()).add(path.stat().st_ino)
    # A network of several tasks is written once; its other names are links.
    assert all(len(nodes) == 1 for nodes in written.values())


def test_the_same_seed_gives_the_same_run_also_without_links(finished, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert run(tmp_path / "same") == 0
    assert_same_run(finished, tmp_path / "same")
    assert run(tmp_path / "other", "--seed", "1", "--epochs", "1") == 0
    assert read_table(tmp_path / "other" / TABLES[0])[0] != read_table(finished / TABLES[0])[0]


def test_a_new_run_moves_the_earlier_one_aside_and_released_networks_stay(tmp_path, capsys):
    released = ["released.t7", "photographs.t7", "README.md", "photographs.png", "run/data.txt"]
    for name in released:
        (tmp_path / RUN_NAME / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / RUN_NAME / name).write_text("of another run")
    flags = "--epochs", "1", "--tasks", "classify"
    assert run(tmp_path, *flags) == 0
    old = (tmp_path / TABLES[0]).read_bytes()
    assert run(tmp_path, *flags, "--seed", "5") == 0
    assert "moved to" in capsys.readouterr().out
    (kept,) = (tmp_path / "previous").iterdir()
    assert (kept / TABLES[0]).read_bytes() == old and (kept / RUN_NAME / "last.t7").exists()
    assert all((tmp_path / RUN_NAME / name).read_text() == "of another run" for name in released)


def test_a_subset_of_tasks_with_own_trunks(tmp_path):
    flags = "--tasks regressD classify --sharing none --epochs 1 --consistency 1".split()
    assert run(tmp_path, *flags) == 0
    path = tmp_path / RUN_NAME / "PublicTest_model_regressD.t7"
    model, content = checkpoint.load_model(path)
    assert content["tasks"] == ["regressD"] and list(model.trunks) == ["regressD"]
    assert not (tmp_path / "AccProcess_regressV.csv").exists()


def test_divergence_is_told_with_epoch_and_step(tmp_path):
    with pytest.raises(UserError, match=r"epoch 0, step \d+"):
        run(tmp_path, "--lr", "1e30")


# ---------------------------------------------------------------- resuming

SMALL = "--dataset Demo --model Small --limit 40 --bs 8 --epochs 2 --eval center".split()


@pytest.fixture
def hidden_generator(monkeypatch):
    """Dropout as on CUDA: `torch.manual_seed` seeds its generator, `get_rng_state` lacks it."""
    generator, seed = torch.Generator(), torch.manual_seed

    def dropout(features, share, training):
        kept = torch.rand(features.shape, generator=generator) > share
        return features * kept / (1 - share) if training else features

    monkeypatch.setattr(
        torch, "manual_seed", lambda value: generator.manual_seed(value) and seed(value)
    )
    monkeypatch.setattr(F, "dropout", dropout)


@pytest.mark.parametrize(
    ("flags", "counts"),
    [
        (FLAGS, (1, 4)),  # in the middle of the first epoch, and of the second
        ([*SMALL, "--recipe", "default"], (6,)),  # Muon, averages, turned and corrupted faces, bf16
        ([*FLAGS, "--recipe", "paper", "--eval", "center"], (1,)),  # dropout
    ],
)
def test_resumed_equals_uninterrupted(
    tmp_path, interrupted, hidden_generator, flags, counts, capsys
):
    name = f"Demo_{flags[3]}"
    assert run_program(tmp_path / "whole", *flags) == 0
    for count in counts:
        out = tmp_path / str(count)
        interrupted(count, out, *flags)
        assert "--resume" in capsys.readouterr().out
        assert checkpoint.load(out / name / "last.t7")["mid_epoch"] is not None
        with open(out / TABLES[0], "a") as table:  # a killed run can have written more rows
            table.write("1,99,99,99,0,0,0,1,1\n2,99,99,99,0,0,0,1,1\n")
        assert run_program(out, "--resume") == 0
        assert_same_run(tmp_path / "whole", out, name)


def test_a_run_with_a_teacher_resumes_exactly_without_it(tmp_path, interrupted, monkeypatch):
    """last.t7 holds what the released network says of the training faces."""
    flags = [*SMALL, "--teacher", "0.6"]
    assert run_program(tmp_path / "whole", *flags) == 0
    assert "teacher: the released network" in (tmp_path / "whole" / "data.txt").read_text()
    interrupted(2, tmp_path / "again", *flags)
    taught = checkpoint.load(tmp_path / "again" / "Demo_Small" / "last.t7")["teacher_probs"]
    faces = DATASETS["Demo"](None, False, 40).splits["Training"]
    model, content = checkpoint.load_model(checkpoints.RELEASED / "released.t7")
    with torch.no_grad():
        pictures = normalise(center_crop(faces.images), **content["preprocessing"])
        expected = model(pictures)["classify"].softmax(1)
    assert torch.allclose(taught, expected, atol=0.03)  # in bf16 where the hardware has it
    monkeypatch.setattr(checkpoints, "RELEASED", tmp_path / "nowhere")
    assert run_program(tmp_path / "again", "--resume") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "again", "Demo_Small")
    with pytest.raises(UserError, match="--teacher 0"):
        run_program(tmp_path / "new", *flags)


def test_resume_finds_the_one_run_and_changes_nothing_in_a_finished_one(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    assert run_program(tmp_path, "--resume") == 0
    assert_same_run(finished, tmp_path)
    shutil.copytree(tmp_path / RUN_NAME, tmp_path / "Demo_Small")
    with pytest.raises(UserError, match=f"{RUN_NAME}, Demo_Small"):
        run_program(tmp_path, "--resume")
    assert run_program(tmp_path, "--resume", "--model", "Narrow") == 0


@pytest.mark.parametrize(
    "flags", ["--lr 0.5", "--tasks regressV", "--model Small", "--dataset FER2013"]
)
def test_what_cannot_be_resumed_is_refused(finished, flags):
    with pytest.raises(UserError, match=f"{flags.split()[0]}|Nothing to resume"):
        run_program(finished, "--resume", *flags.split())


def test_resuming_with_other_threads_says_that_rounding_differs(tmp_path, interrupted, capsys):
    interrupted(1, tmp_path, *FLAGS)
    assert "bit-identical" not in capsys.readouterr().out
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        run(tmp_path, "--resume")
    finally:
        torch.set_num_threads(threads)
    told = capsys.readouterr().out
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert ("bit-identical" in told) == (cores > 1)  # one core cannot be given two threads


class BegunOnCuda(Run):
    """A run as it would begin on CUDA, with ten crops of every face after every epoch."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.crops = "tencrop"


def test_a_run_that_goes_on_on_another_device_keeps_its_crops(tmp_path, interrupted, monkeypatch):
    assert run(tmp_path / "whole", "--eval", "tencrop") == 0
    with monkeypatch.context() as patch:
        patch.setattr(mainpro_FER, "Run", BegunOnCuda)
        interrupted(4, tmp_path / "moved", *FLAGS)
    assert run(tmp_path / "moved", "--resume") == 0
    assert_same_tables(tmp_path / "moved", tmp_path / "whole")


def test_the_command_to_go_on_names_the_machine_as_it_was_asked_for(tmp_path, capsys):
    settings = SimpleNamespace(dataset="Demo", model="Narrow", run_name=RUN_NAME)
    for asked, machine in (("cpu", " --device cpu"), ("auto", "")):
        runtime = replace(setup_device(asked, "fp32"), compiled=asked == "auto")
        machine += " --compile" if runtime.compiled else ""
        assert RunFolder(settings, runtime, tmp_path, "").interrupted() == 130
        flags = f'--resume --dataset Demo --model Narrow{machine} --out "{tmp_path}"'
        assert capsys.readouterr().out.endswith(f"mainpro_FER.py {flags}\n")


def test_ctrl_c_during_the_last_evaluation_ends_at_once_and_can_go_on(
    finished, tmp_path, monkeypatch, capsys
):
    """The chosen models are evaluated with ten crops after the last epoch, which takes long."""

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the signal came too late")

    with monkeypatch.context() as patch:
        patch.setattr(training.run, "evaluate_chosen", interrupted)
        assert enter("mainpro_FER", *FLAGS, "--device", "cpu", "--out", tmp_path) == 130
    captured = capsys.readouterr()
    assert "--resume" in captured.out + captured.err
    assert run(tmp_path, "--resume") == 0
    assert_same_run(finished, tmp_path)


def test_the_records_of_another_run_are_moved_aside_when_the_first_goes_on(
    finished, tmp_path, capsys
):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    assert run_program(tmp_path, *SMALL, "--limit", "8", "--epochs", "1") == 0
    theirs = {name: (tmp_path / name).read_bytes() for name in [*TABLES, "data.txt"]}
    capsys.readouterr()
    assert run_program(tmp_path, "--resume", "--model", "Narrow") == 0
    assert "earlier run" in capsys.readouterr().out
    assert_same_run(finished, tmp_path)
    kept = max((tmp_path / "previous").iterdir(), key=lambda folder: folder.name)
    assert {name: (kept / name).read_bytes() for name in theirs} == theirs


# ---------------------------------------------------------------- options of the machine


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_learns_the_same_to_rounding(finished, tmp_path):
    assert run(tmp_path, "--compile") == 0
    folders = finished, tmp_path
    plain, compiled = (
        checkpoint.load(folder / RUN_NAME / "last.t7")["learner"]["net"] for folder in folders
    )
    for name, value in plain.items():
        assert torch.allclose(value.float(), compiled[name].float(), atol=0.02), name
    assert not all(torch.equal(value, compiled[name]) for name, value in plain.items())


class FakeBoard:
    """Stands in for TensorBoard's writer: a line for each metric."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.stream = open(folder / "events.out.tfevents.1", "a")

    def add_scalar(self, name, value, epoch):
        self.stream.write(f"{name} {value} {epoch}\n")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stream.close()


def test_tensorboard_has_every_metric_of_this_run_alone(tmp_path, monkeypatch, interrupted, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        run(tmp_path, "--tensorboard")
    board = SimpleNamespace(SummaryWriter=FakeBoard)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    flags = ["--tensorboard", "--tasks", "classify"]
    interrupted(1, tmp_path, *FLAGS, *flags)
    assert "--tensorboard" in capsys.readouterr().out
    assert run(tmp_path, *flags, "--seed", "1") == 0
    lines = (tmp_path / RUN_NAME / "tensorboard" / "events.out.tfevents.1").read_text().splitlines()
    assert len(lines) == 2 * (2 + 2 * 3)  # epochs, metrics of training and of two test splits
    values = {(name, epoch): float(value) for name, value, epoch in map(str.split, lines)}
    row = read_table(tmp_path / TABLES[0])[1]
    expected = float(row["PubtestAcc"])
    assert values["classify/Acc/PublicTest", "1"] == pytest.approx(expected, abs=1e-3)
