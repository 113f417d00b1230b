"""The statistics of the benchmarks' tables, and the runs that they continue."""

import numpy as np
import pandas
import pytest
import torch
from scipy.stats import t, ttest_rel

from benchmarks import (
    ablation,
    common,
    fersnet_additions,
    fersnet_judge,
    fersnet_table,
    train_speed,
)
from benchmarks.judge import VIEWS, synthesize_others
from data.demo.demo import draw_faces
from data.faces import Faces
from data.subjects.faces import SubjectFaces
from training.config import RECIPES
from training.device import setup_device
from training.fersnet.report import FOLD_COLUMNS
from utils.tasks import EMOTIONS, TASKS


def test_rates_are_medians_and_ratios_medians_of_the_rounds(capsys):
    rates = {"ours": [10.0, 30.0, 20.0], "other": [5.0, 10.0, 4.0]}
    common.print_rates("training", "images/s", rates, "ours", 1e9)
    ours, other = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert ours[1:] == ["20.0", "10.0..30.0", "1.00", "0.020"]
    assert other[1:] == ["5.0", "4.0..10.0", "3.00", "0.005"]  # ratios 2, 3 and 5


def t_interval(ours, baseline):
    """The paired difference with half its 95% interval, as the tables have it."""
    low, high = ttest_rel(ours, baseline).confidence_interval()
    return f"{(low + high) / 2:+.2f} +- {(high - low) / 2:.2f}"


def test_a_paired_difference_has_the_interval_of_the_t_test():
    ours, baseline = [57.1, 58.3, 56.2, 59.0], [55.9, 57.6, 56.4, 57.1]
    assert ablation.difference(ours, baseline) == t_interval(ours, baseline)
    assert ablation.difference([57.0], [55.5]) == "+1.50"


def test_only_runs_of_the_same_recipe_and_size_are_continued(tmp_path):
    study = ablation.STUDIES["objective"]
    lines = {name: ablation.line_recipe(changes, 2, 8, True) for name, changes in study.items()}
    line, path = "no constraint", tmp_path / "runs.jsonl"
    setting = ablation.setting(*lines[line], 100)
    others = [ablation.setting(*lines[line], 99), setting | {"rotation": 0}, {}]
    with open(path, "w", encoding="utf-8") as stream:
        stream.write('{"line": "killed whi')
        for seed, made_with in enumerate([setting, *others]):
            run = {"line": line, "seed": seed, "setting": made_with, "result": "kept"}
            common.record_run(stream, run)
    assert ablation.known_runs(path, lines, 100) == {(line, 0): "kept"}
    assert ablation.known_runs(tmp_path / "none.jsonl", lines, 100) == {}


@pytest.mark.parametrize("study", ablation.STUDIES)
def test_every_line_of_a_study_is_a_recipe_of_its_own(study):
    made = [
        ablation.line_recipe(changes, 20, 64, False) for changes in ablation.STUDIES[study].values()
    ]
    assert made[0] == (tuple(TASKS), False, RECIPES["default"]) and len(set(made)) == len(made)


def test_training_is_timed_over_whole_batches():
    faces, runtime = Faces.from_arrays(*draw_faces(21, seed=0)), setup_device("cpu", "fp32")
    narrow = {"width": 8, "pooled": True, "batch_size": 8}
    assert train_speed.our_training(faces, runtime, 20, **narrow)() == 16


def write_run(folder, seed, folds):
    """Write the records of a run. folds: {fold: {column: value}}; returns its `Records`."""
    folder.mkdir(parents=True)
    rows = [{"Fold": fold, **row} for fold, row in folds.items()]
    rows.append({"Fold": "all", "LastAcc": 1.0})
    table = pandas.DataFrame(rows, columns=["Fold", *FOLD_COLUMNS])
    table.to_csv(folder / "AccProcess_folds.csv", index=False)
    epochs = pandas.DataFrame({"Fold": [1, 1], "Epoch": [0, 11]})
    epochs.to_csv(folder / "AccProcess_classify.csv", index=False)
    (folder / "data.txt").write_text(f"dataset: CK+\nseed: {seed}\ndevice: cpu (1 thread), bf16\n")
    (folder / "run.log").write_text(
        "2026-01-01 00:00:00 new run: x\n"
        "2026-01-01 00:01:00 fold 1 guides: 20.0 s\n"
        "2026-01-01 00:01:40 fold 1, epoch 0: 40.0 s\n"
        "2026-01-01 00:02:00 fold 1, epoch 11: 30.5 s\n"
        "2026-01-01 00:03:00 fold 1 finished: 29.5 s\n"
    )
    return fersnet_table.Records.read(folder)


