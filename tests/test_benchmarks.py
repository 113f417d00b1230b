"""What the tables of measurements are calculated by: intervals, runs that are done, minutes to an accuracy."""

import json
from pathlib import Path

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
    references,
    start_speed,
    time_to_accuracy,
)
from benchmarks.common import record_run, recorded_runs
from benchmarks.judge import VIEWS, synthesize_others
from data.fer2013 import prepare
from data.subjects.faces import SubjectFaces
from models.fersnet import SmallClassifier
from tests.samples import three_splits
from training.config import RECIPES
from training.device import setup_device
from training.fersnet.report import FOLD_COLUMNS
from training.losses import orthogonality
from utils.tasks import EMOTIONS, TASKS


def test_rates_are_medians_and_ratios_medians_of_the_rounds(capsys):
    rates = {"ours": [10.0, 30.0, 20.0], "other": [5.0, 10.0, 4.0]}
    common.print_rates("training", "images/s", rates, "ours", 1e9)
    ours, other = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert ours[1:] == ["20.0", "10.0..30.0", "1.00", "0.020"]
    assert other[1:] == ["5.0", "4.0..10.0", "3.00", "0.005"]  # ratios 2, 3 and 5


def test_programs_are_timed_in_turn_after_a_call_that_does_not_count(monkeypatch):
    warm_up, timed = [8.0, 4.0, 2.0, 2.0] + [1.0, 1.0], [2.0, 1.0, 4.0, 1.0]  # seconds of each call
    clock, called = iter([t for seconds in warm_up + timed for t in (0.0, seconds)]), []
    monkeypatch.setattr(common.time, "perf_counter", lambda: next(clock))
    programs = {"a": lambda: called.append("a") or 8, "b": lambda: called.append("b") or 3}
    assert common.time_in_turn(programs, 2) == {"a": [4.0, 2.0], "b": [3.0, 3.0]}
    assert "".join(called) == "aaaabb" + "abab"


@pytest.mark.slow
def test_the_start_ends_where_the_first_step_would_begin(tmp_path):
    for name, content in three_splits(140)[0].items():
        (tmp_path / Path(name).name).write_bytes(content)
    assert 0 < start_speed.seconds_to_first_step(prepare.ensure(tmp_path)) < 120


def test_the_original_has_eleven_orthogonal_kernels(monkeypatch):
    network, seen = references.ThreeChannelNet(7), []
    norm = torch.norm
    monkeypatch.setattr(torch, "norm", lambda value: seen.append(norm(value)) or seen[-1])
    assert references._orthogonality(network) == sum(seen) and len(seen) == 11
    shortcuts = [block.shortcut[0].weight for block in network.blocks() if len(block.shortcut)]
    assert len(shortcuts) == 3
    assert all(any(torch.isclose(orthogonality(one.transpose(0, 1), 1), other) for other in seen) for one in shortcuts)


def test_a_paired_difference_has_the_interval_of_the_t_test():
    ours, baseline = [57.1, 58.3, 56.2, 59.0], [55.9, 57.6, 56.4, 57.1]
    low, high = ttest_rel(ours, baseline).confidence_interval()
    assert ablation.difference(ours, baseline) == f"{(low + high) / 2:+.2f} +- {(high - low) / 2:.2f}"
    assert ablation.difference([57.0], [55.5]) == "+1.50"


def test_only_runs_of_the_very_recipe_and_size_are_gone_on_with(tmp_path):
    lines = {name: ablation.line_recipe(changes, 2, 8, True) for name, changes in ablation.STUDIES["objective"].items()}
    faces = 100
    line, alone = "no constraint", "valence alone"
    records = [
        {"line": line, "seed": 0, "setting": ablation.setting(*lines[line], faces), "result": "kept"},
        {"line": alone, "seed": 1, "setting": ablation.setting(*lines[alone], faces), "result": "kept too"},
        {"line": line, "seed": 1, "setting": ablation.setting(*lines[line], 99), "result": "size"},
        {"line": line, "seed": 2, "setting": ablation.setting(*lines[line], faces) | {"rotation": 0}, "result": "old"},
        {"line": "a line of old", "seed": 0, "setting": {}, "result": "gone"},
        {"line": line, "seed": 3, "budget": faces, "result": "older still"},
    ]
    text = "\n".join(json.dumps(record) for record in records)
    (tmp_path / "runs.jsonl").write_text(text + "\n" + text[:40])  # killed while it wrote
    assert ablation.known_runs(tmp_path / "runs.jsonl", lines, faces) == {(line, 0): "kept", (alone, 1): "kept too"}
    assert ablation.known_runs(tmp_path / "none.jsonl", lines, faces) == {}


