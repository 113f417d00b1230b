"""A run on disk: its folder, its checkpoints, the state to resume from, its log."""

import hashlib
import json
import os
import platform
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from models import checkpoint
from training.config import Settings
from training.evaluate import evaluate_chosen
from training.report import best_epochs, title_of, write_pictures, write_tables
from utils.distributed import is_first, wait_for_all
from utils.files import UserError, as_user_error, atomic_write, move_aside, unfinished_files
from utils.lock import FOLD_LOCKS, check_unused
from utils.tasks import SPLITS, TASKS

FORMAT = 6  # of last.t7 and of the result of a fold
PICTURE_SECONDS = 30  # between two versions of workbook and pictures
HEADER_LINES = 20  # within which data.txt names dataset and model
REPORT_FILES = (
    *(f"AccProcess_{name}.csv" for name in (*TASKS, "folds")),
    "AccProcess.xlsx", "AccProcess.png", "folds.csv", "data.txt",
)  # fmt: skip
# What a run keeps in the folder of its checkpoints, where released networks stay.
RUN_FILES = (
    "last*.t7", "P*Test_model_*.t7", "*_confusion.png", "tensorboard/events.out.tfevents.*",
    "Fold*_model_*.t7", "fold*.json", "fold*.png",
)  # fmt: skip
CROP_NAMES = {"tencrop": "ten-crop", "center": "centre crop"}
REMEDY = "make room for it, then continue with --resume"


