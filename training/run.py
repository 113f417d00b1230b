"""A run on disk: its folder, checkpoints, last.t7 and log; begin, record, resume, finish."""

import glob
import hashlib
import json
import os
import platform
import shutil
import time
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch

from models import checkpoint
from training.config import Settings, default_model
from training.evaluate import evaluate_chosen
from training.report import best_epochs, title_of, write_pictures, write_tables
from utils.distributed import is_first, wait_for_all
from utils.files import UserError, as_user_error, atomic_write, move_aside, unfinished_files
from utils.tasks import SPLITS, TASKS, TEST_SPLITS

FORMAT = 6  # of last.t7 and of the result of a fold
PICTURE_SECONDS = 30  # between two versions of workbook and pictures
HEADER_LINES = 20  # within which data.txt names dataset and model
TABLES = tuple(f"AccProcess_{name}.csv" for name in (*TASKS, "folds"))
REPORT_FILES = (*TABLES, "AccProcess.xlsx", "AccProcess.png", "folds.csv", "data.txt")
# What a run keeps in the folder of its checkpoints, where released networks stay.
RUN_FILES = (
    "last*.t7", "P*Test_model_*.t7", "*_confusion.png", "tensorboard/events.out.tfevents.*",
    "Fold*_model_*.t7", "fold*.json", "fold*.png",
)  # fmt: skip
CROP_NAMES = {"tencrop": "ten-crop", "center": "centre crop"}


def owned_files(out, run_name, kinds=RUN_FILES):
    """Paths of all files that a run called `run_name` writes into `out`."""
    kept = [path for kind in kinds for path in (Path(out) / run_name).glob(kind)]
    return [*(Path(out) / name for name in (*REPORT_FILES, "run.log")), *sorted(kept)]


def discard_unfinished(out, run_name, kinds=RUN_FILES):
    """Remove temporary files that a killed run called `run_name` left in `out`."""
    patterns = [glob.escape(name) for name in REPORT_FILES]
    patterns += [f"{glob.escape(run_name)}/{kind}" for kind in kinds]
    for pattern in patterns:
        for path in unfinished_files(out, pattern):
            path.unlink(missing_ok=True)


def reported_run(out):
    """The name of the run that data.txt in the folder `out` is about; None where it says none."""
    try:
        text = (Path(out) / "data.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    header = dict(line.partition(": ")[::2] for line in text.splitlines()[:HEADER_LINES])
    known = {"dataset", "model"} <= header.keys()
    return f"{header['dataset']}_{header['model']}" if known else None


def move_other_report(out, run_name):
    """Move the report of a run of another name in the folder `out` to previous/, and say so."""
    if reported_run(out) not in (None, run_name):
        moved = move_aside([Path(out) / name for name in REPORT_FILES], out)
        print(f"The report of another run in {out} was moved to {moved}")


def versions():
    """Versions that a number may depend on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def load_last(out, dataset=None, model=None):
    """(`Settings`, content) of the run to resume in the folder `out`.

    dataset, model: names that the run has, None where they were not given. The content is that of
    last.t7 or, of a cross-validation, of its first fold*.json. Raises UserError when there is no
    such run or more than one, or when it is of another format.
    """
    pattern = "_".join("*" if name is None else glob.escape(name) for name in (dataset, model))
    files = {}
    for name in ("last.t7", "fold*.json"):
        for path in sorted(Path(out).glob(f"{pattern}/{name}")):
            files.setdefault(path.parent.name, path)
    if not files:
        place = Path(out) / pattern / "last.t7"
        raise UserError(f"Nothing to resume: {place} does not exist. Start without --resume.")
    if len(files) > 1:
        names = ", ".join(files)
        raise UserError(
            f"{out} has several runs to resume, {names}: say which with --dataset and --model."
        )
    (path,) = files.values()
    if path.suffix != ".json":
        content = checkpoint.load(path)
        check_format(path, content)
    else:
        results = [load_result(each) for each in sorted(path.parent.glob("fold*.json"))]
        # Of commands that train a fold each, the first that is not finished.
        content = min(results, key=lambda each: each["result"] is not None)
    return Settings.from_plain(content["settings"]), content


def load_result(path):
    """The dict in a fold*.json. Raises UserError when it cannot be read."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: move it away, or start in another --out.") from error
    check_format(path, content)
    return content


