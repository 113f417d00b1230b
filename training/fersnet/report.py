"""The report of a cross-validation: CSVs, data.txt and a confusion matrix.

Every file is a pure function of the results of the folds: a resumed run writes the same bytes.
"""

import json
from pathlib import Path

import numpy as np
import torch

from training.metrics import macro_f1
from training.report import confusion, write_file
from utils.text import counted, decimal, to_csv

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


def write_report(out, folder):
    """Write AccProcess_classify.csv, AccProcess_folds.csv, data.txt and a confusion matrix.

    out, folder: of the report and of the checkpoints. They are made from the files fold<K>.json in
    `folder`, whoever wrote them. Raises UserError when a file cannot be written.
    """
    paths = sorted(Path(folder).glob("fold*.json"), key=lambda path: int(path.stem[4:]))
    folds = {path.stem[4:]: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    finished = {name: fold for name, fold in folds.items() if fold["result"] is not None}
    epochs, results = epochs_table(folds, finished), results_table(finished)
    first = next(iter(folds.values()))
    header = first["header"]
    header["protocol"] += f"; here: {', '.join(folds)}"
    files = {
        "AccProcess_classify.csv": to_csv(epochs, {name: places(name) for name in EPOCH_COLUMNS}),
        "AccProcess_folds.csv": to_csv(results, {name: places(name) for name in FOLD_COLUMNS}),
        "data.txt": report_text(header, epochs, results),
    }
    for name, text in files.items():
        write_file(Path(out) / name, text.encode(errors="backslashreplace"))
    if finished:
        matrix = np.sum([fold["result"]["confusion"] for fold in finished.values()], axis=0)
        title = f"{header['dataset']}, {header['model']}: held-out faces"
        title += f" of {counted(len(finished), 'fold')}, last epoch"
        picture = confusion(matrix, title, first["class_names"])
        write_file(Path(folder) / "Test_confusion.png", picture)


def epochs_table(folds, finished):
    """A row per fold and epoch; then one per epoch over the finished folds, if several.

    folds, finished: {fold: content of its fold<K>.json}. Returns a pandas DataFrame.
    """
    import pandas

    tables = []
    for name, fold in folds.items():
        table = _select(fold["history"], EPOCH_COLUMNS)
        table.insert(0, "Fold", name)
        table.insert(1, "Epoch", range(len(table)))
        tables.append(table)
    histories = [fold["history"] for fold in finished.values()] if len(finished) > 1 else []
    results = [fold["result"] for fold in finished.values()]
    for epoch, rows in enumerate(zip(*histories, strict=True)):
        means = _pool(_select(rows, EPOCH_COLUMNS), results)
        means["TestF1"] = _pooled_f1([row["Test"] for row in rows])
        tables.append(pandas.DataFrame([{"Fold": "all", "Epoch": epoch} | means]))
    return pandas.concat([table for table in tables if len(table)] or tables[:1])


def results_table(finished):
    """A row per finished fold, then one over all; a pandas DataFrame."""
    results = [fold["result"] for fold in finished.values()]
    table = _select(results, FOLD_COLUMNS)
    if results:
        unknown = dict.fromkeys(("BestEpoch", "TunedWithFaces"), np.nan)
        sums = table[["Faces", "Sequences"]].sum().to_dict() | unknown
        means = _pool(table, results) | {"LastF1": _pooled_f1(results)}
        table.loc[len(table)] = means | sums
    table.insert(0, "Fold", [*finished, "all"][: len(table)])
    return table


def _select(rows, columns):
    """A DataFrame of nested dicts: the `columns`, {heading: place}, NaN where there is none."""
    import pandas

    table = pandas.json_normalize(list(rows)).reindex(columns=list(columns.values()))
    return table.set_axis(list(columns), axis=1).astype(float)


def _pool(table, results):
    """{column: its share of all faces, or sequences}, NaN where a fold has none."""
    weights = {unit: [result[unit] for result in results] for unit in ("faces", "sequences")}
    return {
        name: np.average(table[name], weights=weights["sequences" if "Seq" in name else "faces"])
        for name in table
    }


def _pooled_f1(metrics):
    """Macro F1 of the held-out faces of several folds together, from their confusion matrices."""
    return macro_f1(torch.tensor([each["confusion"] for each in metrics]).sum(dim=0)).item()


def report_text(header, epochs, results):
    """The text of data.txt. header: {key: value}; epochs, results: the tables."""
    lines = [f"{key}: {' '.join(str(value).splitlines())}" for key, value in header.items()]
    lines += ["", LEGEND]
    for fold, table in epochs.groupby("Fold", sort=False):
        lines += ["", "All folds" if fold == "all" else f"Fold {fold}"]
        lines += [f"  epoch {row['Epoch']}: {_in_words(row[2:])}" for _, row in table.iterrows()]
        for _, row in results[results["Fold"] == fold].iterrows():
            lines.append(f"  result: {_in_words(row[1:])}")
    if len(results) > 2:  # several folds
        accuracies = results[:-1].filter(like="Acc")
        lines.append(f"  mean of folds: {_in_words(accuracies.mean())}")
        lines.append(f"  standard deviation of folds: {_in_words(accuracies.std())}")
    return "\n".join(lines) + "\n"


def _in_words(row):
    known = row.dropna().items()
    return ", ".join(f"{name} {decimal(value, places(name))}" for name, value in known)


def places(name):
    """How many decimals a column is written with."""
    return 0 if name in COUNTS else 3 if "Acc" in name else 6
