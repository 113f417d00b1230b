"""The training program as a whole, on a few drawn faces: equal runs, interruption, resuming, records."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
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
from inference import networks
from models import checkpoint
from tests.conftest import ROOT, run_program
from training.device import setup_device
from training.report import write_pictures
from training.run import Run, RunFolder
from utils.files import UserError
from utils.tasks import TASKS

FLAGS = "--dataset Demo --model Narrow --limit 24 --bs 8 --epochs 2 --lr 0.01 --precision fp32".split()
RUN_NAME = "Demo_Narrow"
TABLES = [f"AccProcess_{name}.csv" for name in TASKS]
MODELS_SAVED = [task.checkpoint(split) for task in TASKS.values() for split in ("PublicTest", "PrivateTest")]


def run(out, *flags):
    return run_program(out, *FLAGS, *flags)


def assert_same_tables(one, other):
    for name in [*TABLES, "data.txt"]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def assert_same_run(one, other, run_name=RUN_NAME):
    assert_same_tables(one, other)
    for name in [*MODELS_SAVED, "last.t7"]:
        assert_same(*(checkpoint.load(folder / run_name / name) for folder in (one, other)), name)


def assert_same(one, other, place):
    """Weights, averages, momenta, random states, figures: all that a checkpoint holds."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}: {key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{place}: {number}")
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, place


PROGRAM = """
import sys
from functools import partial
import mainpro_FER
from models import MODELS
from models.multitask import MultiTask
MODELS["Narrow"] = partial(MultiTask, base=8)
sys.exit(mainpro_FER.command_line())
"""


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    assert run(out) == 0
    return out


def test_it_writes_every_file(finished):
    for name in [*TABLES, "data.txt", "AccProcess.xlsx", "AccProcess.png", "run.log"]:
        assert (finished / name).stat().st_size > 0
    assert sorted(p.name for p in (finished / RUN_NAME).glob("*.t7")) == sorted([*MODELS_SAVED, "last.t7"])
    assert {p.name for p in (finished / RUN_NAME).glob("*.png")} == {
        "PublicTest_confusion.png",
        "PrivateTest_confusion.png",
    }
    assert not list(finished.rglob("*.unfinished"))


def test_tables_hold_numbers_under_one_header(finished):
    for name in TABLES:
        header, *rows = csv.reader((finished / name).read_text().splitlines())
        assert header[0] == "Epoch" and [row[0] for row in rows] == ["0", "1"]
        for row in rows:
            assert len(row) == len(header)
            assert all(float(cell) == float(cell) for cell in row)


def test_best_checkpoints_load_safely_and_hold_the_results_of_their_epoch(finished):
    for task in TASKS.values():
        content = torch.load(finished / RUN_NAME / task.checkpoint("PublicTest"), weights_only=True)
        assert task.name in content["tasks"] and content["dataset"] == "Demo"
        assert content["results"]["epoch"] == content["epoch"]
        assert content["constraint_table"].shape == (7, 3, 3)
        with open(finished / f"AccProcess_{task.name}.csv", newline="") as table:
            row = list(csv.DictReader(table))[content["epoch"]]
        column = f"Pubtest{task.rules.decisive}{task.letter}"
        figure = content["results"]["PublicTest"][task.name][task.rules.decisive]
        assert float(row[column]) == pytest.approx(figure, abs=1e-3)


def test_a_loaded_checkpoint_gives_the_recorded_results(finished):
    from data.faces import Faces
    from training.device import setup_device
    from training.engine import evaluate

    dataset = DATASETS["Demo"](None, False, 24)
    path = finished / RUN_NAME / TASKS["classify"].checkpoint("PublicTest")
    model, content = checkpoint.load_model(path)
    faces = dataset.splits["PrivateTest"]
    assert isinstance(faces, Faces)
    runtime = setup_device("cpu", "fp32")
    network = runtime.for_inference(model)
    found = evaluate(network, faces, content["preprocessing"], runtime, content["evaluation"])
    for name, figures in content["results"]["PrivateTest"].items():
        for metric, value in figures.items():
            expected = value if metric == "confusion" else pytest.approx(value, abs=1e-5)
            assert found[name][metric] == expected, (name, metric)