def versions():
    """Versions that a number may depend on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def load_last(out, dataset=None, model=None):
    """(`Settings`, content) of the run to resume in the folder `out`.

    dataset, model: names that the run has, None where they were not given. The content is that of
    last.t7 or, of a cross-validation, of one of its fold*.json. Raises UserError when there is no
    such run or more than one, or when it is of another format.
    """
    folders = f"{dataset or '*'}_{model or '*'}"
    found = [
        path
        for name in ("last.t7", "fold[0-9]*.json")
        for path in Path(out).glob(f"{folders}/{name}")
    ]
    names = sorted({path.parent.name for path in found})
    if not names:
        place = Path(out) / folders / "last.t7"
        raise UserError(f"Nothing to resume: {place} does not exist. Start without --resume.")
    if len(names) > 1:
        raise UserError(
            f"{out} has several runs to resume, {', '.join(names)}: say which with --dataset and "
            "--model."
        )
    content = load_state(found[0])
    return Settings.from_plain(content["settings"]), content


def load_state(path):
    """The dict in a last*.t7 or fold*.json. Raises UserError when it cannot be resumed from."""
    try:
        is_text = path.suffix == ".json"
        content = json.loads(path.read_bytes()) if is_text else checkpoint.load(path)
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{path} is damaged, or of another version of this program: start a new run without "
            "--resume, which moves it to previous/."
        )
    return content


class RunFolder:
    """What every kind of run keeps on disk. Of several processes only the first writes.

    settings: `Settings`; runtime: `Runtime`; out: output folder; fingerprint: of everything that is
    learnt from; fold: of a cross-validation, or None. `history` is the list of the results of
    epochs; `mid_epoch` the state in the middle of an epoch to continue from, None at its beginning.
    """

    file_patterns = RUN_FILES  # of the files that it writes into `folder`
    saved_fields = ("history",)  # what the state holds besides the learner
    more_flags = ""  # to resume with

    def __init__(self, settings, runtime, out, fingerprint, fold=None):
        self.settings, self.runtime, self.out, self.fold = settings, runtime, Path(out), fold
        self.folder = self.out / settings.run_name
        self.state_file = self.folder / ("last.t7" if fold is None else f"last_fold{fold}.t7")
        self.fingerprint = fingerprint
        self.history, self.mid_epoch = [], None

    @property
    def epoch(self):
        """The epoch to train next."""
        return len(self.history)

    def identity(self):
        """What a state or a result says of its run."""
        return {
            "format": FORMAT,
            "settings": asdict(replace(self.settings, fold=None)),
            "precision": self.runtime.precision,
            "device": self.runtime.describe(),
            "data": self.fingerprint,
        }

    def clear_folder(self, resumes):
        """Move what an earlier run left to previous/, and say so.

        resumes: whether this run is there already, so that only another one's report is moved.
        """
        report = [self.out / name for name in REPORT_FILES]
        own = [self.folder / pattern for pattern in self.file_patterns]
        for path in (*report, *own):
            for unfinished in unfinished_files(path.parent, path.name):
                unfinished.unlink(missing_ok=True)
        if resumes:
            files = [] if self._is_own_report() else report
        else:
            kept = [path for pattern in RUN_FILES for path in self.folder.glob(pattern)]
            files = [*report, self.out / "run.log", *sorted(kept)]
        files = [path for path in files if path.exists()]
        if files:
            check_unused(self.out, FOLD_LOCKS, but=self.fold)
            print(f"Files of an earlier run were moved to {move_aside(files, self.out)}")

    def _is_own_report(self):
        """Whether data.txt is about this run."""
        try:
            text = (self.out / "data.txt").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        names = f"dataset: {self.settings.dataset}", f"model: {self.settings.model}"
        return set(names) <= set(text.splitlines()[:HEADER_LINES])

    def save(self, learner, mid_epoch=None):
        """Write all that it takes to continue. mid_epoch: as `train_one_epoch` gives it."""
        if is_first():
            content = {name: getattr(self, name) for name in self.saved_fields}
            content |= {"mid_epoch": mid_epoch, "random": torch.get_rng_state()}
            content["learner"] = learner.state_dict()
            checkpoint.save(self.state_file, self.identity() | content)

    def restore(self, content, learner):
        """Bring the run, a learner and all random states to where they were.

        Raises UserError unless the content is of these faces; prints another device.
        """
        if content["data"] != self.fingerprint:
            raise UserError(
                f"{self.state_file}: the faces, their annotations, or the network of --pretrain "
                "are not those that this run began with. Give the same, or start a new run "
                "without --resume."
            )
        device = self.runtime.describe()
        if content["device"] != device:
            print(
                f"The run began on {content['device']} and continues on {device}. "
                "Results will not be bit-identical to an uninterrupted run."
            )
        learner.load_state_dict(content["learner"])
        torch.set_rng_state(content["random"])
        for name in (*self.saved_fields, "mid_epoch"):
            setattr(self, name, content[name])

    def header(self, data, network):
        """{key: value} for the head of data.txt; data, network: more about the two."""
        settings = self.settings
        recipe = ", ".join(f"{key} {value}" for key, value in settings.effective_recipe().items())
        return {
            "dataset": settings.dataset,
            **data,
            "model": settings.model,
            **network,
            "recipe": f"{settings.recipe_name} ({recipe})",
            "seed": settings.seed,
            "device": self.runtime.describe(),
            "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        }

    def log(self, line):
        """Add a line with the time to run.log; no other file has clock times."""
        path = self.out / "run.log"
        with as_user_error(path, REMEDY):
            self.out.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as stream:
                stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def interrupted(self):
        """Say how to continue; returns the exit code of an interrupted program."""
        settings, runtime = self.settings, self.runtime
        flags = f"--resume --dataset {settings.dataset} --model {settings.model}"
        if runtime.asked != "auto":
            flags += f" --device {runtime.asked}"
        if runtime.compiled:
            flags += " --compile"
        if str(self.out) != ".":
            flags += f' --out "{self.out}"'
        print(f"Saved. Go on with: python mainpro_FER.py {flags}{self.more_flags}")
        return 130

    def finished(self):
        """Say where the results are."""
        print(f"Finished. Results: {self.out / 'data.txt'}; checkpoints: {self.folder}")


class Run(RunFolder):
    """A run over the three splits of a `Dataset`.

    teacher_probs: a teacher's probabilities of the training faces, (N, 7), or None; tensorboard:
    whether to write event files, too. `final` is what the end of the run added (None before),
    `crops` how test faces are cropped after every epoch: decided when the run begins, and kept on
    whatever device it continues.
    """

    saved_fields = ("history", "crops", "final", "teacher_probs")

    def __init__(self, settings, dataset, runtime, out, teacher_probs=None, tensorboard=False):
        splits = dataset.splits
        digest = hashlib.sha256("".join(each.fingerprint() for each in splits.values()).encode())
        super().__init__(settings, runtime, out, digest.hexdigest())
        self.dataset, self.teacher_probs = dataset, teacher_probs
        self.tasks = tuple(TASKS[name] for name in settings.tasks)
        self.final, self._drawn = None, None
        self.crops = settings.evaluation
        if self.crops == "auto":
            self.crops = "tencrop" if runtime.device.type == "cuda" else "center"
        self.board_writer = None
        if tensorboard and is_first():
            self.board_writer, self.more_flags = tensorboard_writer(), " --tensorboard"

    def begin(self):
        """Begin a new run: move the files of an earlier one to previous/, and say so."""
        if is_first():
            self.clear_folder(resumes=False)
            self.log(f"new run: {self.settings}")

    def resume(self, content, learner):
        """Continue from the content of last.t7. Raises UserError when it does not fit."""
        self.restore(content, learner)
        if is_first():
            self.clear_folder(resumes=True)
            self.log(f"resumed at epoch {self.epoch}")
            if self.history:
                self.write_report(pictures=True)

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
        if self.board_writer is not None:
            self._write_board(results)

    def finish(self, learner):
        """Evaluate the chosen models with ten crops where epochs used the centre; last report."""
        wait_for_all()  # the chosen models are read by all
        if self.final is None:
            tencrop = {}
            if self.settings.evaluation == "auto" and self.crops == "center":
                print("Ten-crop evaluation of the chosen models")
                names = {task.name: task.checkpoint("PublicTest") for task in self.tasks}
                files = {task: self.folder / name for task, name in names.items()}
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
        settings = self.settings
        return {
            "dataset": settings.dataset,
            "model": settings.model,
            "preprocessing": learner.preprocessing,
            "options": settings.network_options,
            "evaluation": self.crops,
            "constraint_table": learner.constraint_table,
            "versions": versions(),
        }

    def _write_board(self, results):
        with self.board_writer(self.folder / "tensorboard") as board:
            for split in SPLITS:
                for task in self.tasks:
                    for metric in task.rules.metrics(split):
                        value = results[split][task.name][metric]
                        board.add_scalar(f"{task.name}/{metric}/{split}", value, results["epoch"])

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
        settings = self.settings
        lines = {"tasks": ", ".join(settings.tasks)}
        if settings.effective_recipe().get("targets", "labels") != "labels":
            lines["accuracy"] = (
                "against the majority of the FER+ votes, of the faces that have one; in training "
                "against the class with most votes"
            )
        if self.teacher_probs is not None:
            lines["teacher"] = "the released network, by its centre crop"
        return lines | {"evaluation after every epoch": CROP_NAMES[self.crops]}


def _link(source, target):
    """Give a file another name: a hard link, or a copy where there are none."""
    with as_user_error(target, REMEDY), atomic_write(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def tensorboard_writer():
    """The class of TensorBoard's writers. Raises UserError when it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs a package: pip install tensorboard") from error
    return SummaryWriter
