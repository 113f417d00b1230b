"""A run on disk: its history, its checkpoints, its records; begin, resume, record, finish."""

import hashlib
import platform
import time
from contextlib import contextmanager
from pathlib import Path

import torch

from models import checkpoint
from training.engine import evaluate
from training.losses import constraint_tables
from training.records import best_epochs, discard_unfinished, owned_files, write_confusion, write_records
from training.runtime import PRECISIONS
from training.settings import Settings, default_model
from utils.files import UserError, as_user_error, move_aside
from utils.parallel import is_first, wait_for_all
from utils.tasks import SPLITS, TASKS, TEST_SPLITS

FORMAT = 2
NOTHING = type(None)
# What last.t7 holds beside the network, {name: what it is}: of every run, of one over splits, of one over folds.
CONTENT = {"settings": dict, "precision": str, "device": str, "data": str, "position": (dict, NOTHING)}
SPLIT_CONTENT = {
    "averaged": dict, "optimizer": dict, "history": list, "final": (dict, NOTHING), "random": torch.Tensor,
}  # fmt: skip
FOLD_CONTENT = {"learner": (dict, NOTHING), "rows": list, "results": list}


def fingerprint(splits):
    """SHA-256 of all faces and annotations: a run is only resumed on the data it began with."""
    return hashlib.sha256("".join(faces.fingerprint() for faces in splits.values()).encode()).hexdigest()