def test_a_network_of_several_tasks_is_written_once_an_epoch(finished):
    """The other names of the same epoch are links to it."""
    files = {}
    for name in MODELS_SAVED:
        epoch = checkpoint.load(finished / RUN_NAME / name)["epoch"]
        files.setdefault(epoch, set()).add((finished / RUN_NAME / name).stat().st_ino)
    assert all(len(nodes) == 1 for nodes in files.values())


def test_pictures_are_drawn_at_the_beginning_and_the_end_of_a_short_run(finished, tmp_path, monkeypatch):
    drawn = []

    def draw(out, *arguments):
        drawn.append((out / TABLES[0]).read_text().count("\n") - 1)
        return write_pictures(out, *arguments)

    monkeypatch.setattr(training.run, "write_pictures", draw)
    assert run(tmp_path, "--epochs", "3") == 0
    assert drawn == [1, 3]


def test_without_links_a_network_is_copied(finished, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert run(tmp_path) == 0
    assert_same_run(finished, tmp_path)


def test_the_same_seed_gives_the_same_run(finished, tmp_path):
    assert run(tmp_path) == 0
    assert_same_run(finished, tmp_path)


def test_another_seed_gives_another_run(finished, tmp_path):
    run(tmp_path, "--seed", "1", "--epochs", "1")
    assert (tmp_path / TABLES[0]).read_text().split("\n")[1] != (finished / TABLES[0]).read_text().split("\n")[1]


@pytest.mark.parametrize("consulted", [1, 4])  # in the middle of the first epoch, and of the second
def test_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch, capsys, consulted):
    with monkeypatch.context() as patch:
        patch.setattr(mainpro_FER, "StopRequest", lambda: StopAfter(consulted))
        assert run(tmp_path) == 130
    assert "--resume" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / RUN_NAME / "last.t7")["mid_epoch"] is not None
    torch.manual_seed(1234)  # nothing may depend on the state the process happens to be in
    assert run(tmp_path, "--resume") == 0
    assert_same_run(finished, tmp_path)


def test_a_run_with_a_teacher_resumes_exactly_without_it(tmp_path, monkeypatch, capsys):
    """What the released network says of the training faces is kept in last.t7: its file may be moved meanwhile."""
    flags = "--dataset Demo --model Small --limit 40 --bs 8 --epochs 2 --eval center --teacher 0.6".split()
    assert run_program(tmp_path / "whole", *flags) == 0
    assert "teacher: the released network" in (tmp_path / "whole" / "data.txt").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(mainpro_FER, "StopRequest", lambda: StopAfter(2))
        assert run_program(tmp_path / "again", *flags) == 130
    taught = checkpoint.load(tmp_path / "again" / "Demo_Small" / "last.t7")["teacher_probs"]
    faces = DATASETS["Demo"](None, False, 40).splits["Training"]
    model, content = checkpoint.load_model(networks.RELEASED / "released.t7")
    with torch.no_grad():
        logits = model(normalise(center_crop(faces.images), **content["preprocessing"]))["classify"]
    assert torch.allclose(taught, logits.softmax(1), atol=0.03)  # in bf16 where the hardware has it
    monkeypatch.setattr(networks, "RELEASED", tmp_path / "nowhere")
    assert run_program(tmp_path / "again", "--resume") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "again", "Demo_Small")
    with pytest.raises(UserError, match="--teacher 0"):
        run_program(tmp_path / "new", *flags)


def test_the_default_recipe_resumes_exactly_too(tmp_path, monkeypatch):
    """Muon, averaged weights, turned faces, channels-last layout; in bf16 where the hardware has it."""
    flags = "--dataset Demo --model Small --recipe default --limit 40 --bs 8 --epochs 2 --eval center".split()
    assert run_program(tmp_path / "whole", *flags) == 0
    for consulted in (1, 6):
        out = tmp_path / str(consulted)
        with monkeypatch.context() as patch:
            patch.setattr(mainpro_FER, "StopRequest", lambda consulted=consulted: StopAfter(consulted))
            assert run_program(out, *flags) == 130
        torch.manual_seed(1234)
        assert run_program(out, *flags, "--resume") == 0
        assert_same_run(tmp_path / "whole", out, "Demo_Small")