@pytest.mark.parametrize("study", ablation.STUDIES)
def test_every_line_of_a_study_is_a_recipe_of_its_own(study):
    made = [ablation.line_recipe(changes, 20, 64, False) for changes in ablation.STUDIES[study].values()]
    assert made[0] == (tuple(TASKS), False, RECIPES["default"]) and len(set(made)) == len(made)


def test_minutes_are_read_from_the_log_and_accuracies_from_the_table(tmp_path):
    (tmp_path / "run.log").write_text(
        "2026-01-01 00:00:00 new run: x\n"
        "2026-01-01 00:02:30 epoch 0: training 90.0 s (10 images/s), evaluation 30.0 s\n"
        "2026-01-01 00:04:30 epoch 1: training 60.0 s (10 images/s), evaluation 30.0 s\n"
    )
    (tmp_path / "AccProcess_classify.csv").write_text(
        "Epoch,PubtestAcc,PritestAcc,TrainAcc\n0,50.5,49.0,40.0\n1,60.25,61.5,50.0\n"
    )
    assert time_to_accuracy.read_run(tmp_path) == [(0, 1.5, 2.0, 50.5, 49.0), (1, 2.5, 3.5, 60.25, 61.5)]


def write_run(folder, seed, folds, draws):
    """The records of a run as mainpro_FER.py leaves them. folds: {fold: {column: value}}."""
    folder.mkdir(parents=True)
    columns = ["Fold", *FOLD_COLUMNS]
    rows = [{"Fold": fold, **row} for fold, row in folds.items()] + [{"Fold": "all", "LastAcc": 1.0}]
    pandas.DataFrame(rows, columns=columns).to_csv(folder / "AccProcess_folds.csv", index=False)
    pandas.DataFrame({"Fold": [1, 1], "Epoch": [0, 11]}).to_csv(folder / "AccProcess_classify.csv", index=False)
    (folder / "data.txt").write_text(f"dataset: CK+\nseed: {seed}\ndevice: cpu (1 thread), bf16\n")
    (folder / "run.log").write_text(
        "2026-01-01 00:00:00 new run: x\n2026-01-01 00:01:00 fold 1 guides: 20.0 s\n"
        "2026-01-01 00:01:40 fold 1, epoch 0: 40.0 s\n"
        "2026-01-01 00:02:00 fold 1, epoch 11: 30.5 s\n2026-01-01 00:03:00 fold 1 finished: 29.5 s\n"
    )


def difference_of_faces(gained, counts):
    """The mean over faces of what their folds gained; its interval from the residuals of faces, summed per fold."""
    fold = np.repeat(np.arange(len(counts)), counts)
    faces = np.asarray(gained)[fold]
    residuals = faces - faces.mean()
    sums = np.array([residuals[fold == number].sum() for number in range(len(counts))])
    error = np.sqrt(len(counts) / (len(counts) - 1) * (sums**2).sum()) / len(faces)
    return f"{faces.mean():+.2f} +- {t.ppf(0.975, len(counts) - 1) * error:.2f}"


