"""A run on disk: its folder, last.t7, log, history and records; begin, resume, record, finish."""

import glob
import hashlib
import platform
import time
from functools import cached_property
from pathlib import Path

import torch

from models import checkpoint, free_options, network_class
from training.device import PRECISIONS
from training.engine import evaluate
from training.losses import constraint_tables
from training.records import (
    best_epochs,
    discard_unfinished,
    owned_files,
    record_files,
    reported_run,
    write_confusion,
    write_records,
)
from training.settings import Settings, default_model
from utils.distributed import is_first, wait_for_all
from utils.files import UserError, as_user_error, move_aside
from utils.tasks import SPLITS, TASKS, TEST_SPLITS

FORMAT = 4  # of last.t7
NOTHING = type(None)


class RunFolder:
    """What a training run of any kind keeps on disk. Of several processes only the first writes.

    settings: `Settings`; runtime: `Runtime`; out: output folder; fingerprint: of everything that is learnt from.
    `position` is where in the next epoch to go on (None: its beginning).

    A kind of run gives `kind`, its name in last.t7, `CONTENT`, {name: type} of what its last.t7 holds beside what
    every run's does, `content`, those values, and `write_records`.
    """

    kind = ""
    CONTENT = {}
    COMMON_CONTENT = {
        "kind": str, "settings": dict, "precision": str, "device": str, "data": str,
        "learner": (dict, NOTHING), "position": (dict, NOTHING), "random": (torch.Tensor, NOTHING),
    }  # fmt: skip

    def __init__(self, settings, runtime, out, fingerprint):
        self.settings, self.runtime = settings, runtime
        self.out = Path(out)
        self.folder = self.out / settings.run_name
        self.last = self.folder / "last.t7"
        self.fingerprint = fingerprint
        self.position = None

    def begin(self):
        """Make room for a new run: move an earlier one's files aside, and say so."""
        if is_first():
            discard_unfinished(self.out, self.settings.run_name)
            moved = move_aside(owned_files(self.out, self.settings.run_name), self.out)
            if moved:
                print(f"Files of an earlier run were moved to {moved}")
            self.write_first()
            self.log(f"new run: {self.settings}")

    def resume(self, content):
        """Take up the run whose last.t7 holds `content`. UserError when it is of another kind or began with other data.

        The learner is taken up by `restore`.
        """
        missing = lacking(content, self.CONTENT)
        if content["kind"] != self.kind or missing:
            raise incomplete(self.last, missing)
        if content["data"] != self.fingerprint:
            raise UserError(
                f"{self.last}: the faces, their annotations, or the network of --pretrain are not those that this run "
                "began with. Give the same, or start a new run without --resume."
            )
        if content["device"] != self.runtime.describe():
            slow = self.runtime.precision == "fp16" and self.runtime.device.type == "cpu"
            advice = " Its precision, fp16, is slow on a processor: --precision fp32 is faster." if slow else ""
            print(f"The run began on {content['device']} and continues on {self.runtime.describe()}: what follows "
                  f"differs from a run without the change, mostly by rounding.{advice}")  # fmt: skip
        self.position = content["position"]
        if is_first():
            discard_unfinished(self.out, self.settings.run_name)
            self.move_others_aside()

    def move_others_aside(self):
        """Make room for the records of this run, which goes on, where those of another stand, and say so."""
        if reported_run(self.out) not in (None, self.settings.run_name):
            moved = move_aside(record_files(self.out), self.out)
            print(f"The records of another run in {self.out} were moved to {moved}")

    def restore(self, learner, content):
        """Bring a new learner, and all chance, where they were when last.t7 was written. Raises UserError."""
        try:
            learner.load_state_dict(content["learner"])
            torch.set_rng_state(content["random"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.last} does not fit the network it names: start a new run without --resume."
            ) from error

    def save_last(self, learner, position=None):
        """Write last.t7, all that it takes to go on.

        learner: None where none is at work; position: what `train_one_epoch` gave, inside an epoch.
        """
        if is_first():
            content = {
                "format": FORMAT,
                "kind": self.kind,
                "settings": self.settings.to_plain(),
                "precision": self.runtime.precision,
                "device": self.runtime.describe(),
                "data": self.fingerprint,
                "learner": None if learner is None else learner.state_dict(),
                "position": position,
                "random": None if learner is None else torch.get_rng_state(),
            }
            checkpoint.save(self.last, content | self.content())

    def write_first(self):
        """Write what this kind of run reports before its first epoch."""

    def content(self):
        """What last.t7 holds of this kind of run."""
        raise NotImplementedError

    def write_records(self):
        """Rewrite every file that reports the run."""
        raise NotImplementedError

    def header(self, data, network):
        """{key: value} for the head of data.txt; data, network: what this kind says of its faces and its network."""
        settings = self.settings
        recipe = ", ".join(f"{key} {value}" for key, value in vars(settings.recipe).items())
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
        """Add a line with the time to run.log; no other file has clock times, so that equal runs give equal files."""
        path = self.out / "run.log"
        with as_user_error(path, "make room for it, then continue with --resume"):
            self.out.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as stream:
                stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def interrupted(self):
        """Say that everything is saved and how to go on; returns the exit code of an interrupted program."""
        print(f"Saved. Go on with: python mainpro_FER.py {self.flags()}")
        return 130

    def flags(self):
        """The flags with which this run goes on as it is run now."""
        settings, runtime = self.settings, self.runtime
        flags = f"--resume --dataset {settings.dataset}"
        if settings.model != default_model(settings.dataset):
            flags += f" --model {settings.model}"
        if runtime.asked != "auto":
            flags += f" --device {runtime.asked}"
        if runtime.compiled:
            flags += " --compile on"
        if str(self.out) != ".":
            flags += f' --out "{self.out}"'
        return flags

    def finished(self):
        """Say where the results are."""
        print(f"Finished. Results: {self.out / 'data.txt'}; checkpoints: {self.folder}")