def test_resuming_after_rows_were_written_beyond_the_checkpoint(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(mainpro_FER, "StopRequest", lambda: StopAfter(4))
    run(tmp_path)
    with open(tmp_path / TABLES[0], "a") as table:
        table.write("1,99,99,99,0,0,0,1,1\n2,99,99,99,0,0,0,1,1\n")
    monkeypatch.undo()
    assert run(tmp_path, "--resume") == 0
    assert_same_run(finished, tmp_path)


def test_resuming_a_finished_run_changes_nothing(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    assert run(tmp_path / "copy", "--resume") == 0
    assert_same_run(finished, tmp_path / "copy")


def test_resuming_with_other_threads_says_that_rounding_differs(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mainpro_FER, "StopRequest", lambda: StopAfter(1))
    run(tmp_path, "--precision", "fp32")
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
    """A run as it would begin on CUDA, where there is time for ten crops of every face after every epoch."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.crops = "tencrop"


def test_a_run_that_goes_on_on_another_device_keeps_its_crops(tmp_path, monkeypatch, capsys):
    assert run(tmp_path / "whole", "--eval", "tencrop") == 0
    with monkeypatch.context() as patch:
        patch.setattr(mainpro_FER, "Run", BegunOnCuda)
        patch.setattr(mainpro_FER, "StopRequest", lambda: StopAfter(4))
        assert run(tmp_path / "moved") == 130
    assert run(tmp_path / "moved", "--resume") == 0
    assert_same_tables(tmp_path / "moved", tmp_path / "whole")
    assert "Ten-crop evaluation" not in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_processor_that_continues_in_fp16_says_what_is_faster(tmp_path, capsys, precision):
    settings = SimpleNamespace(run_name=RUN_NAME)
    content = {"data": "", "device": f"cuda (Tesla T4), {precision}, TF32 off"}
    RunFolder(settings, setup_device("cpu", precision), tmp_path, "").check_same_data(content)
    told = capsys.readouterr().out
    assert "began on cuda (Tesla T4)" in told and "continues on cpu" in told
    assert ("--precision fp32" in told) == (precision == "fp16")


def test_the_command_to_go_on_names_the_machine_as_it_was_asked_for(tmp_path):
    settings = SimpleNamespace(dataset="Demo", model="Narrow", run_name=RUN_NAME)
    for runtime, machine in ((setup_device("cpu", "fp32"), " --device cpu"), (setup_device("auto", "fp32"), "")):
        for compiled, more in ((False, ""), (True, " --compile")):
            folder = RunFolder(settings, replace(runtime, compiled=compiled), tmp_path, "")
            assert folder.resume_flags() == f'--resume --dataset Demo --model Narrow{machine}{more} --out "{tmp_path}"'


def test_a_flag_that_differs_from_the_run_to_resume_is_refused(finished):
    with pytest.raises(UserError, match=r"--lr 0.5 differs"):
        run(finished, "--resume", "--lr", "0.5")


def test_tasks_that_differ_are_told_as_they_are_typed(finished):
    with pytest.raises(UserError, match="--tasks"):
        run(finished, "--resume", "--tasks", "regressV")


def test_released_networks_stay_where_they_are(tmp_path):
    folder, earlier = tmp_path / RUN_NAME, "PublicTest_model_classify.t7"
    released = ["released.t7", "photographs.t7", "README.md", "photographs.png", "run/data.txt", "run/curves.png"]
    for name in (*released, earlier):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("of another run")
    assert run(tmp_path, "--epochs", "1") == 0
    (kept,) = (tmp_path / "previous").iterdir()
    assert [path.name for path in kept.rglob("*") if path.is_file()] == [earlier]
    assert all((folder / name).read_text() == "of another run" for name in released)


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(UserError, match="Nothing to resume"):
        run(tmp_path, "--resume")


def test_a_new_run_moves_the_earlier_one_aside(finished, tmp_path, capsys):
    run(tmp_path, "--epochs", "1", "--tasks", "classify")
    old = (tmp_path / TABLES[0]).read_bytes()
    run(tmp_path, "--epochs", "1", "--tasks", "classify", "--seed", "5")
    assert "moved to" in capsys.readouterr().out
    (kept,) = (tmp_path / "previous").iterdir()
    assert (kept / TABLES[0]).read_bytes() == old
    assert (kept / RUN_NAME / "last.t7").exists()


def test_a_subset_of_tasks_with_own_trunks(tmp_path):
    flags = ["--tasks", "regressD", "classify", "--sharing", "none", "--epochs", "1", "--consistency", "1"]
    assert run(tmp_path, *flags) == 0
    model, content = checkpoint.load_model(tmp_path / RUN_NAME / "PublicTest_model_regressD.t7")
    assert content["tasks"] == ["regressD"] and list(model.trunks) == ["regressD"]
    assert not (tmp_path / "AccProcess_regressV.csv").exists()


def test_paper_recipe_takes_a_step(tmp_path):
    assert run(tmp_path, "--recipe", "paper", "--epochs", "1", "--limit", "8", "--tasks", "classify", "regressV") == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_learns_the_same_to_rounding(finished, tmp_path):
    assert run(tmp_path, "--compile") == 0
    weights = [checkpoint.load(folder / RUN_NAME / "last.t7")["learner"]["net"] for folder in (finished, tmp_path)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.allclose(value.float(), weights[1][name].float(), atol=0.02), name
    assert not all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.fixture
def hidden_generator(monkeypatch):
    """Dropout as on CUDA: its generator is seeded by `torch.manual_seed` and not shown by `torch.get_rng_state`."""
    generator, seed = torch.Generator(), torch.manual_seed

    def dropout(features, share, training):
        kept = torch.rand(features.shape, generator=generator) > share
        return features * kept / (1 - share) if training else features

    monkeypatch.setattr(torch, "manual_seed", lambda value: generator.manual_seed(value) and seed(value))
    monkeypatch.setattr(F, "dropout", dropout)


def test_dropout_resumes_exactly_where_its_generator_is_not_saved(hidden_generator, tmp_path, monkeypatch):
    flags = ["--recipe", "paper", "--eval", "center"]
    assert run(tmp_path / "whole", *flags) == 0
    with monkeypatch.context() as patch:
        patch.setattr(mainpro_FER, "StopRequest", lambda: StopAfter(1))
        assert run(tmp_path / "again", *flags) == 130
    torch.manual_seed(1234)
    assert run(tmp_path / "again", "--resume") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "again")


@pytest.mark.parametrize("processes", [1, 3])
def test_each_process_asks_the_teacher_about_its_share_of_the_faces(monkeypatch, processes):
    faces = DATASETS["Demo"](None, False, 25).splits["Training"]
    settings = SimpleNamespace(recipe=SimpleNamespace(teacher=0.5), tasks=("classify",))
    monkeypatch.setattr(networks, "teacher_probs", lambda images, runtime: images[:, 0, :7])
    monkeypatch.setattr(mainpro_FER, "gather_unequal", lambda mine: mine)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    shares = []
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(mainpro_FER.ask_teacher(settings, faces, SimpleNamespace(device="cpu"), {}))
    assert {len(share) for share in shares} <= {25 // processes, 25 // processes + 1}
    assert torch.equal(torch.cat(shares), faces.images[:, 0, :7])


def test_divergence_is_told_with_epoch_and_step(tmp_path):
    with pytest.raises(UserError, match=r"epoch 0, step \d+"):
        run(tmp_path, "--lr", "1e30")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to a child process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_by_a_signal_and_resumed(finished, tmp_path, number):
    program = [sys.executable, "-c", PROGRAM, *FLAGS, "--device", "cpu", "--out", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "cwd": ROOT}
    with subprocess.Popen(program, **pipes) as process:
        last = tmp_path / RUN_NAME / "last.t7"
        deadline = time.monotonic() + 120
        while not last.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        output = process.communicate(timeout=120)[0].decode()
    assert process.returncode in (130, -signal.SIGKILL), output
    assert "Traceback" not in output
    assert subprocess.run([*program, "--resume"], cwd=ROOT).returncode == 0
    assert_same_run(finished, tmp_path)


def test_tensorboard_that_is_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        run(tmp_path, "--tensorboard")


class FakeBoard:
    """Stands in for TensorBoard's writer: a line for each figure, in a file that it opens at once and keeps open."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.stream = open(folder / "events.out.tfevents.1", "a")

    def add_scalar(self, name, value, epoch):
        self.stream.write(f"{name} {value} {epoch}\n")

    def flush(self):
        self.stream.flush()


def test_tensorboard_has_every_figure_of_this_run_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=FakeBoard))
    flags = ["--tensorboard", "--tasks", "classify"]
    for seed in ("0", "1"):
        assert run(tmp_path, *flags, "--seed", seed) == 0
    lines = (tmp_path / RUN_NAME / "tensorboard" / "events.out.tfevents.1").read_text().splitlines()
    assert len(lines) == 2 * (2 + 2 * 3)  # epochs, figures of training and of two test splits
    with open(tmp_path / TABLES[0], newline="") as table:
        row = list(csv.DictReader(table))[1]
    (told,) = [line.split()[1] for line in lines if line.startswith("classify/Acc/PublicTest") and line.endswith(" 1")]
    assert float(told) == pytest.approx(float(row["PubtestAcc"]), abs=1e-3)
    (kept,) = (tmp_path / "previous").iterdir()
    assert len((kept / RUN_NAME / "tensorboard" / "events.out.tfevents.1").read_text().splitlines()) == len(lines)