def check_format(path, content):
    """Raise UserError unless a checkpoint or result was written by this version."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{path} was written by another version of this program: start a new run without "
            "--resume, which moves it to previous/."
        )


class RunFolder:
    """What every kind of run keeps on disk. Of several processes only the first writes.

    settings: `Settings`; runtime: `Runtime`; out: output folder; fingerprint: of everything that is
    learnt from; state: name of the file with all that it takes to continue. `mid_epoch` is the
    state in the middle of an epoch to continue from, None at its beginning.
    """

    def __init__(self, settings, runtime, out, fingerprint, state="last.t7"):
        self.settings, self.runtime, self.out = settings, runtime, Path(out)
        self.folder = self.out / settings.run_name
        self.state_file = self.folder / state
        self.fingerprint = fingerprint
        self.mid_epoch = None

    def identity(self):
        """What a state or a result says of its run."""
        return {
            "format": FORMAT,
            "settings": asdict(self.settings),
            "precision": self.runtime.precision,
            "device": self.runtime.describe(),
            "data": self.fingerprint,
        }

    def save_state(self, learner, mid_epoch=None, **content):
        """Write all that it takes to continue. mid_epoch: as `train_one_epoch` gives it."""
        if is_first():
            content |= {"mid_epoch": mid_epoch, "random": torch.get_rng_state()}
            content["learner"] = learner.state_dict()
            checkpoint.save(self.state_file, self.identity() | content)

    def check_same_data(self, content):
        """Raise UserError unless a state or a result is of these faces; print another device."""
        if content["data"] != self.fingerprint:
            raise UserError(
                f"{self.state_file}: the faces, their annotations, or the network of --pretrain "
                "are not those that this run began with. Give the same, or start a new run "
                "without --resume."
            )
        if content["device"] != self.runtime.describe():
            print(
                f"The run began on {content['device']} and continues on {self.runtime.describe()}. "
                "Results will not be bit-identical to an uninterrupted run."
            )
            if self.runtime.precision == "fp16" and self.runtime.device.type == "cpu":
                print("fp16 is slow on a processor: --precision fp32 is faster.")

    def restore(self, learner, content):
        """Bring a learner and all random states to where they were."""
        learner.load_state_dict(content["learner"])
        torch.set_rng_state(content["random"])
        self.mid_epoch = content["mid_epoch"]

    def header(self, data, network):
        """{key: value} for the head of data.txt; data, network: more about the two."""
        settings, device = self.settings, self.runtime.describe()
        recipe = ", ".join(f"{key} {value}" for key, value in settings.effective_recipe().items())
        return {
            "dataset": settings.dataset,
            **data,
            "model": settings.model,
            **network,
            "recipe": f"{settings.recipe_name} ({recipe})",
            "seed": settings.seed,
            "device": device,
            "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        }

    def log(self, line):
        """Add a line with the time to run.log; no other file has clock times."""
        path = self.out / "run.log"
        with as_user_error(path, "make room for it, then continue with --resume"):
            self.out.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as stream:
                stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def interrupted(self):
        """Say how to continue; returns the exit code of an interrupted program."""
        print(f"Saved. Go on with: python mainpro_FER.py {self.resume_flags()}")
        return 130

    def resume_flags(self):
        """The flags that continue this run."""
        settings, runtime = self.settings, self.runtime
        flags = f"--resume --dataset {settings.dataset}"
        if settings.model != default_model(settings.dataset):
            flags += f" --model {settings.model}"
        if runtime.asked != "auto":
            flags += f" --device {runtime.asked}"
        if runtime.compiled:
            flags += " --compile"
        if str(self.out) != ".":
            flags += f' --out "{self.out}"'
        return flags

    def finished(self):
        """Say where the results are."""
        print(f"Finished. Results: {self.out / 'data.txt'}; checkpoints: {self.folder}")


class Run(RunFolder):
    """A run over the three splits of a `Dataset`.

    teacher_probs: a teacher's probabilities of the training faces, (N, 7), or None; tensorboard:
    whether to write event files, too. `history` is the list of the results of epochs, `final` what
    the end of the run added (None before), `crops` how test faces are cropped after every epoch:
    decided when the run begins, and kept on whatever device it continues.
    """

    def __init__(self, settings, dataset, runtime, out, teacher_probs=None, tensorboard=False):
        splits = dataset.splits
        digest = hashlib.sha256("".join(each.fingerprint() for each in splits.values()).encode())
        super().__init__(settings, runtime, out, digest.hexdigest())
        self.dataset, self.teacher_probs = dataset, teacher_probs
        self.tasks = tuple(TASKS[name] for name in settings.tasks)
        self.history, self.final, self._drawn = [], None, None
        self.crops = settings.evaluation
        if self.crops == "auto":
            self.crops = "tencrop" if runtime.device.type == "cuda" else "center"
        self.tensorboard = tensorboard and is_first()
        if self.tensorboard:
            board_writer()  # raises when the package is not installed

    @property
    def epoch(self):
        """The epoch to train next."""
        return len(self.history)

    @cached_property
    def board(self):
        """TensorBoard's writer, which makes its file at once."""
        return board_writer()(self.folder / "tensorboard")

    def begin(self):
        """Begin a new run: move the files of an earlier one to previous/, and say so."""
        if is_first():
            discard_unfinished(self.out, self.settings.run_name)
            moved = move_aside(owned_files(self.out, self.settings.run_name), self.out)
            if moved:
                print(f"Files of an earlier run were moved to {moved}")
            self.log(f"new run: {self.settings}")

    def resume(self, content, learner):
        """Continue from the content of last.t7. Raises UserError when it does not fit."""
        self.check_same_data(content)
        self.restore(learner, content)
        self.crops, self.history = content["crops"], content["history"]
        self.final = content["final"]
        if is_first():
            discard_unfinished(self.out, self.settings.run_name)
            move_other_report(self.out, self.settings.run_name)
            self.log(f"resumed at epoch {self.epoch}")
            if self.history:
                self.write_report(pictures=True)

    def save(self, learner, mid_epoch=None):
        """Write last.t7."""
        self.save_state(
            learner, mid_epoch, crops=self.crops, history=self.history, final=self.final,
            teacher_probs=self.teacher_probs,
        )  # fmt: skip

    def record(self, results, learner, training_seconds, evaluation_seconds):
        """Keep the results of an epoch: the best checkpoints, last.t7, then the report."""
        self.history.append(results)
        self.mid_epoch = None
        if not is_first():
            return
        self._save_best(results, learner)
        self.save(learner)
        recently = self._drawn is not None and time.monotonic() - self._drawn < PICTURE_SECONDS
        self.write_report(pictures=not recently)
        rate = len(self.dataset.splits["Training"]) / training_seconds
        self.log(
            f"epoch {results['epoch']}: training {training_seconds:.1f} s ({rate:.0f} images/s), "
            f"evaluation {evaluation_seconds:.1f} s"
        )
        if self.tensorboard:
            self._write_board(results)

    def finish(self, learner):
        """Evaluate the chosen models with ten crops where epochs used the centre; last report."""
        wait_for_all()  # the chosen models are read by all
        if self.final is None:
            tencrop = {}
            if self.settings.evaluation == "auto" and self.crops == "center":
                print("Ten-crop evaluation of the chosen models")
                files = {
                    task.name: self.folder / task.checkpoint("PublicTest") for task in self.tasks
                }
                tencrop = evaluate_chosen(files, self.dataset.splits, self.runtime)
            self.final = {"tencrop": tencrop, "folder": self.settings.run_name}
            self.save(learner)
        if is_first():
            self.write_report(pictures=True)
            self.log("finished")

    def _save_best(self, results, learner):
        """Write the network of an epoch once, under every name for which it is the best so far."""
        model, names = learner.averaged, {}  # {tasks of a part of the network: file names}
        for task in self.tasks:
            for split, (epoch, _) in best_epochs(self.history, task).items():
                if epoch == results["epoch"]:
                    names.setdefault(model.part(task.name)[0], []).append(task.checkpoint(split))
        for tasks, (first, *others) in names.items():
            content = checkpoint.task_checkpoint(
                model, tasks[0], results["epoch"], results, self._description(learner)
            )
            checkpoint.save(self.folder / first, content)
            for name in others:
                _link(self.folder / first, self.folder / name)

    def _description(self, learner):
        return {
            "dataset": self.settings.dataset,
            "model": self.settings.model,
            "preprocessing": learner.preprocessing,
            "options": self.settings.network_options,
            "evaluation": self.crops,
            "constraint_table": learner.constraint_table,
            "versions": versions(),
        }

    def _write_board(self, results):
        for split in SPLITS:
            for name, metrics in results[split].items():
                for metric in TASKS[name].rules.test_metrics:
                    if metric in metrics:
                        tag = f"{name}/{metric}/{split}"
                        self.board.add_scalar(tag, metrics[metric], results["epoch"])
        self.board.flush()

    def resume_flags(self):
        """See `RunFolder`."""
        return super().resume_flags() + (" --tensorboard" if self.tensorboard else "")

    def write_report(self, pictures):
        """Write CSVs and data.txt and, if asked for, the workbook and the pictures."""
        header = self.header(self._describe_data(), self._describe_network())
        write_tables(self.out, header, self.history, self.tasks, self.final)
        if pictures:
            write_pictures(self.out, self.folder, title_of(header), self.history, self.tasks)
            self._drawn = time.monotonic()

    def _describe_data(self):
        splits, limit = self.dataset.splits, self.settings.limit
        counts = ", ".join(f"{name} {len(faces):,}" for name, faces in splits.items())
        limited = "" if limit is None else f" (--limit {limit}: no more of each)"
        return {"faces": counts + limited, "source": self.dataset.description}

    def _describe_network(self):
        told = {"tasks": ", ".join(self.settings.tasks)}
        if (
            "targets" in self.settings.effective_recipe()
            and self.settings.recipe.targets != "labels"
        ):
            counts = (
                f"{int((self.dataset.splits[name].labels >= 0).sum()):,} {name}"
                for name in TEST_SPLITS
            )
            told["accuracy"] = (
                "against the majority of the FER+ votes, of the faces that have one: "
                f"{', '.join(counts)}; in training against the class with most votes"
            )
        if self.teacher_probs is not None:
            told["teacher"] = "the released network, by its centre crop"
        return told | {"evaluation after every epoch": CROP_NAMES[self.crops]}


def _link(source, target):
    """Give a file another name: a hard link, or a copy where there are none."""
    with (
        as_user_error(target, "make room for it, then continue with --resume"),
        atomic_write(target) as temporary,
    ):
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def board_writer():
    """The class of TensorBoard's writers. Raises UserError when it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs a package: pip install tensorboard") from error
    return SummaryWriter