def test_the_difference_of_variants_is_that_of_their_accuracies(tmp_path):
    """Folds count by their faces, and two seeds of a fold are no two folds."""
    accuracies = {"none": [(98.0, 90.0, 80.0), (96.0, 92.0, 84.0)], "hard": [(99.0, 91.0, 70.0), (97.0, 91.0, 78.0)]}
    counts, done = (120, 90, 60), {}
    for sharing, seeds in accuracies.items():
        for seed, values in enumerate(seeds):
            folds = {
                fold: {"Faces": faces, "Sequences": faces // 3, "LastAcc": value, "LastSeqAcc": value}
                for fold, (faces, value) in enumerate(zip(counts, values, strict=True), 1)
            }
            write_run(tmp_path / "by-name" / sharing / f"seed{seed}", seed, folds, False)
        done[sharing] = [fersnet_table.Records.read(tmp_path / "by-name" / sharing / f"seed{seed}") for seed in (0, 1)]
    found = fersnet_table.paired(done["hard"], (done["none"], "LastAcc"), "LastAcc")
    pooled = [np.mean([run.pooled("LastAcc") for run in runs]) for runs in done.values()]
    assert found.startswith(f"{pooled[1] - pooled[0]:+.2f} +- ")
    gained = np.mean(accuracies["hard"], axis=0) - np.mean(accuracies["none"], axis=0)
    assert found == difference_of_faces(gained, counts)
    (alone,), (other,) = done["hard"][:1], done["none"][:1]
    for run in (alone, other):
        run.folds["Faces"] = 90  # folds of one size: the usual t-test of pairs
    low, high = ttest_rel(accuracies["hard"][0], accuracies["none"][0]).confidence_interval()
    found = fersnet_table.paired([alone], ([other], "LastAcc"), "LastAcc")
    assert found == f"{(low + high) / 2:+.2f} +- {(high - low) / 2:.2f}"


def test_the_table_of_fersnet_is_made_of_the_records_of_its_runs(tmp_path):
    def fold(faces, sequences, last, by_sequence, **others):
        return {"Faces": faces, "Sequences": sequences, "LastAcc": last, "LastSeqAcc": by_sequence,
                "BestAccOptimistic": last + 2, "BestSeqAccOptimistic": by_sequence + 1, **others}  # fmt: skip

    drawn = {"L1": 0.08, "CopyL1": 0.1, "TunedAcc": 97.0, "TunedSeqAcc": 98.0, "BestTunedAccOptimistic": 98.0,
             "BestTunedSeqAccOptimistic": 99.0}  # fmt: skip
    alone = [{1: fold(90, 30, 94.0, 95.0), 2: fold(60, 20, 90.0, 91.0)}, {1: fold(90, 30, 95.0, 96.0)}]
    shared = [{1: fold(90, 30, 96.0, 97.0, **drawn), 2: fold(60, 20, 95.0, 92.0, **drawn)},
              {1: fold(90, 30, 95.5, 96.0, **drawn)}]  # fmt: skip
    for sharing, runs in (("none", alone), ("selective", shared)):
        for seed, folds in enumerate(runs):
            write_run(tmp_path / "balanced" / sharing / f"seed{seed}", seed, folds, sharing != "none")
    done = {
        ("balanced", sharing): [
            fersnet_table.Records.read(tmp_path / "balanced" / sharing / f"seed{seed}") for seed in (0, 1)
        ]
        for sharing in ("none", "selective")
    }
    headings, rows = fersnet_table.summarize(done, "CK+")
    assert [row[1] for row in rows] == ["Baseline", "FERSNet", "FERSNet*"] and {len(row) for row in rows} == {
        len(headings)
    }
    seeds = [(90 * 94 + 60 * 90) / 150, 95.0]
    half = t.ppf(0.975, 1) * abs(seeds[0] - seeds[1]) / 2
    assert rows[0][2:6] == ["2 1", "0 1", "12 12", f"{sum(seeds) / 2:.2f} +- {half:.2f}"]
    by_sequence = ((30 * 95 + 20 * 91) / 50 + 96) / 2
    assert rows[0][6].startswith(f"{by_sequence:.2f} +- ") and rows[0][7].startswith(f"{sum(seeds) / 2 + 2:.2f}")
    assert rows[0][9] == "" and rows[0][10] == ""
    lines = ([94.5, 90.0], [95.75, 95.0], [97.0, 97.0])  # of folds, mean of their seeds; there is no Baseline*
    for row, above, mine in zip(rows[1:], lines, lines[1:], strict=False):
        assert row[9] == difference_of_faces(np.subtract(mine, above), (90, 60))
    assert rows[1][10:] == ["0.080 (0.100)", f"{2 * 120 / 3 / 60:.0f}", "97.42"]
    assert fersnet_table.Records.read(tmp_path / "nothing") is None


def test_synthesized_faces_are_counted_by_what_is_read_in_them():
    names = ("Contempt", "Fear", "Happy", "Sad")
    grey = {name: 30 * (1 + EMOTIONS.index(name)) for name in names[1:]} | {"Contempt": 0}

    def network(pictures, expressions):  # paints Sad where it should paint Fear
        level = torch.tensor([grey["Sad" if names[number] == "Fear" else names[number]] for number in expressions])
        return {"synthesized": (level / 255)[:, None, None, None].expand_as(pictures)}

    def read(images, view):
        pictures = view(images[:, None].float() / 255)
        return (pictures.mean(dim=(1, 2, 3)) * 255 / 30).round().long() - 1

    labels = torch.tensor([0, 1, 2, 2, 3, 3, 3, 3])
    shown = labels.clone()
    shown[4] = 2  # a sad face that looks happy
    levels = torch.tensor([grey[names[number]] for number in shown]).to(torch.uint8)
    faces = SubjectFaces(
        levels[:, None, None].repeat(1, 48, 48), labels, torch.zeros(8, dtype=torch.int64), torch.arange(8), names,
        ("S1",), tuple("abcdefgh"), "made",
    )  # fmt: skip
    found = fersnet_judge.shares(read, faces, *synthesize_others(network, faces, setup_device("cpu", "fp32")))
    expected = {"Fear": (100, 0, 0), "Happy": (100, 100 / 6, 100), "Sad": (75, 0, 100)}
    expected["all"] = tuple(sum(column) / 3 for column in zip(*expected.values(), strict=True))
    for name, shares in expected.items():
        assert all(found[name][view] == pytest.approx(shares) for view in VIEWS)
    assert "Contempt" not in found


def test_the_fer2013_network_sees_larger_faces_as_it_sees_its_own(checkpoints):
    """Each pixel of a face of 48x48 four times over is the same face."""
    path = checkpoints / TASKS["classify"].checkpoint("PrivateTest")
    read = fersnet_judge.reader(path, setup_device("cpu", "fp32"))
    faces = torch.randint(256, (20, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
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
    low, high = ttest_rel((20, 25), (30, 41)).confidence_interval()
    assert len(headings) == len(default) == len(without) == 6 + 2 * len(VIEWS)
    column = headings.index("FER2013 network, blurred %")
    assert default[:5] == ["default", "1 2 3", "90.0", "0.100", "0.500"] and default[column] == "35.0"
    assert without[1] == "1 3" and without[-1] == "0.8"
    assert without[column] == f"22.5 ({(low + high) / 2:+.2f} +- {(high - low) / 2:.2f})"
    assert without[headings.index("judge %")] == "50.0 (+0.00 +- 0.00)"


def test_every_addition_can_be_left_out_or_put_in(monkeypatch):
    torch.manual_seed(0)
    faces = SubjectFaces(
        torch.randint(256, (8, 48, 48), dtype=torch.uint8), torch.arange(8) % 4, torch.arange(8) // 4, torch.arange(8),
        tuple("ABCD"), ("S1", "S2"), tuple("abcdefgh"), "made",
    )  # fmt: skip
    guides, smooth = [SmallClassifier(4, base=4) for _ in range(2)], []
    identity, runtime = SmallClassifier(2, base=4), setup_device("cpu", "fp32")
    weighted = fersnet_additions.SmoothLearner._weighted

    def weigh(learner, parts):
        smooth.append((weighted(learner, parts) - weighted(learner, parts | {"Variation": 0.0})) / parts["Variation"])
        return weighted(learner, parts)

    monkeypatch.setattr(fersnet_additions.SmoothLearner, "_weighted", weigh)
    networks = {
        line: fersnet_additions.train(*fersnet_additions.describe(line, 3), 4, faces, 0, identity, guides, runtime)
        for line in fersnet_additions.LINES
    }
    weights = {line: network.decoder.draw.weight for line, network in networks.items()}
    assert [round(value.item(), 3) for value in smooth] == [0] * 9 + [2] * 3 + [0] * 9  # three steps of each line
    for line, weight in weights.items():
        assert weight.isfinite().all() and (line == "default" or not torch.equal(weight, weights["default"])), line


def test_the_total_variation_is_the_mean_step_between_neighbours(monkeypatch):
    monkeypatch.setattr(fersnet_additions.FERSNetLearner, "_synthesis_losses", lambda self, batch, synthesized: {})
    pictures = torch.rand(2, 1, 5, 4, dtype=torch.float64)
    down = [abs(p[r + 1, c] - p[r, c]) for p in pictures[:, 0] for r in range(4) for c in range(4)]
    across = [abs(p[r, c + 1] - p[r, c]) for p in pictures[:, 0] for r in range(5) for c in range(3)]
    learner = object.__new__(fersnet_additions.SmoothLearner)
    found = learner._synthesis_losses(None, pictures)["Variation"]
    assert found.item() == pytest.approx(sum(down).item() / len(down) + sum(across).item() / len(across))


def test_a_committee_gives_the_mean_of_its_logits():
    faces, members = torch.rand(3, 1, 48, 48), [SmallClassifier(4, base=4).eval() for _ in range(2)]
    expected = (members[0](faces) + members[1](faces)) / 2
    assert torch.allclose(fersnet_additions.Committee(members)(faces), expected)


def test_a_record_that_was_cut_off_spoils_no_other(tmp_path):
    path = tmp_path / "runs.jsonl"
    assert list(recorded_runs(path)) == []
    with open(path, "a", encoding="utf-8") as stream:
        record_run(stream, {"line": "a"})
        stream.write('\n{"line": "b')
        record_run(stream, {"line": "c"})
    assert list(recorded_runs(path)) == [{"line": "a"}, {"line": "c"}]
