"""Cross-validation on disk: folds by subject, their history, checkpoints and records; begin, resume, finish."""

import hashlib
import time
from functools import partial
from pathlib import Path

import torch

from data.subjects.folds import FOLDS, assign_folds, folds_table
from models import MODELS, checkpoint
from models.fersnet import Discriminator, SmallClassifier
from training.fersnet.engine import counterparts, draw_each, draw_to_balance, evaluate_fold, share_read_as_wanted
from training.fersnet.guides import PREPROCESSING, expression_network, identity_network, judge_network, train_classifier
from training.fersnet.learner import FERSNetLearner
from training.fersnet.records import write_records
from training.fersnet.sheet import contact_sheet
from training.records import discard_unfinished, write_file
from training.run import (
    archive_previous_run,
    common_content,
    log,
    report_other_device,
    state_errors_as_user_error,
    versions,
)
from utils.files import UserError

SHEET_SUBJECTS = 4


class FoldRun:
    """What a cross-validation keeps on disk and in its history.

    settings: `Settings` with a `FERSNetRecipe`; faces: `SubjectFaces` on runtime.device; out: output folder.
    `rows` are the results of finished epochs, in order, `results` those of finished folds, `position` where in the
    next epoch to go on (None: its beginning). Folds count from 0 here, from 1 in everything that is written.
    """

    def __init__(self, settings, faces, runtime, out):
        self.settings, self.recipe, self.faces, self.runtime = settings, settings.recipe, faces, runtime
        self.out = Path(out)
        self.folder = self.out / settings.run_name
        self.fold_of = assign_folds(faces.labels, faces.subjects, FOLDS)
        self.wanted = range(FOLDS) if settings.fold == "all" else (int(settings.fold) - 1,)
        self.fingerprint = self._fingerprint()
        self.rows, self.results, self.position = [], [], None
        self._state = None  # of the learner, from last.t7, until the fold goes on
        self._saved = time.monotonic()

    @property
    def remaining(self):
        """The folds that are not finished."""
        return [fold for fold in self.wanted if fold not in {result["fold"] for result in self.results}]

    def epoch(self, fold):
        """The epoch of `fold` to train next."""
        return sum(row["fold"] == fold for row in self.rows)

    def seed(self, fold):
        """What all chance in a fold derives from."""
        return self.settings.seed * FOLDS + fold

    def split(self, fold):
        """(training faces, held-out faces): `SubjectFaces` that have no subject in common."""
        held_out = self.fold_of == fold
        return self.faces.select(~held_out), self.faces.select(held_out)

    def begin(self):
        """Make room for a new run: move an earlier one's files aside, and say so; write down the folds."""
        archive_previous_run(self.settings, self.out)
        write_file(self.out / "folds.csv", folds_table(self.faces, self.fold_of).encode(), "it still shows other folds")
        log(self.out, f"new run: {self.settings}")

    def resume(self, content):
        """Take up the run whose last.t7 holds `content`. UserError when it began with other data."""
        if content["data"] != self.fingerprint:
            raise UserError(
                f"{self.folder / 'last.t7'}: the faces, or the network of --pretrain, are not those that this run "
                "began with. Give the same, or start a new run without --resume."
            )
        report_other_device(content, self.runtime)
        self.rows, self.results = content["rows"], content["results"]
        self.position, self._state = content["position"], content["learner"]
        discard_unfinished(self.out, self.settings.run_name)
        log(self.out, "resumed")
        self._write_records()

    def learner(self, fold, training):
        """The `FERSNetLearner` of a fold: new, or as the checkpoint left it."""
        recipe = self.recipe
        torch.manual_seed(self.seed(fold))
        network = MODELS[self.settings.model](("classify",), recipe.sharing, **self._options())
        discriminator = identity = expression = None
        if network.draws:
            classes = len(self.faces.class_names)
            discriminator = Discriminator(classes, network.base)
            if self._state is None:
                print(f"fold {fold + 1}: learning to tell people apart, and expressions, as guides", flush=True)
                identity = identity_network(training, self.seed(fold), self.runtime)
                expression = expression_network(training, self.seed(fold), self.runtime)
            else:
                identity, expression = SmallClassifier(len(training.subjects.unique())), SmallClassifier(classes)
        if self.settings.pretrain is not None and self._state is None:
            checkpoint.load_pretrained(network, self.settings.pretrain)
        learner = FERSNetLearner(network, discriminator, identity, expression, recipe, self.runtime)
        if self._state is not None:
            with state_errors_as_user_error(self.folder / "last.t7"):
                learner.load_state_dict(self._state)
            self._state = None
        return learner

    def record(self, fold, figures, tested, learner, network, held_out, seconds):
        """Keep the results of an epoch: last.t7, CSVs, data.txt, a sheet of faces drawn by `network`."""
        epoch = self.epoch(fold)
        self.rows.append({"fold": fold, "epoch": epoch, "Training": figures, "Test": tested})
        self.position = None
        if learner.model.draws:
            path = self.folder / f"fold{fold + 1:02d}" / f"epoch{epoch:03d}.png"
            self._write_sheet(path, network, held_out)
        # The state is large; a run that was killed repeats what the last one lacks, with the same results.
        if time.monotonic() - self._saved > 60 or epoch + 1 == self.recipe.epochs:
            self.save_last(learner)
        self._write_records()
        log(self.out, f"fold {fold + 1}, epoch {epoch}: {seconds:.1f} s")

    def finish_fold(self, fold, learner, training, held_out):
        """After the last epoch of a fold: its checkpoint, the measures of synthesis, the tuning with drawn faces."""
        mine = [row for row in self.rows if row["fold"] == fold]
        best = max(mine, key=lambda row: row["Test"]["Acc"])
        network = self.runtime.for_inference(learner.averaged)
        result = {"fold": fold, "faces": len(held_out), **mine[-1]["Test"]}
        result |= {"BestAcc": best["Test"]["Acc"], "BestEpoch": best["epoch"]}
        result |= dict.fromkeys(("TargetShare", "JudgeAcc", "TunedAcc"))
        if learner.model.draws:
            print(f"fold {fold + 1}: an independent network reads the drawn faces", flush=True)
            judge = self.runtime.for_inference(judge_network(training, self.seed(fold), self.runtime))
            shares = share_read_as_wanted(network, judge, held_out, self.runtime)
            result["TargetShare"], result["JudgeAcc"] = shares
        self._save_network(f"Fold{fold + 1:02d}_model_classify.t7", learner.averaged, result)
        if self.recipe.synthetic:
            print(f"fold {fold + 1}: tuning with {self.recipe.synthetic:,} drawn faces", flush=True)
            tuned = self._tune(learner.averaged, network, training, self.seed(fold))
            tested = evaluate_fold(self.runtime.for_inference(tuned), held_out, self.runtime)
            result |= {"TunedAcc": tested["Acc"], "tuned_confusion": tested["confusion"]}
            self._save_network(f"Fold{fold + 1:02d}_model_tuned.t7", tuned, result)
        self.results.append(result)
        self.save_last(None)
        self._write_records()
        log(self.out, f"fold {fold + 1} finished")

    def save_last(self, learner, position=None):
        """Write last.t7, all that it takes to go on. learner: of the fold in progress, None between folds."""
        content = {
            **common_content(self),
            "net": {},  # which every checkpoint has
            "learner": None if learner is None else learner.state_dict(),
            "rows": self.rows,
            "results": self.results,
            "position": position,
        }
        checkpoint.save(self.folder / "last.t7", content)
        self._saved = time.monotonic()

    def _tune(self, averaged, network, training, seed):
        """The network `averaged`, its recognition tuned with real and drawn faces; `network` draws them."""
        recipe = self.recipe
        images, labels = draw_to_balance(network, training, recipe.synthetic, seed, self.runtime)
        images, labels = torch.cat((training.images, images)), torch.cat((training.labels, labels))
        tune = partial(train_classifier, weight_decay=recipe.weight_decay, rate=recipe.tuning_rate)
        return tune(averaged, images, labels, recipe.tuning_epochs, seed, self.runtime)

    def _save_network(self, name, network, result):
        description = {
            "dataset": self.settings.dataset,
            "model": self.settings.model,
            "options": self._options(),
            "class_names": list(self.faces.class_names),
            "preprocessing": PREPROCESSING,
            "held_out": [self.faces.subject_names[number] for number in self._held_out_subjects(result["fold"])],
            "versions": versions(),
        }
        epoch = self.recipe.epochs - 1
        checkpoint.save(self.folder / name, checkpoint.task_checkpoint(network, "classify", epoch, result, description))

    def _options(self):
        """What makes the network, besides its tasks and its sharing."""
        return {"classes": len(self.faces.class_names), "size": self.faces.size, "kernel": self.recipe.kernel}

    def _held_out_subjects(self, fold):
        return self.faces.subjects.cpu()[self.fold_of == fold].unique().tolist()

    def _write_sheet(self, path, network, held_out):
        """Held-out subjects, one below the other: a face, drawn with each expression, and the real ones below."""
        subjects = held_out.subjects.unique()[:SHEET_SUBJECTS]
        first = torch.stack([(held_out.subjects == subject).nonzero()[0, 0] for subject in subjects])
        classes = len(held_out.class_names)
        drawn = draw_each(network, held_out.images[first], range(classes), self.runtime).cpu().numpy()
        real = counterparts(held_out)[first].tolist()
        rows = []
        for number, face in enumerate(first.tolist()):
            name = held_out.subject_names[held_out.subjects[face]]
            label = held_out.class_names[held_out.labels[face]]
            picture = held_out.images[face].cpu().numpy()
            others = [None if other < 0 else held_out.images[other].cpu().numpy() for other in real[number]]
            rows.append((f"{name} {label}", [picture, *drawn[number]]))
            rows.append(("real", [None, *others]))
        write_file(path, contact_sheet(rows, ("input", *held_out.class_names)), "it still shows what was drawn before")

    def _write_records(self):
        write_records(self.out, self.folder, self._header(), self.rows, self.results, self.faces.class_names)

    def _header(self):
        recipe = ", ".join(f"{key} {value}" for key, value in vars(self.recipe).items())
        return {
            "dataset": self.settings.dataset,
            "source": self.faces.description,
            "protocol": f"{FOLDS} folds, no subject in two of them (folds.csv); folds of this run: "
            + ", ".join(str(fold + 1) for fold in self.wanted),
            "model": self.settings.model,
            "recipe": f"{self.settings.recipe_name} ({recipe})",
            "pre-trained": self.settings.pretrain or "no",
            "seed": self.settings.seed,
            "device": self.runtime.describe(),
            "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        }

    def _fingerprint(self):
        digest = hashlib.sha256(self.faces.fingerprint().encode())
        if self.settings.pretrain is not None:
            checkpoint.load(self.settings.pretrain)  # says what is wrong before anything is trained
            digest.update(Path(self.settings.pretrain).read_bytes())
        return digest.hexdigest()
