"""Cross-validation on disk: folds by subject, their history, checkpoints and records; begin, resume, finish."""

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import torch

from data.subjects.folds import FOLD_RULES, FOLDS, folds_table
from models import MODELS, checkpoint
from models.fersnet import Discriminator, SmallClassifier
from training.fersnet.engine import (
    counterparts,
    recognition_metrics,
    recognize,
    synthesize_each,
    synthesize_to_balance,
)
from training.fersnet.guides import PREPROCESSING, expression_network, identity_network, train_classifier
from training.fersnet.judge import VIEWS, judge_network, judged, synthesize_others
from training.fersnet.learner import FERSNetLearner
from training.fersnet.records import write_records
from training.fersnet.sheet import contact_sheet
from training.records import write_file
from training.run import RunFolder, lacking, load_last, versions
from training.settings import PATHS
from utils.files import UserError
from utils.text import counted

SAVE_SECONDS = 60
SHEET_SUBJECTS = 4


class FoldRun(RunFolder):
    """A cross-validation of FERSNet.

    faces: `SubjectFaces` on runtime.device; processes: how many folds at a time, each in a process of its own, None for
    all in this one. `rows` are the results of finished epochs, in order, `results` those of finished folds. Folds count
    from 0 here, from 1 in everything that is written.
    """

    kind = "folds"
    CONTENT = {"rows": list, "results": list}

    def __init__(self, settings, faces, runtime, out, processes=None):
        digest = hashlib.sha256(faces.fingerprint().encode())
        if settings.pretrain is not None:
            checkpoint.load_network(settings.pretrain)  # says what is wrong before anything is trained
            digest.update(Path(settings.pretrain).read_bytes())
        super().__init__(settings, runtime, out, digest.hexdigest())
        self.recipe, self.faces, self.processes = settings.recipe, faces, processes
        self.fold_of = FOLD_RULES[self.recipe.folds](faces.labels, faces.subjects, FOLDS)
        self.rows, self.results = [], []
        if settings.pretrain is not None:
            self._check_pretrained()
        self._unfinished = None  # what last.t7 holds, until the fold that it was written in goes on
        self._saved = time.monotonic()

    @property
    def wanted(self):
        """The folds that this run is about, in order: those that were asked for and those that were there."""
        asked = self.settings.fold
        asked = range(FOLDS) if asked == "all" else (int(number) - 1 for number in asked.split())
        return sorted({*asked, *self._finished()})

    @property
    def remaining(self):
        """The folds that are not finished."""
        return [fold for fold in self.wanted if fold not in self._finished()]

    @property
    def is_within_a_fold(self):
        """Whether last.t7 was written in the middle of the fold that remains first."""
        return self._unfinished is not None

    def _finished(self):
        return {result["fold"] for result in self.results}

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
        """See `RunFolder`. Other folds of the same cross-validation that are finished in this folder are kept."""
        earlier = self._earlier()
        if earlier is None:
            super().begin()
            return
        self.rows, self.results = earlier["rows"], earlier["results"]
        done = ", ".join(f"fold {fold + 1}" for fold in sorted(self._finished()))
        print(f"Joined to what is finished in {self.out}: {done}", flush=True)
        self.move_others_aside()
        self.write_first()
        self.log(f"joined to {done}: {self.settings}")

    def _earlier(self):
        """The content of a last.t7 whose folds are finished, others than this run's but of equal settings; or None."""
        try:
            settings, content = load_last(self.out, self.settings.dataset, self.settings.model)
        except UserError:  # there is none, or what there is will be moved aside
            return None
        same = (
            content["kind"] == self.kind
            and not lacking(content, self.CONTENT)
            and replace(settings, **{name: getattr(self.settings, name) for name in ("fold", *PATHS)}) == self.settings
            and (content["data"], content["precision"]) == (self.fingerprint, self.runtime.precision)
        )
        if not same or content["learner"] is not None or not content["results"]:
            return None
        return content if {result["fold"] for result in content["results"]}.isdisjoint(self.wanted) else None

    def adopt(self, content, log):
        """Take over the finished folds of another run: the content of its last.t7, the text of its run.log."""
        known = self._finished()
        self.rows += [row for row in content["rows"] if row["fold"] not in known]
        self.results += [result for result in content["results"] if result["fold"] not in known]
        _sort(self.rows)
        _sort(self.results)
        self.save_last(None)
        self.write_records()
        with open(self.out / "run.log", "a", encoding="utf-8") as stream:
            stream.write(log)

    def write_first(self):
        """See `RunFolder`."""
        self._write_folds()
        self.save_last(None)  # so that what is stopped before the first epoch can go on, too

    def _write_folds(self):
        write_file(self.out / "folds.csv", folds_table(self.faces, self.fold_of).encode(), "it still shows other folds")

    def resume(self, content):
        """See `RunFolder`."""
        super().resume(content)
        self.rows, self.results = content["rows"], content["results"]
        self._unfinished = content if content["learner"] is not None else None
        self.log("resumed")
        self._write_folds()
        self.write_records()

    def flags(self):
        """See `RunFolder`."""
        return super().flags() + (f" --processes {self.processes}" if self.processes else "")

    def content(self):
        """See `RunFolder`."""
        return {"rows": self.rows, "results": self.results}

    def save_last(self, learner, position=None):
        """See `RunFolder`."""
        super().save_last(learner, position)
        self._saved = time.monotonic()

    def learner(self, fold, training):
        """The `FERSNetLearner` of a fold: new, or as the checkpoint left it. training: `SubjectFaces`."""
        content, self._unfinished = self._unfinished, None
        torch.manual_seed(self.seed(fold))
        network = self._network()
        helpers = (None, None, None)
        if network.synthesizes:
            helpers = (Discriminator(len(self.faces.class_names), network.base), *self._guides(fold, training, content))
        if content is None and self.settings.pretrain is not None:
            checkpoint.load_pretrained(network, self.settings.pretrain)
        learner = FERSNetLearner(network, *helpers, self.recipe, self.runtime)
        if content is not None:
            self.restore(learner, content)
        return learner

    def _network(self):
        return MODELS[self.settings.model](("classify",), self.recipe.sharing, **self._options())

    def _check_pretrained(self):
        """Raise UserError, before anything is moved or trained, for a file that cannot serve to begin with."""
        content = checkpoint.load_pretrained(self._network(), self.settings.pretrain)
        unseen = content.get("held_out", ()) if content.get("dataset") == self.settings.dataset else None
        for fold in self.wanted if unseen is not None else ():
            seen = [name for name in self._subjects_of(fold) if name not in unseen]
            if seen:
                known = f"{len(seen)} of the people of fold {fold + 1} ({seen[0]}, ...)"
                raise UserError(
                    f"{self.settings.pretrain} learnt from {known}, so they would not be held out: give a network that "
                    "was trained on FER2013."
                )

    def _subjects_of(self, fold):
        """The names of the people in a fold."""
        numbers = self.faces.subjects.cpu()[self.fold_of == fold].unique().tolist()
        return [self.faces.subject_names[number] for number in numbers]

    def _guides(self, fold, training, content):
        """The networks that tell subjects and expressions apart: trained, or untrained where `content` has them.

        Where the recipe gives the second no weight none is trained: it is None.
        """
        if content is not None:
            return SmallClassifier(len(training.subjects.unique())), SmallClassifier(len(self.faces.class_names))
        began, expression = time.perf_counter(), None
        print(f"fold {fold + 1}: guides learn to tell people apart, and expressions", flush=True)
        identity = identity_network(training, self.seed(fold), self.runtime)
        if self.recipe.expression:
            expression = expression_network(training, self.seed(fold), self.runtime)
        self.log(f"fold {fold + 1} guides: {time.perf_counter() - began:.1f} s")
        return identity, expression

    def record(self, fold, figures, tested, learner, network, held_out, seconds):
        """Keep the results of an epoch: last.t7, CSVs, data.txt, a sheet of faces synthesized by `network`."""
        epoch = self.epoch(fold)
        self.rows.append({"fold": fold, "epoch": epoch, "Training": figures, "Test": tested})
        _sort(self.rows)
        self.position = None
        if network.synthesizes:
            path = self.folder / f"fold{fold + 1:02d}" / f"epoch{epoch:03d}.png"
            self._write_sheet(path, network, held_out)
        # The state is large; a run that was killed repeats what the last one lacks, with the same results.
        if time.monotonic() - self._saved > SAVE_SECONDS or epoch + 1 == self.recipe.epochs:
            self.save_last(learner)
        self.write_records()
        self.log(f"fold {fold + 1}, epoch {epoch}: {seconds:.1f} s")

    def finish_fold(self, fold, learner, training, held_out):
        """After the last epoch of a fold: its checkpoint, the measures of synthesis, the tuning with such faces."""
        began = time.perf_counter()
        mine = [row for row in self.rows if row["fold"] == fold]
        best = max(mine, key=lambda row: row["Test"]["Acc"])
        network = self.runtime.for_inference(learner.averaged)
        sequences = len(held_out.sequences.unique())
        result = {"fold": fold, "faces": len(held_out), "sequences": sequences, **mine[-1]["Test"]}
        result |= {"BestAcc": best["Test"]["Acc"], "BestEpoch": best["epoch"]}
        result["BestSeqAcc"] = max(row["Test"]["SeqAcc"] for row in mine)
        result |= dict.fromkeys(f"{figure}{view}" for figure in ("TargetShare", "JudgeAcc") for view in VIEWS)
        result |= dict.fromkeys(("TunedFaces", "TunedAcc", "TunedSeqAcc", "BestTunedAcc", "BestTunedSeqAcc"))
        if network.synthesizes:
            print(f"fold {fold + 1}: an independent network reads the synthesized faces", flush=True)
            judge = self.runtime.for_inference(judge_network(training, self.seed(fold), self.runtime))
            synthesized = synthesize_others(network, held_out, self.runtime)
            result |= judged(judge, held_out, *synthesized, self.runtime)
        self._save_network(f"Fold{fold + 1:02d}_model_classify.t7", learner.averaged, result)
        if self.recipe.synthetic:
            result["TunedFaces"], tested = self._tune(fold, learner.averaged, network, training, held_out)
            if tested:
                result |= {f"Tuned{figure}": tested[-1][figure] for figure in ("Acc", "SeqAcc")}
                result |= {f"BestTuned{figure}": max(each[figure] for each in tested) for figure in ("Acc", "SeqAcc")}
                result["tuned_confusion"] = tested[-1]["confusion"]
                self._save_network(f"Fold{fold + 1:02d}_model_tuned.t7", learner.averaged, result)
        self.results.append(result)
        _sort(self.results)
        self.save_last(None)
        self.write_records()
        self.log(f"fold {fold + 1} finished: {time.perf_counter() - began:.1f} s")

    def _tune(self, fold, averaged, network, training, held_out):
        """Tune the recognition of `averaged` with real faces and those that `network` synthesizes.

        The statistics of its batch norms stay those of real faces. Returns (number of synthesized faces, [what each
        epoch reaches on held-out faces]); without such a face nothing is tuned.
        """
        recipe, seed, tested = self.recipe, self.seed(fold), []
        images, labels = synthesize_to_balance(network, training, recipe.synthetic, seed, self.runtime)
        message = f"fold {fold + 1}: tuning with {counted(len(labels), 'synthesized face')}"
        if recipe.agreed:
            agreed = recognize(network, images, self.runtime).argmax(dim=1) == labels
            images, labels = images[agreed], labels[agreed]
            message += f" less {int((~agreed).sum()):,} in which the network itself reads another expression"
        print(message, flush=True)
        self.log(message)
        count = len(labels)
        if not count:
            return count, tested
        images, labels = torch.cat((training.images, images)), torch.cat((training.labels, labels))
        train_classifier(
            averaged, images, labels, recipe.tuning_epochs, seed, self.runtime,
            rate=recipe.tuning_rate, weight_decay=recipe.weight_decay, label_smoothing=recipe.label_smoothing,
            fixed_norms=True,
            after_epoch=lambda tuned: tested.append(recognition_metrics(tuned, held_out, self.runtime)),
        )  # fmt: skip
        return count, tested

    def _save_network(self, name, network, result):
        description = {
            "dataset": self.settings.dataset,
            "model": self.settings.model,
            "options": self._options(),
            "class_names": list(self.faces.class_names),
            "preprocessing": PREPROCESSING,
            "held_out": self._subjects_of(result["fold"]),
            "versions": versions(),
        }
        epoch = self.recipe.epochs - 1
        checkpoint.save(self.folder / name, checkpoint.task_checkpoint(network, "classify", epoch, result, description))

    def _options(self):
        """What makes the network, besides its tasks and its sharing."""
        return {"classes": len(self.faces.class_names), "size": self.faces.size, "kernel": self.recipe.kernel}

    def _write_sheet(self, path, network, held_out):
        """Held-out subjects, one below the other: a face, with each expression, and the real ones below."""
        subjects = held_out.subjects.unique()[:SHEET_SUBJECTS]
        first = torch.stack([(held_out.subjects == subject).nonzero()[0, 0] for subject in subjects])
        classes = len(held_out.class_names)
        synthesized = synthesize_each(network, held_out.images[first], range(classes), self.runtime).cpu().numpy()
        real, images = counterparts(held_out)[first].tolist(), held_out.images.cpu().numpy()
        rows = []
        for number, face in enumerate(first.tolist()):
            name = held_out.subject_names[held_out.subjects[face]]
            label = held_out.class_names[held_out.labels[face]]
            rows.append((f"{name} {label}", [images[face], *synthesized[number]]))
            rows.append(("real", [None, *(None if other < 0 else images[other] for other in real[number])]))
        write_file(path, contact_sheet(rows, ("input", *held_out.class_names)), "it still shows an earlier epoch")

    def write_records(self):
        """See `RunFolder`."""
        folds = ", ".join(str(fold + 1) for fold in self.wanted)
        data = {
            "source": self.faces.description,
            "protocol": f"{FOLDS} folds, {self.recipe.folds}, no subject in two of them (folds.csv); here: {folds}",
        }
        header = self.header(data, {"pre-trained": self.settings.pretrain or "no"})
        write_records(self.out, self.folder, header, self.rows, self.results, self.faces.class_names)


def _sort(items):
    """Bring rows or results into the order of the folds, in place; epochs stay in theirs."""
    items.sort(key=lambda item: item["fold"])