def fold_row(faces, last, **others):
    """The row of a fold whose accuracy by sequence is by one higher, and the best by two."""
    row = {"Faces": faces, "Sequences": faces // 3, "LastAcc": last, "LastSeqAcc": last + 1}
    return row | {"BestAccOptimistic": last + 2, "BestSeqAccOptimistic": last + 2, **others}


def difference_of_faces(gained, counts):
    """The mean over faces of what their folds gained, with its interval.

    The interval is that of the residuals of faces, summed per fold.
    """
    fold = np.repeat(np.arange(len(counts)), counts)
    faces = np.asarray(gained)[fold]
    sums = np.bincount(fold, faces - faces.mean())
    error = np.sqrt(len(counts) / (len(counts) - 1) * (sums**2).sum()) / len(faces)
    return f"{faces.mean():+.2f} +- {t.ppf(0.975, len(counts) - 1) * error:.2f}"


def test_the_difference_of_variants_is_that_of_their_accuracies(tmp_path):
    """Folds count by their faces; two seeds of one fold are not independent."""
    accuracies = {
        "none": [(98.0, 90.0, 80.0), (96.0, 92.0, 84.0)],
        "hard": [(99.0, 91.0, 70.0), (97.0, 91.0, 78.0)],
    }
    counts, done = (120, 90, 60), {"none": [], "hard": []}
    for sharing, seeds in accuracies.items():
        for seed, values in enumerate(seeds):
            rows = dict(enumerate(map(fold_row, counts, values), 1))
            done[sharing].append(write_run(tmp_path / sharing / f"seed{seed}", seed, rows))
    found = fersnet_table.paired(done["hard"], (done["none"], "LastAcc"), "LastAcc")
    pairs = zip(done["hard"], done["none"], strict=True)
    gains = [hard.pooled("LastAcc") - none.pooled("LastAcc") for hard, none in pairs]
    assert found.startswith(f"{np.mean(gains):+.2f} +- ")
    gained = np.mean(accuracies["hard"], axis=0) - np.mean(accuracies["none"], axis=0)
    assert found == difference_of_faces(gained, counts)
    alone, other = done["hard"][:1], done["none"][:1]
    for run in (*alone, *other):
        run.folds["Faces"] = 90  # folds of one size: the usual t-test of pairs
    found = fersnet_table.paired(alone, (other, "LastAcc"), "LastAcc")
    assert found == t_interval(accuracies["hard"][0], accuracies["none"][0])


def test_the_table_of_fersnet_is_made_of_the_records_of_its_runs(tmp_path):
    made = {"L1": 0.08, "CopyL1": 0.1, "TunedAcc": 97.0, "TunedSeqAcc": 98.0}
    made |= {"BestTunedAccOptimistic": 98.0, "BestTunedSeqAccOptimistic": 99.0}
    runs = {
        "none": [{1: fold_row(90, 94.0), 2: fold_row(60, 90.0)}, {1: fold_row(90, 95.0)}],
        "selective": [
            {1: fold_row(90, 96.0, **made), 2: fold_row(60, 95.0, **made)},
            {1: fold_row(90, 95.5, **made)},
        ],
    }
    done = {}
    for sharing, seeds in runs.items():
        done["balanced", sharing] = [
            write_run(tmp_path / sharing / f"seed{seed}", seed, folds)
            for seed, folds in enumerate(seeds)
        ]
    headings, (baseline, *others) = fersnet_table.summarize(done, "CK+")
    assert [row[1] for row in (baseline, *others)] == ["Baseline", "FERSNet", "FERSNet*"]
    assert {len(baseline), *map(len, others)} == {len(headings)}
    seeds = [(90 * 94 + 60 * 90) / 150, 95.0]
    half = t.ppf(0.975, 1) * abs(seeds[0] - seeds[1]) / 2
    assert baseline[2:6] == ["2 1", "0 1", "12 12", f"{sum(seeds) / 2:.2f} +- {half:.2f}"]
    assert [cell[:5] for cell in baseline[6:9]] == [f"{sum(seeds) / 2 + n:.2f}" for n in (1, 2, 2)]
    assert baseline[9:11] == ["", ""]
    folds = [94.5, 90.0], [95.75, 95.0], [97.0, 97.0]  # mean of seeds; there is no Baseline*
    for row, above, mine in zip(others, folds, folds[1:], strict=False):
        assert row[9] == difference_of_faces(np.subtract(mine, above), (90, 60))
    assert others[0][10:] == ["0.080 (0.100)", f"{2 * 120 / 3 / 60:.0f}", "97.42"]
    assert fersnet_table.Records.read(tmp_path / "nothing") is None


def test_synthesized_faces_are_counted_by_what_is_read_in_them():
    names = ("Contempt", "Fear", "Happy", "Sad")
    grey = {name: 30 * (1 + EMOTIONS.index(name)) for name in names[1:]} | {"Contempt": 0}

    def network(pictures, expressions):  # paints Sad where it should paint Fear
        painted = ["Sad" if names[number] == "Fear" else names[number] for number in expressions]
        level = torch.tensor([grey[name] for name in painted])
        return {"synthesized": (level / 255)[:, None, None, None].expand_as(pictures)}

    def read(images, view):
        pictures = view(images[:, None].float() / 255)
        return (pictures.mean(dim=(1, 2, 3)) * 255 / 30).round().long() - 1

    labels = torch.tensor([0, 1, 2, 2, 3, 3, 3, 3])
    shown = labels.clone()
    shown[4] = 2  # a sad face that looks happy
    levels = torch.tensor([grey[names[number]] for number in shown]).to(torch.uint8)
    images, people = levels[:, None, None].repeat(1, 48, 48), torch.zeros(8, dtype=torch.int64)
    faces = SubjectFaces(
        images, labels, people, torch.arange(8), names, ("S1",), tuple("abcdefgh"), "made"
    )
    made = synthesize_others(network, faces, setup_device("cpu", "fp32"))
    found = fersnet_judge.shares(read, faces, *made)
    expected = {"Fear": (100, 0, 0), "Happy": (100, 100 / 6, 100), "Sad": (75, 0, 100)}
    expected["all"] = tuple(sum(column) / 3 for column in zip(*expected.values(), strict=True))
    for name, shares in expected.items():
        assert all(found[name][view] == pytest.approx(shares) for view in VIEWS)
    assert "Contempt" not in found


def test_the_fer2013_network_sees_larger_faces_as_it_sees_its_own(checkpoints):
    """Each pixel of a face of 48x48 four times over is the same face."""
    path = checkpoints / TASKS["classify"].checkpoint("PrivateTest")
    read = fersnet_judge.reader(path, setup_device("cpu", "fp32"))
    torch.manual_seed(0)
    faces = torch.randint(256, (20, 48, 48), dtype=torch.uint8)
    larger = faces.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    for look in (VIEWS[""], VIEWS["Halved"]):
        assert torch.equal(read(larger, look), read(faces, look))


def test_additions_are_compared_on_the_folds_that_both_lines_have():
    def figures(wanted, seconds):
        shares = dict.fromkeys(fersnet_additions.SHARES, 50) | {"WantedBlurred": wanted}
        return {"Acc": 90, "L1": 0.1, "SSIM": 0.5, "seconds": seconds} | shares

    runs = {("default", fold): figures(wanted, 60) for fold, wanted in enumerate((30, 34, 41))}
    runs |= {("no guide", 0): figures(20, 30), ("no guide", 2): figures(25, 60)}
    headings, (default, without) = fersnet_additions.summarize(runs)
    assert len(headings) == len(default) == len(without) == 6 + 2 * len(VIEWS)
    column = headings.index("FER2013 network, blurred %")
    assert default[:5] == ["default", "1 2 3", "90.0", "0.100", "0.500"]
    assert default[column] == "35.0"
    assert without[1] == "1 3" and without[-1] == "0.8"
    assert without[column] == f"22.5 ({t_interval((20, 25), (30, 41))})"
    assert without[headings.index("judge %")] == "50.0 (+0.00 +- 0.00)"