def test_tensorboard_is_named_in_the_command_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=FakeBoard))
    monkeypatch.setattr(mainpro_FER, "StopRequest", lambda: StopAfter(1))
    assert run(tmp_path, "--tensorboard") == 130
    assert f'--device cpu --out "{tmp_path}" --tensorboard' in capsys.readouterr().out


def test_resume_finds_the_one_run_without_other_flags(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    assert run_program(tmp_path, "--resume") == 0
    assert_same_run(finished, tmp_path)
    shutil.copytree(tmp_path / RUN_NAME, tmp_path / "Demo_Small")
    with pytest.raises(UserError, match=f"several runs to resume, {RUN_NAME}, Demo_Small: say which"):
        run_program(tmp_path, "--resume")
    assert run_program(tmp_path, "--resume", "--model", "Narrow") == 0


def test_the_records_of_another_run_are_moved_aside_when_the_first_goes_on(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    other = "--dataset Demo --model Small --limit 8 --bs 8 --epochs 1 --precision fp32 --eval center".split()
    assert run_program(tmp_path, *other) == 0
    theirs = {name: (tmp_path / name).read_bytes() for name in [*TABLES, "data.txt", "AccProcess.xlsx"]}
    capsys.readouterr()
    assert run_program(tmp_path, "--resume", "--model", "Narrow") == 0
    assert "another run" in capsys.readouterr().out
    assert_same_run(finished, tmp_path)
    kept = max((tmp_path / "previous").iterdir(), key=lambda folder: folder.name)
    assert {name: (kept / name).read_bytes() for name in theirs} == theirs


def test_ctrl_c_during_the_last_evaluation_ends_at_once_and_can_go_on(finished, tmp_path):
    """The chosen models are evaluated with ten crops after the last epoch, which takes long."""
    program = PROGRAM.replace("sys.exit(", INTERRUPTED_FINISH + "sys.exit(")
    command = [sys.executable, "-c", program, *FLAGS, "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 130 and "Go on with" in done.stdout and "Traceback" not in done.stderr, done.stderr
    assert run(tmp_path, "--resume") == 0
    assert_same_run(finished, tmp_path)


INTERRUPTED_FINISH = """
import os, signal, training.run
def interrupted(*arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("the signal came too late")
training.run.evaluate_chosen = interrupted
"""