class Run(RunFolder):
    """A run over the three splits of a `Dataset`.

    taught: a teacher's probabilities of the training faces, (N, 7), or None; tensorboard: whether to write event files
    too. `history` is the list of epoch results, `final` what the end of the run added (None before), `crops` how test
    faces are cropped after every epoch, a key of `engine.CROPS`: decided when the run begins, and kept on whatever
    device it goes on.
    """

    kind = "splits"
    CONTENT = {"crops": str, "history": list, "final": (dict, NOTHING), "taught": (torch.Tensor, NOTHING)}

    def __init__(self, settings, dataset, runtime, out, taught=None, tensorboard=False):
        splits = dataset.splits
        digest = hashlib.sha256("".join(faces.fingerprint() for faces in splits.values()).encode())
        super().__init__(settings, runtime, out, digest.hexdigest())
        self.dataset, self.taught = dataset, taught
        self.tasks = tuple(TASKS[name] for name in settings.tasks)
        training = splits["Training"]
        self.preprocessing = training.pixel_statistics()
        self.tables = constraint_tables(training.labels, training.vad)
        self.history, self.final = [], None
        self.crops = settings.evaluation
        if self.crops == "auto":
            self.crops = "tencrop" if runtime.device.type == "cuda" else "center"
        self.tensorboard = tensorboard and is_first()
        if self.tensorboard:
            board_writer()  # so that a package that is missing is told at once

    @property
    def epoch(self):
        """The epoch to train next."""
        return len(self.history)

    @property
    def options(self):
        """What makes the network, besides its tasks and its sharing; {} for one that is no trunk with heads."""
        settings = self.settings
        if network_class(settings.model).HAS_FOLDS:
            return {}
        return free_options(settings.model, settings.recipe.network_options)

    @cached_property
    def board(self):
        """TensorBoard's writer. It makes its file, so it is not asked for before an earlier run's are moved aside."""
        return board_writer()(self.folder / "tensorboard")

    def flags(self):
        """See `RunFolder`."""
        return super().flags() + (" --tensorboard" if self.tensorboard else "")

    def resume(self, content, learner):
        """See `RunFolder`. A last.t7 of an earlier version does not know its crops: they are decided anew."""
        content = {"crops": self.crops} | content
        super().resume(content)
        self.restore(learner, content)
        self.crops, self.history, self.final = content["crops"], content["history"], content["final"]
        if is_first():
            self.log(f"resumed at epoch {self.epoch}")
            if self.history:
                self.write_records()

    def content(self):
        """See `RunFolder`."""
        return {"crops": self.crops, "history": self.history, "final": self.final, "taught": self.taught}

    def record(self, results, learner, training_seconds, evaluation_seconds):
        """Keep the results of an epoch: best checkpoints, last.t7, then CSVs, workbook, curves, data.txt."""
        self.history.append(results)
        self.position = None
        if not is_first():
            return
        for task in self.tasks:
            for split, (epoch, _) in best_epochs(self.history, task).items():
                if epoch == results["epoch"]:
                    self._save_best(task, split, results, learner.averaged)
        self.save_last(learner)
        self.write_records()
        seen = len(self.dataset.splits["Training"])
        self.log(
            f"epoch {results['epoch']}: training {training_seconds:.1f} s ({seen / training_seconds:.0f} images/s), "
            f"evaluation {evaluation_seconds:.1f} s"
        )
        if self.tensorboard:
            self._show_on_board(results)

    def finish(self, learner):
        """After the last epoch: ten-crop figures of the chosen models where epochs used the centre, last records."""
        wait_for_all()  # the chosen models are read by all
        if self.final is None:
            tencrop = {}
            if self.settings.evaluation == "auto" and self.crops == "center":
                print("Ten-crop evaluation of the chosen models")
                tencrop = self._tencrop_chosen()
            self.final = {"tencrop": tencrop, "folder": self.settings.run_name}
            self.save_last(learner)
        if is_first():
            self.write_records()
            self.log("finished")

    def _save_best(self, task, split, results, model):
        content = checkpoint.task_checkpoint(model, task.name, results["epoch"], results, self._description())
        checkpoint.save(self.folder / task.checkpoint(split), content)
        if task.kind == "classification" and split == "PublicTest":
            for name in TEST_SPLITS:
                title = f"{self.settings.dataset} {name}, epoch {results['epoch']} (chosen on PublicTest)"
                matrix = results[name][task.name]["confusion"]
                write_confusion(self.folder / f"{name}_confusion.png", matrix, title)

    def _show_on_board(self, results):
        for split in SPLITS:
            for name, figures in results[split].items():
                for metric, value in figures.items():
                    if metric in TASKS[name].rules.test_metrics:
                        self.board.add_scalar(f"{name}/{metric}/{split}", value, results["epoch"])
        self.board.flush()

    def _description(self):
        return {
            "dataset": self.settings.dataset,
            "model": self.settings.model,
            "preprocessing": self.preprocessing,
            "options": self.options,
            "evaluation": self.crops,
            "constraint_table": self.tables.get(self.settings.recipe.constraint),
            "versions": versions(),
        }

    def _tencrop_chosen(self):
        shared = self.settings.recipe.sharing == "trunk"
        chosen, evaluated = {}, {}
        for task in self.tasks:
            epoch = best_epochs(self.history, task)["PublicTest"][0]
            network = epoch if shared else (epoch, task.name)  # tasks of one trunk and epoch have one network
            if network not in evaluated:
                model, content = checkpoint.load_model(self.folder / task.checkpoint("PublicTest"))
                model = self.runtime.for_inference(self.runtime.place(model))
                evaluated[network] = {
                    split: evaluate(
                        model, self.dataset.splits[split], content["tasks"], self.preprocessing, self.runtime,
                        "tencrop", f"{split}, epoch {epoch}",
                    )
                    for split in TEST_SPLITS
                }  # fmt: skip
            figures = {split: evaluated[network][split][task.name] for split in TEST_SPLITS}
            chosen[task.name] = {"epoch": epoch, **figures}
        return chosen

    def _measured_against(self):
        """What accuracy means in this run, for data.txt and who reads the CSVs; {} for FER2013's labels."""
        if self.settings.recipe.targets == "labels":
            return {}
        counts = (f"{int((self.dataset.splits[name].labels >= 0).sum()):,} {name}" for name in TEST_SPLITS)
        return {
            "accuracy": "against the majority of the FER+ votes, of the faces that have one: "
            f"{', '.join(counts)}; in training against the class with most votes",
        }

    def write_records(self):
        """See `RunFolder`."""
        splits, limit = self.dataset.splits, self.settings.limit
        limited = "" if limit is None else f" (--limit {limit}: no more of each)"
        data = {
            "faces": ", ".join(f"{name} {len(faces):,}" for name, faces in splits.items()) + limited,
            "source": self.dataset.description,
        }
        teacher = {} if self.taught is None else {"teacher": "the released network, by its centre crop"}
        network = {
            "tasks": ", ".join(self.settings.tasks),
            **self._measured_against(),
            **teacher,
            "evaluation after every epoch": {"tencrop": "ten-crop", "center": "centre crop"}.get(
                self.crops, self.crops
            ),
        }
        write_records(self.out, self.header(data, network), self.history, self.tasks, self.final)


