"""One fold of a cross-validation on disk: its state, its result, its networks.

Folds of one cross-validation share an output folder and a report, and nothing else: several
commands may train several folds of it at a time. Folds count from 1.
"""

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from data.subjects.folds import FOLD_RULES, FOLDS, folds_table
from models import MODELS, checkpoint
from models.fersnet import Discriminator, SmallClassifier
from training.config import PATHS, Settings
from training.fersnet.engine import (
    counterparts,
    recognition_metrics,
    recognize,
    synthesize_each,
    synthesize_to_balance,
)
from training.fersnet.guides import (
    PREPROCESSING,
    expression_network,
    identity_network,
    train_classifier,
)
from training.fersnet.learner import FERSNetLearner
from training.fersnet.report import write_report
from training.fersnet.sheet import contact_sheet
from training.report import write_file
from training.run import (
    RunFolder,
    discard_unfinished,
    load_result,
    move_other_report,
    owned_files,
    reported_run,
    versions,
)
from utils.files import UserError, as_user_error, move_aside, write_text
from utils.lock import FOLD_LOCKS, check_unused, report_lock
from utils.text import counted

SAVE_SECONDS = 60
SHEET_SUBJECTS = 4


class FoldRun(RunFolder):
    """One fold of a cross-validation of FERSNet.

    faces: all `SubjectFaces` on runtime.device; fold: 1 to 10. `training` and `held_out` are faces
    that have no subject in common, `rows` the results of finished epochs, `result` that of the
    fold, None before its end.
    """

    def __init__(self, settings, faces, runtime, out, fold):
        digest = hashlib.sha256(faces.fingerprint().encode())
        if settings.pretrain is not None:
            checkpoint.load_network(settings.pretrain)  # raises when it is no checkpoint
            digest.update(Path(settings.pretrain).read_bytes())
        super().__init__(settings, runtime, out, digest.hexdigest(), f"last_fold{fold}.t7")
        self.fold, self.faces, self.recipe = fold, faces, settings.recipe
        self.seed = settings.seed * FOLDS + fold - 1
        self.result_file = self.folder / f"fold{fold}.json"
        self.fold_of = FOLD_RULES[self.recipe.folds](faces.labels, faces.subjects, FOLDS)
        held_out = self.fold_of == fold - 1
        self.training, self.held_out = faces.select(~held_out), faces.select(held_out)
        self.rows, self.result = [], None
        self._saved = time.monotonic()
        if settings.pretrain is not None:
            self._check_pretrained()

    @property
    def epoch(self):
        """The epoch to train next."""
        return len(self.rows)

    def begin(self, resume):
        """Begin this fold, or continue it; the `FERSNetLearner`, or None where it is finished.

        A new run of other settings or faces moves all files of the earlier one to previous/, one of
        the same settings only what an interrupted run left of this fold. Raises UserError when the
        files to move are in use, or are not those of the run to resume.
        """
        content = None
        with report_lock(self.out):
            discard_unfinished(self.out, self.settings.run_name, self._own_files())
            if resume:
                self._check_results()
                move_other_report(self.out, self.settings.run_name)
            else:
                self._move_earlier()
            finished = self._is_finished()
            if finished:
                self.state_file.unlink(missing_ok=True)
            else:
                content = checkpoint.load(self.state_file) if self.state_file.exists() else None
                self.rows = [] if content is None else content["rows"]
                self._write_result()
            table = folds_table(self.faces, self.fold_of).encode()
            write_file(self.out / "folds.csv", table, "it still shows other folds")
            write_report(self.out, self.folder)
        return None if finished else self._learner(content)

    def _own_files(self):
        """Patterns of the names of this fold's files in `folder`."""
        number = self.fold
        return (
            f"fold{number}.json", f"fold{number}.png", f"last_fold{number}.t7",
            f"Fold{number:02d}_model_*.t7",
        )  # fmt: skip

    def _is_finished(self):
        """Whether the result file is there and holds the result."""
        return self.result_file.exists() and load_result(self.result_file)["result"] is not None

    def _check_results(self):
        """Raise UserError unless all results in the folder are of this cross-validation."""
        for path in sorted(self.folder.glob("fold*.json")):
            if not self._is_same_run(load_result(path)):
                raise UserError(
                    f"{path}: its settings, its faces or the network of --pretrain are not those "
                    "of this run. Give the same, or start a new run without --resume."
                )

    def _move_earlier(self):
        """Move what a new run would overwrite to previous/."""
        name = self.settings.run_name
        try:
            results = [load_result(path) for path in sorted(self.folder.glob("fold*.json"))]
            same = bool(results) and all(map(self._is_same_run, results))
        except UserError:  # written by another version, or damaged
            same = False
        if same and self._is_finished():
            return
        files = owned_files(self.out, name)
        if same:
            files = [path for kind in self._own_files() for path in self.folder.glob(kind)]
        own = same or not any(path.exists() for path in files)
        if not own or reported_run(self.out) not in (None, name):
            check_unused(self.out, FOLD_LOCKS, but=self.fold)
            move_other_report(self.out, name)
        moved = move_aside(files, self.out)
        if moved:
            print(f"Files of an earlier run were moved to {moved}")

    def _is_same_run(self, content):
        """Whether a result is of the same cross-validation, whichever fold it is."""
        free = {name: getattr(self.settings, name) for name in ("fold", *PATHS)}
        settings = replace(Settings.from_plain(content["settings"]), **free)
        known = content["data"], content["precision"]
        return settings == self.settings and known == (self.fingerprint, self.runtime.precision)

    def _learner(self, content=None):
        """The `FERSNetLearner` of this fold: new, or as the content of its state file has it."""
        if content is not None:
            self.check_same_data(content)
        torch.manual_seed(self.seed)
        network = self._network()
        others = (None, None, None)
        if network.synthesizes:
            classes = len(self.faces.class_names)
            others = (Discriminator(classes, network.base), *self._guides(content))
        if content is None and self.settings.pretrain is not None:
            checkpoint.load_pretrained(network, self.settings.pretrain)
        learner = FERSNetLearner(
            network, others, self.recipe, self.training, self.seed, self.runtime
        )
        if content is not None:
            self.restore(learner, content)
        return learner

    def _network(self):
        return MODELS[self.settings.model](("classify",), self.recipe.sharing, **self._options())

    def _options(self):
        """Arguments of the network, besides its tasks and its sharing."""
        faces = self.faces
        return {
            "classes": len(faces.class_names),
            "size": faces.size,
            "kernel": self.recipe.kernel,
        }

    def _guides(self, content):
        """The networks of identities and expressions: trained, or new where `content` has them.

        Where the recipe gives the expression no weight, its network is None.
        """
        if content is not None:
            subjects = len(self.training.subjects.unique())
            return SmallClassifier(subjects), SmallClassifier(len(self.faces.class_names))
        began, expression = time.perf_counter(), None
        print(f"fold {self.fold}: training the networks of identity and expression", flush=True)
        identity = identity_network(self.training, self.seed, self.runtime)
        if self.recipe.expression:
            expression = expression_network(self.training, self.seed, self.runtime)
        self.log(f"fold {self.fold} guides: {time.perf_counter() - began:.1f} s")
        return identity, expression

    def _check_pretrained(self):
        """Raise UserError for a network of --pretrain that does not fit or saw held-out people."""
        content = checkpoint.load_pretrained(self._network(), self.settings.pretrain)
        if content.get("dataset") != self.settings.dataset:
            return
        unseen = content.get("held_out", ())
        seen = [name for name in self._held_out_names() if name not in unseen]
        if seen:
            raise UserError(
                f"{self.settings.pretrain} was trained on {len(seen)} of the people of fold "
                f"{self.fold} ({seen[0]}, ...), so they would not be held out: give a network that "
                "was trained on FER2013."
            )

    def _held_out_names(self):
        numbers = self.held_out.subjects.unique().tolist()
        return [self.faces.subject_names[number] for number in numbers]

    def resume_flags(self):
        """See `RunFolder`."""
        fold = self.settings.fold
        return super().resume_flags() + ("" if fold is None else f" --fold {fold}")

    def save(self, learner, mid_epoch=None):
        """Write the state file."""
        self.save_state(learner, mid_epoch, rows=self.rows)
        self._saved = time.monotonic()

    def record(self, metrics, tested, learner, seconds):
        """Keep the results of an epoch: the state, now and then, then the result and the report."""
        epoch, self.mid_epoch = self.epoch, None
        row = {"fold": self.fold, "epoch": epoch, "Training": metrics, "Test": tested}
        self.rows.append(row)
        # The state is large; a killed run repeats the epochs that it lacks, with the same results.
        last = self.epoch == self.recipe.epochs
        if last or time.monotonic() - self._saved > SAVE_SECONDS:
            self.save(learner)
        self._report()
        self.log(f"fold {self.fold}, epoch {epoch}: {seconds:.1f} s")

    def finish(self, learner):
        """After the last epoch: networks, fine-tuning, contact sheet, the fold's result."""
        began = time.perf_counter()
        network = self.runtime.for_inference(learner.averaged)
        result = summarize(self.rows, self.held_out)
        self._save_network("classify", learner.averaged, result)
        if network.synthesizes:
            sheet = self._contact_sheet(network)
            path = self.folder / f"fold{self.fold}.png"
            write_file(path, sheet, "it still shows earlier faces")
        if self.recipe.synthetic:
            result |= self._tune(learner.averaged, network)
            if result["TunedFaces"]:
                self._save_network("tuned", learner.averaged, result)
        self.result = result
        self._report()
        self.state_file.unlink(missing_ok=True)
        self.log(f"fold {self.fold} finished: {time.perf_counter() - began:.1f} s")

    def _tune(self, averaged, network):
        """Fine-tune the recognition of `averaged` with real faces and those of `network`.

        The running statistics of its batch norms stay those of real faces. Returns what it adds to
        the result.
        """
        recipe, tested = self.recipe, []
        images, labels = synthesize_to_balance(
            network, self.training, recipe.synthetic, self.seed, self.runtime
        )
        message = f"fold {self.fold}: tuning with {counted(len(labels), 'synthesized face')}"
        if recipe.agreed:
            agreed = recognize(network, images, self.runtime).argmax(dim=1) == labels
            images, labels = images[agreed], labels[agreed]
            left_out = int((~agreed).sum())
            message += f" less {left_out:,} in which the network itself reads another expression"
        print(message, flush=True)
        self.log(message)
        if not len(labels):
            return {"TunedFaces": 0}
        train_classifier(
            averaged,
            torch.cat((self.training.images, images)),
            torch.cat((self.training.labels, labels)),
            recipe.tuning_epochs,
            self.seed,
            self.runtime,
            rate=recipe.tuning_rate,
            weight_decay=recipe.weight_decay,
            label_smoothing=recipe.label_smoothing,
            fixed_norms=True,
            after_epoch=lambda tuned: tested.append(
                recognition_metrics(tuned, self.held_out, self.runtime)
            ),
        )
        result = {"TunedFaces": len(labels), "tuned_confusion": tested[-1]["confusion"]}
        for name in ("Acc", "SeqAcc"):
            result[f"Tuned{name}"] = tested[-1][name]
            result[f"BestTuned{name}"] = max(each[name] for each in tested)
        return result

    def _save_network(self, kind, network, result):
        description = {
            "dataset": self.settings.dataset,
            "model": self.settings.model,
            "options": self._options(),
            "class_names": list(self.faces.class_names),
            "preprocessing": PREPROCESSING,
            "held_out": self._held_out_names(),
            "versions": versions(),
        }
        content = checkpoint.task_checkpoint(
            network, "classify", self.recipe.epochs - 1, result, description
        )
        checkpoint.save(self.folder / f"Fold{self.fold:02d}_model_{kind}.t7", content)

    def _contact_sheet(self, network):
        """The bytes of a PNG: held-out faces with every expression, the real ones below."""
        held_out = self.held_out
        subjects = held_out.subjects.unique()[:SHEET_SUBJECTS]
        first = torch.stack([(held_out.subjects == each).nonzero()[0, 0] for each in subjects])
        expressions = range(len(held_out.class_names))
        synthesized = synthesize_each(network, held_out.images[first], expressions, self.runtime)
        synthesized, images = synthesized.cpu().numpy(), held_out.images.cpu().numpy()
        rows = []
        for number, face in enumerate(first.tolist()):
            name = held_out.subject_names[held_out.subjects[face]]
            label = held_out.class_names[held_out.labels[face]]
            real = counterparts(held_out)[face].tolist()
            rows.append((f"{name} {label}", [images[face], *synthesized[number]]))
            rows.append(("real", [None, *(images[each] if each >= 0 else None for each in real)]))
        return contact_sheet(rows, ("input", *held_out.class_names))

    def _write_result(self):
        """Write fold<K>.json."""
        content = self.identity() | {
            "header": self.header(
                {
                    "source": self.faces.description,
                    "protocol": f"{FOLDS} folds, {self.recipe.folds}, no subject in two of them "
                    "(folds.csv)",
                },
                {"pre-trained": self.settings.pretrain or "no"},
            ),
            "class_names": list(self.faces.class_names),
            "rows": self.rows,
            "result": self.result,
        }
        with as_user_error(self.result_file, "make room for it, then continue with --resume"):
            write_text(self.result_file, json.dumps(content) + "\n")

    def _report(self):
        """Write the result of this fold, and the report of all."""
        self._write_result()
        with report_lock(self.out):
            write_report(self.out, self.folder)


def summarize(rows, held_out):
    """The result of a fold: its last epoch, its best one, and what is held out."""
    best = max(rows, key=lambda row: row["Test"]["Acc"])
    return {
        "fold": rows[0]["fold"],
        "faces": len(held_out),
        "sequences": len(held_out.sequences.unique()),
        **rows[-1]["Test"],
        "BestAcc": best["Test"]["Acc"],
        "BestEpoch": best["epoch"],
        "BestSeqAcc": max(row["Test"]["SeqAcc"] for row in rows),
    }
