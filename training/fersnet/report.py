"""The report of a cross-validation: CSVs, data.txt and a confusion matrix.

Every file is a pure function of the results of the folds: a resumed run writes the same bytes.
"""

import json
from pathlib import Path

import numpy as np
import torch

from data.subjects.folds import FOLDS
from training.metrics import macro_f1
from training.report import confusion, write_file
from utils.text import counted, to_csv

# Columns of AccProcess_classify.csv: {heading: its place in the results of an epoch}.
EPOCH_COLUMNS = {
    "TrainAcc": "Training.Acc",
    "TestAcc": "Test.Acc",
    "TestSeqAcc": "Test.SeqAcc",
    "TrainLoss": "Training.Loss",
    "TestLoss": "Test.Loss",
    "TestF1": "Test.F1",
    "TrainL1": "Training.L1",
    "TestL1": "Test.L1",
    "TestSSIM": "Test.SSIM",
}
# Columns of AccProcess_folds.csv: {heading: its place in the result of a fold}.
FOLD_COLUMNS = {
    "Faces": "faces",
    "Sequences": "sequences",
    "LastAcc": "Acc",
    "LastSeqAcc": "SeqAcc",
    "LastF1": "F1",
    "BestAccOptimistic": "BestAcc",
    "BestSeqAccOptimistic": "BestSeqAcc",
    "BestEpoch": "BestEpoch",
    "TunedWithFaces": "TunedFaces",
    "TunedAcc": "TunedAcc",
    "TunedSeqAcc": "TunedSeqAcc",
    "BestTunedAccOptimistic": "BestTunedAcc",
    "BestTunedSeqAccOptimistic": "BestTunedSeqAcc",
    "L1": "L1",
    "SSIM": "SSIM",
    "CopyL1": "CopyL1",
    "CopySSIM": "CopySSIM",
}
COUNTS = ("Faces", "Sequences", "BestEpoch", "TunedWithFaces")
LEGEND = (
    "Accuracies are percent of held-out faces or, Seq, of sequences, whose frames vote. Last: at "
    "the last epoch, the result. Optimistic: at the best epoch, chosen on these very faces. Tuned: "
    "after tuning with synthesized faces. Copy: of the unchanged face in place of the synthesized."
)


def result_files(folder):
    """[`Path`] of the result files of folds that exist in `folder`, in the order of the folds."""
    paths = [Path(folder) / f"fold{fold}.json" for fold in range(1, FOLDS + 1)]
    return [path for path in paths if path.exists()]


def write_report(out, folder):
    """Write AccProcess_classify.csv, AccProcess_folds.csv, data.txt and a confusion matrix.

    out, folder: of the report and of the checkpoints. They are made from the files fold<K>.json in
    `folder`, whoever wrote them. Raises UserError when a file cannot be written.
    """
    paths = result_files(folder)
    folds = {path.stem[4:]: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    results = {name: fold["result"] for name, fold in folds.items() if fold["result"] is not None}
    first = next(iter(folds.values()))
    header = first["header"]
    header["protocol"] += f"; here: {', '.join(folds)}"
    tables = {
        "AccProcess_classify.csv": epochs_table(folds),
        "AccProcess_folds.csv": results_table(results),
    }
    lines = [f"{key}: {' '.join(str(value).splitlines())}" for key, value in header.items()]
    for name, table in tables.items():
        numbers = [heading for heading in table if heading not in ("Fold", "Epoch")]
        text = to_csv(table, {heading: places(heading) for heading in numbers})
        write_file(Path(out) / name, text.encode())
        lines += ["", name, text.rstrip().replace(",", "\t")]
    text = "\n".join([*lines, "", LEGEND, ""])
    write_file(Path(out) / "data.txt", text.encode(errors="backslashreplace"))
    if results:
        matrix = np.sum([result["confusion"] for result in results.values()], axis=0)
        title = f"{header['dataset']}, {header['model']}: held-out faces"
        title += f" of {counted(len(results), 'fold')}, last epoch"
        picture = confusion(matrix, title, first["class_names"])
        write_file(Path(folder) / "Test_confusion.png", picture)


def epochs_table(folds):
    """A pandas DataFrame with a row per fold and epoch. folds: {fold: content of its JSON}."""
    names = [name for name, fold in folds.items() for _ in fold["history"]]
    rows = [row for fold in folds.values() for row in fold["history"]]
    table = _select(rows, EPOCH_COLUMNS)
    table.insert(0, "Fold", names)
    table.insert(1, "Epoch", [row["epoch"] for row in rows])
    return table


def results_table(results):
    """A pandas DataFrame with a row per finished fold, then one over all.

    results: {fold: its result}. The last row holds the shares of all faces or, Seq, sequences.
    """
    table = _select(results.values(), FOLD_COLUMNS)
    if results:
        matrices = torch.tensor([result["confusion"] for result in results.values()])
        units = {True: table["Sequences"], False: table["Faces"]}
        overall = {name: np.average(table[name], weights=units["Seq" in name]) for name in table}
        overall |= table[["Faces", "Sequences"]].sum().to_dict()
        overall |= {"LastF1": macro_f1(matrices.sum(dim=0)).item()}
        table.loc[len(table)] = overall | dict.fromkeys(("BestEpoch", "TunedWithFaces"), np.nan)
    table.insert(0, "Fold", [*results, "all"][: len(table)])
    return table


def _select(rows, columns):
    """A DataFrame of nested dicts: the `columns`, {heading: place}, NaN where there is none."""
    import pandas

    table = pandas.json_normalize(list(rows)).reindex(columns=list(columns.values()))
    return table.set_axis(list(columns), axis=1).astype(float)


def places(name):
    """How many decimals a column is written with."""
    return 0 if name in COUNTS else 3 if "Acc" in name else 6