def versions():
    """Versions that a number may depend on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def board_writer():
    """The class of TensorBoard's writers. UserError when the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs a package: pip install tensorboard") from error
    return SummaryWriter


def load_last(out, dataset=None, model=None):
    """(`Settings`, content) of the last.t7 to resume in the folder `out`.

    dataset, model: names that the run has, None where they were not given. UserError when there is not just one such
    run, or it is of another format.
    """
    pattern = "_".join("*" if name is None else glob.escape(name) for name in (dataset, model))
    found = sorted(Path(out).glob(f"{pattern}/last.t7"))
    if not found:
        raise UserError(f"Nothing to resume: {Path(out) / pattern / 'last.t7'} does not exist. Start a new run without "
                        "--resume.")  # fmt: skip
    if len(found) > 1:
        names = ", ".join(path.parent.name for path in found)
        raise UserError(f"{out} has several runs to resume, {names}: say which with --dataset and --model.")
    path, run_name = found[0], found[0].parent.name
    content = checkpoint.load(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of this program; start a new run.")
    missing = lacking(content, RunFolder.COMMON_CONTENT)
    if missing:
        raise incomplete(path, missing)
    settings = Settings.from_plain(content["settings"])
    if settings.run_name != run_name or content["precision"] not in PRECISIONS:
        raise UserError(f"{path} is of another run, {settings.run_name}: start a new run without --resume.")
    return settings, content


def lacking(content, expected):
    """Names of `expected`, {name: type}, that are not so in the dict `content`."""
    return [name for name, kind in expected.items() if name not in content or not isinstance(content[name], kind)]


def incomplete(path, missing):
    """The UserError about a last.t7 that lacks something."""
    return UserError(f"{path} lacks {', '.join(missing) or 'a run of its kind'}: start a new run without --resume.")
