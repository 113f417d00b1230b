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
from models.fersnet import Discriminator
from training.config import PATHS, Settings
from training.fersnet.engine import (
    recognition_metrics,
    recognize,
    synthesize_each,
    synthesize_to_balance,
)
from training.fersnet.guides import (
    PREPROCESSING,
    Supervision,
    expression_network,
    identity_network,
    supervise,
)
from training.fersnet.learner import FERSNetLearner
from training.fersnet.report import result_files, write_report
from training.fersnet.sheet import contact_sheet
from training.report import write_file
from training.run import REMEDY, RunFolder, load_state, versions
from utils.files import UserError, as_user_error, write_text
from utils.lock import report_lock
from utils.text import counted

SAVE_SECONDS = 60
SHEET_SUBJECTS = 4


class FoldRun(RunFolder):
    """One fold of a cross-validation of FERSNet.

    faces: all `SubjectFaces` on runtime.device; fold: 1 to 10. `training` and `held_out` are faces
    that have no subject in common, `result` is that of the fold, None before its end.
    """

    def __init__(self, settings, faces, runtime, out, fold):
        digest = hashlib.sha256(faces.fingerprint().encode())
        if settings.pretrain is not None:
            checkpoint.load_network(settings.pretrain)  # raises when it is no checkpoint
            digest.update(Path(settings.pretrain).read_bytes())
        super().__init__(settings, runtime, out, digest.hexdigest(), fold)
        self.faces, self.recipe = faces, settings.recipe
        self.seed = settings.seed * FOLDS + fold - 1
        self.result_file = self.folder / f"fold{fold}.json"
        self.file_patterns = (f"*fold{fold}.*", f"Fold{fold:02d}_model_*")
        self.more_flags = "" if settings.fold is None else f" --fold {fold}"
        self.fold_of = FOLD_RULES[self.recipe.folds](faces.labels, faces.subjects, FOLDS)
        held_out = self.fold_of == fold - 1
        self.training, self.held_out = faces.select(~held_out), faces.select(held_out)
        people = self.held_out.subjects.unique().tolist()
        self.held_out_names = [faces.subject_names[number] for number in people]
        self.result, self._saved = None, time.monotonic()
        if settings.pretrain is not None:
            self._check_pretrained()

    def begin(self, resume):
        """Begin this fold, or continue it; the `FERSNetLearner`, or None where it is finished.

        Files of a run of other settings or faces are moved to previous/. Raises UserError when
        another command uses them, or where they are those of the run to resume.
        """
        with report_lock(self.out):
            results = result_files(self.folder)
            others = [path for path in results if not self._is_same_run(path)]
            if resume and others:
                raise UserError(
                    f"{others[0]}: its settings, its faces or the network of --pretrain are not "
                    "those of this run. Give the same, or start a new run without --resume."
                )
            self.clear_folder(resumes=bool(results) and not others)
            if self.result_file.exists():
                self.result = load_state(self.result_file)["result"]
            if self.result is not None:
                self.state_file.unlink(missing_ok=True)
            content = load_state(self.state_file) if self.state_file.exists() else None
            if self.result is None:
                self.history = [] if content is None else content["history"]
                self._write_result()
            write_file(self.out / "folds.csv", folds_table(self.faces, self.fold_of).encode())
            write_report(self.out, self.folder)
        return self._learner(content) if self.result is None else None

    def _is_same_run(self, path):
        """Whether a result is of the same cross-validation, whichever fold it is."""
        try:
            return _comparable(load_state(path)) == _comparable(self.identity())
        except UserError:  # damaged, or written by another version
            return False

    def _learner(self, content):
        """The `FERSNetLearner` of this fold: new, or as the content of its state file has it."""
        torch.manual_seed(self.seed)
        network, others = self._network(), (None, None, None)
        if network.synthesizes:
            discriminator = Discriminator(network.classes, network.base)
            others = (discriminator, *self._guides(learn=content is None))
        if content is None and self.settings.pretrain is not None:
            checkpoint.load_pretrained(network, self.settings.pretrain)
        learner = FERSNetLearner(
            network, others, self.recipe, self.training, self.seed, self.runtime
        )
        if content is not None:
            self.restore(content, learner)
        return learner

    def _network(self):
        return MODELS[self.settings.model](("classify",), self.recipe.sharing, **self._options())

    def _options(self):
        """Arguments of the network, besides its tasks and its sharing."""
        classes, size = len(self.faces.class_names), self.faces.size
        return {"classes": classes, "size": size, "kernel": self.recipe.kernel}

    def _guides(self, learn):
        """The networks of identities and of expressions, None where that has no weight.

        learn: whether to train them; else their weights are loaded later.
        """
        began, arguments = time.perf_counter(), (self.training, self.seed, self.runtime, learn)
        if learn:
            print(f"fold {self.fold}: training the networks of identity and expression", flush=True)
        identity = identity_network(*arguments)
        expression = expression_network(*arguments) if self.recipe.expression else None
        self.log(f"fold {self.fold} guides: {time.perf_counter() - began:.1f} s")
        return identity, expression

    def _check_pretrained(self):
        """Raise UserError for a network of --pretrain that does not fit or saw held-out people."""
        content = checkpoint.load_pretrained(self._network(), self.settings.pretrain)
        seen = set(self.held_out_names) - set(content.get("held_out", ()))
        if content.get("dataset") == self.settings.dataset and seen:
            raise UserError(
                f"{self.settings.pretrain} was trained on {len(seen)} of the people of fold "
                f"{self.fold} ({min(seen)}, ...), so they would not be held out: give a network "
                "that was trained on FER2013."
            )

    def record(self, metrics, tested, learner, seconds):
        """Keep the results of an epoch: the state, now and then, then the result and the report."""
        epoch, self.mid_epoch = self.epoch, None
        self.history.append({"epoch": epoch, "Training": metrics, "Test": tested})
        # The state is large; a killed run repeats the epochs that it lacks, with the same results.
        last = self.epoch == self.recipe.epochs
        if last or time.monotonic() - self._saved > SAVE_SECONDS:
            self.save(learner)
            self._saved = time.monotonic()
        self._report()
        self.log(f"fold {self.fold}, epoch {epoch}: {seconds:.1f} s")

    def finish(self, learner):
        """After the last epoch: networks, fine-tuning, contact sheet, the fold's result."""
        began = time.perf_counter()
        network = self.runtime.for_inference(learner.averaged)
        result = self._summarize()
        self._save_network("classify", learner.averaged, result)
        if network.synthesizes:
            write_file(self.folder / f"fold{self.fold}.png", self._contact_sheet(network))
        if self.recipe.synthetic:
            result |= self._tune(learner.averaged, network)
            if result["TunedFaces"]:
                self._save_network("tuned", learner.averaged, result)
        self.result = result
        self._report()
        self.state_file.unlink(missing_ok=True)
        self.log(f"fold {self.fold} finished: {time.perf_counter() - began:.1f} s")

    def _summarize(self):
        """The result of the fold: its last epoch, its best one, and what is held out."""
        tests = [row["Test"] for row in self.history]
        accuracies = [test["Acc"] for test in tests]
        return {
            "faces": len(self.held_out),
            "sequences": len(self.held_out.sequences.unique()),
            **tests[-1],
            "BestAcc": max(accuracies),
            "BestEpoch": accuracies.index(max(accuracies)),
            "BestSeqAcc": max(test["SeqAcc"] for test in tests),
        }

    def _tune(self, averaged, network):
        """Fine-tune the recognition of `averaged` with real faces and those of `network`.

        The running statistics of its batch norms stay those of real faces. Returns what it adds to
        the result.
        """
        recipe, real = self.recipe, self.training
        images, labels = synthesize_to_balance(
            network, real, recipe.synthetic, self.seed, self.runtime
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
        how = Supervision(
            recipe.tuning_epochs, recipe.tuning_rate, recipe.weight_decay, recipe.label_smoothing,
            fixed_norms=True,
        )  # fmt: skip
        faces = torch.cat((real.images, images)), torch.cat((real.labels, labels))
        tested = [
            recognition_metrics(tuned, self.held_out, self.runtime)
            for tuned in supervise(averaged, *faces, how, self.seed, self.runtime)
        ]
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
            "held_out": self.held_out_names,
            "versions": versions(),
        }
        content = checkpoint.task_checkpoint(
            network, "classify", self.recipe.epochs - 1, result, description
        )
        checkpoint.save(self.folder / f"Fold{self.fold:02d}_model_{kind}.t7", content)

    def _contact_sheet(self, network):
        """The bytes of a PNG: a face of some held-out people with every expression."""
        faces, rows = self.held_out, []
        for subject in faces.subjects.unique()[:SHEET_SUBJECTS].tolist():
            face = faces.images[faces.subjects == subject][:1]
            made = synthesize_each(network, face, range(len(faces.class_names)), self.runtime)
            rows.append((faces.subject_names[subject], torch.cat((face, made[0])).cpu().numpy()))
        return contact_sheet(rows, ("input", *faces.class_names))

    def _write_result(self):
        """Write fold<K>.json."""
        protocol = f"{FOLDS} folds, {self.recipe.folds}, no subject in two of them (folds.csv)"
        content = self.identity() | {
            "header": self.header(
                {"source": self.faces.description, "protocol": protocol},
                {"pre-trained": self.settings.pretrain or "no"},
            ),
            "class_names": list(self.faces.class_names),
            "history": self.history,
            "result": self.result,
        }
        with as_user_error(self.result_file, REMEDY):
            write_text(self.result_file, json.dumps(content) + "\n")

    def _report(self):
        """Write the result of this fold, and the report of all."""
        self._write_result()
        with report_lock(self.out):
            write_report(self.out, self.folder)


def _comparable(content):
    """What the results of one cross-validation have in common."""
    settings = Settings.from_plain(content["settings"])
    return replace(settings, **dict.fromkeys(PATHS)), content["data"], content["precision"]