class Run:
    """What a training run keeps on disk and in its history.

    settings: `Settings`; dataset: `Dataset`; runtime: `Runtime`; out: output folder; tensorboard: whether to
    write event files too. Of several processes only the first writes.
    `history` is the list of epoch results, `position` where in the next epoch to go on (None: its
    beginning), `final` what the end of the run added (None before).
    """

    def __init__(self, settings, dataset, runtime, out, tensorboard=False):
        self.settings, self.dataset, self.runtime = settings, dataset, runtime
        self.out = Path(out)
        self.folder = self.out / settings.run_name
        self.tasks = tuple(TASKS[name] for name in settings.tasks)
        training = dataset.splits["Training"]
        self.preprocessing = training.pixel_statistics()
        self.tables = constraint_tables(training.labels, training.vad)
        self.fingerprint = fingerprint(dataset.splits)
        self.history, self.position, self.final = [], None, None
        self._board_writer = board_writer() if tensorboard and is_first() else None
        self.board = None

    @property
    def epoch(self):
        """The epoch to train next."""
        return len(self.history)

    @property
    def crops(self):
        """How test faces are cropped after every epoch: "tencrop" or "center"."""
        if self.settings.evaluation == "auto":
            return "tencrop" if self.runtime.device.type == "cuda" else "center"
        return self.settings.evaluation

    def begin(self):
        """Make room for a new run: move an earlier one's files aside, and say so."""
        if not is_first():
            return
        archive_previous_run(self.settings, self.out)
        log(self.out, f"new run: {self.settings}")
        self._open_board()

    def resume(self, content, learner):
        """Take up the run whose last.t7 holds `content`: learner, history, position, random state."""
        if content["data"] != self.fingerprint:
            raise UserError(
                f"{self.folder / 'last.t7'}: the faces or their annotations are not those that this run began with. "
                "Give the same --data, or start a new run without --resume."
            )
        with state_errors_as_user_error(self.folder / "last.t7"):
            learner.load_state_dict(content)
            torch.set_rng_state(content["random"])
        report_other_device(content, self.runtime)
        self.history, self.position, self.final = content["history"], content["position"], content["final"]
        if is_first():
            discard_unfinished(self.out, self.settings.run_name)
            log(self.out, f"resumed at epoch {self.epoch}")
            self._open_board()
            if self.history:
                self._write_records()

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
        self._write_records()
        self._log_epoch(results["epoch"], training_seconds, evaluation_seconds)
        if self.board:
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
            self._write_records()
            log(self.out, "finished")

    def save_last(self, learner, position=None):
        """Write last.t7, the whole state of the loop. position: what `train_one_epoch` gave, inside an epoch."""
        if not is_first():
            return
        content = {
            **common_content(self),
            **learner.state_dict(),
            "history": self.history,
            "position": position,
            "final": self.final,
            "random": torch.get_rng_state(),
        }
        checkpoint.save(self.folder / "last.t7", content)

    def _log_epoch(self, epoch, training_seconds, evaluation_seconds):
        """Clock times go to run.log, so that equal runs give equal CSVs and checkpoints."""
        seen = len(self.dataset.splits["Training"])
        log(
            self.out,
            f"epoch {epoch}: training {training_seconds:.1f} s ({seen / training_seconds:.0f} images/s), "
            f"evaluation {evaluation_seconds:.1f} s",
        )

    def _save_best(self, task, split, results, model):
        content = checkpoint.task_checkpoint(model, task.name, results["epoch"], results, self._description())
        checkpoint.save(self.folder / task.checkpoint(split), content)
        if task.kind == "classification" and split == "PublicTest":
            for name in TEST_SPLITS:
                title = f"{self.settings.dataset} {name}, epoch {results['epoch']} (chosen on PublicTest)"
                matrix = results[name][task.name]["confusion"]
                write_confusion(self.folder / f"{name}_confusion.png", matrix, title)

    def _open_board(self):
        if self._board_writer:
            self.board = self._board_writer(self.folder / "tensorboard")

    def _show_on_board(self, results):
        for split in SPLITS:
            for name, figures in results[split].items():
                for metric, value in figures.items():
                    if not isinstance(value, list):
                        self.board.add_scalar(f"{name}/{metric}/{split}", value, results["epoch"])
        self.board.flush()

    def _description(self):
        return {
            "dataset": self.settings.dataset,
            "model": self.settings.model,
            "preprocessing": self.preprocessing,
            "evaluation": self.crops,
            "consistency_penalty": self.tables.get("table"),
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

    def _write_records(self):
        write_records(self.out, self._header(), self.history, self.tasks, self.final)

    def _header(self):
        settings, splits = self.settings, self.dataset.splits
        recipe = ", ".join(f"{key} {value}" for key, value in vars(settings.recipe).items())
        return {
            "dataset": settings.dataset,
            "faces": ", ".join(f"{name} {len(faces):,}" for name, faces in splits.items()),
            "source": self.dataset.description,
            "model": settings.model,
            "tasks": ", ".join(settings.tasks),
            "recipe": f"{settings.recipe_name} ({recipe})",
            "seed": settings.seed,
            "evaluation after every epoch": "ten-crop" if self.crops == "tencrop" else "centre crop",
            "device": self.runtime.describe(),
            "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        }


def archive_previous_run(settings, out):
    """Before a new run: move an earlier one's files aside, and say so."""
    discard_unfinished(out, settings.run_name)
    moved = move_aside(owned_files(out, settings.run_name), out)
    if moved:
        print(f"Files of an earlier run were moved to {moved}")


def common_content(run):
    """What last.t7 holds of every run, over splits or over folds."""
    return {
        "format": FORMAT,
        "settings": run.settings.to_plain(),
        "precision": run.runtime.precision,
        "device": run.runtime.describe(),
        "data": run.fingerprint,
    }


@contextmanager
def state_errors_as_user_error(path):
    """Turn what a state of another network raises when it is loaded into a UserError about the file `path`."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not fit the network it names: start a new run without --resume.") from error


def report_other_device(content, runtime):
    """Say so when the run whose last.t7 holds `content` began on another device."""
    if content["device"] != runtime.describe():
        print(f"The run began on {content['device']} and goes on on {runtime.describe()}: what follows differs by "
              "rounding from a run without the change.")  # fmt: skip


def log(out, line):
    """Add a line with the time to run.log in the folder `out`. UserError when it cannot be written."""
    path = out / "run.log"
    with as_user_error(path, "make room for it, then continue with --resume"):
        out.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def print_resume_command(settings, out):
    """Tell the user that everything is saved; returns the exit code of an interrupted program."""
    flags = f"--resume --dataset {settings.dataset}"
    if settings.model != default_model(settings.dataset):
        flags += f" --model {settings.model}"
    if str(out) != ".":
        flags += f' --out "{out}"'
    print(f"Saved. Go on with: python mainpro_FER.py {flags}")
    return 130


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


def load_last(out, run_name):
    """(`Settings`, content) of the last.t7 to resume. UserError when there is none or it is another format."""
    path = Path(out) / run_name / "last.t7"
    if not path.exists():
        raise UserError(f"Nothing to resume: {path} does not exist. Start a new run without --resume.")
    content = checkpoint.load(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of this program; start a new run.")
    expected = CONTENT | (FOLD_CONTENT if "rows" in content else SPLIT_CONTENT)
    wrong = [name for name, kinds in expected.items() if name not in content or not isinstance(content[name], kinds)]
    if wrong:
        raise UserError(f"{path} lacks {', '.join(wrong)}: start a new run without --resume.")
    settings = Settings.from_plain(content["settings"])
    if settings.run_name != run_name or content["precision"] not in PRECISIONS:
        raise UserError(f"{path} is of another run, {settings.run_name}: start a new run without --resume.")
    return settings, content
