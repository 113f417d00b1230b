"""What the tables of measurements are calculated by: intervals, runs that are done, minutes to an accuracy."""

import json

import pytest
from scipy.stats import ttest_rel

from benchmarks import ablation, time_to_accuracy
from training.recipes import RECIPES
from utils.tasks import TASKS


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
