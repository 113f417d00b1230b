"""The report of a cross-validation: CSVs, data.txt and a confusion matrix.

Every file is a pure function of the results of the folds: a resumed run writes the same bytes.
"""

import json
from pathlib import Path

import numpy as np
import torch

from training.metrics import macro_f1
from training.report import confusion, write_file
from utils.text import counted, to_csv

# Columns of AccProcess_classify.csv: {heading: (part of a row, metric, decimals)}.
EPOCH_COLUMNS = {
    "TrainAcc": ("Training", "Acc", 3),
    "TestAcc": ("Test", "Acc", 3),
    "TestSeqAcc": ("Test", "SeqAcc", 3),
    "TrainLoss": ("Training", "Loss", 6),
    "TestLoss": ("Test", "Loss", 6),
    "TestF1": ("Test", "F1", 6),
    "TrainL1": ("Training", "L1", 6),
    "TestL1": ("Test", "L1", 6),
    "TestSSIM": ("Test", "SSIM", 6),
}
# Columns of AccProcess_folds.csv: {heading: (metric of a fold's result, decimals)}.
FOLD_COLUMNS = {
    "Faces": ("faces", 0),
    "Sequences": ("sequences", 0),
    "LastAcc": ("Acc", 3),
    "LastSeqAcc": ("SeqAcc", 3),
    "LastF1": ("F1", 6),
    "BestAccOptimistic": ("BestAcc", 3),
    "BestSeqAccOptimistic": ("BestSeqAcc", 3),
    "BestEpoch": ("BestEpoch", 0),
    "TunedWithFaces": ("TunedFaces", 0),
    "TunedAcc": ("TunedAcc", 3),
    "TunedSeqAcc": ("TunedSeqAcc", 3),
    "BestTunedAccOptimistic": ("BestTunedAcc", 3),
    "BestTunedSeqAccOptimistic": ("BestTunedSeqAcc", 3),
    "L1": ("L1", 6),
    "SSIM": ("SSIM", 6),
    "CopyL1": ("CopyL1", 6),
    "CopySSIM": ("CopySSIM", 6),
}
# What data.txt says of all folds: {metric of their results: in words}.
OVERALL = {
    "Acc": "accuracy at the last epoch: the result",
    "SeqAcc": "the same of sequences, whose frames vote",
    "BestAcc": "accuracy at each fold's best epoch, chosen on its held-out faces: optimistic",
    "BestSeqAcc": "the same of sequences",
    "TunedAcc": "accuracy at the last epoch, tuned with synthesized faces",
    "TunedSeqAcc": "the same of sequences",
    "BestTunedAcc": "accuracy after each fold's best epoch of tuning: optimistic",
    "BestTunedSeqAcc": "the same of sequences",
}
HELD = "its rows are written once it is closed, after the next epoch or with --resume"


def write_report(out, folder):
    """Write AccProcess_classify.csv, AccProcess_folds.csv, data.txt and a confusion matrix.

    out, folder: of the report and of the checkpoints. They are made from the files fold<K>.json in
    `folder`, whoever wrote them. Raises UserError when a file cannot be written.
    """
    paths = sorted(Path(folder).glob("fold*.json"), key=lambda path: int(path.stem[4:]))
    folds = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    rows = [row for fold in folds for row in fold["rows"]]
    results = [fold["result"] for fold in folds if fold["result"] is not None]
    header = folds[0]["header"]
    header["protocol"] += f"; here: {', '.join(path.stem[4:] for path in paths)}"
    files = {
        "AccProcess_classify.csv": _epochs_csv(rows, results),
        "AccProcess_folds.csv": _folds_csv(results),
        "data.txt": _data_text(header, rows, results),
    }
    for name, text in files.items():
        write_file(Path(out) / name, text.encode(errors="backslashreplace"), HELD)
    if results:
        matrix = np.sum([result["confusion"] for result in results], axis=0)
        title = f"{header['dataset']}, {header['model']}: held-out faces"
        title += f" of {counted(len(results), 'fold')}, last epoch"
        picture = confusion(matrix.tolist(), title, folds[0]["class_names"])
        write_file(Path(folder) / "Test_confusion.png", picture, HELD)


def _mean(values, name, results):
    """The share of all faces, or sequences, from those of each fold; NaN where one has none."""
    weights = [result["sequences" if "Seq" in name else "faces"] for result in results]
    return np.average(np.array(values, dtype=float), weights=weights)


def _f1(metrics):
    """Macro F1 of the held-out faces of several folds together, from their confusion matrices."""
    return macro_f1(torch.tensor([each["confusion"] for each in metrics]).sum(dim=0)).item()


def _epochs_csv(rows, results):
    """A row per fold and epoch; then one per epoch over the finished folds, if several."""
    import pandas

    cells = [[row[part].get(name) for part, name, _ in EPOCH_COLUMNS.values()] for row in rows]
    frame = pandas.DataFrame(cells, columns=list(EPOCH_COLUMNS), dtype=float)
    frame.insert(0, "Fold", [row["fold"] for row in rows])
    frame.insert(1, "Epoch", [row["epoch"] for row in rows])
    finished = [result["fold"] for result in results]
    whole = frame[frame["Fold"].isin(finished)] if len(results) > 1 else frame[:0]
    overall = []
    for epoch, part in whole.groupby("Epoch"):
        means = {name: _mean(part[name], name, results) for name in EPOCH_COLUMNS}
        tested = [rows[index]["Test"] for index in part.index]
        overall.append({"Fold": "all", "Epoch": epoch, **means, "TestF1": _f1(tested)})
    if overall:
        frame = pandas.concat([frame, pandas.DataFrame(overall)])
    return to_csv(frame, {name: places for name, (_, _, places) in EPOCH_COLUMNS.items()})


def _folds_csv(results):
    """A row per finished fold, then one over all."""
    import pandas

    cells = [[result.get(name) for name, _ in FOLD_COLUMNS.values()] for result in results]
    frame = pandas.DataFrame(cells, columns=list(FOLD_COLUMNS), dtype=float)
    if results:
        means = {name: _mean(frame[name], name, results) for name in FOLD_COLUMNS}
        sums = frame[["Faces", "Sequences"]].sum().to_dict()
        unknown = {"BestEpoch": np.nan, "TunedWithFaces": np.nan}
        frame.loc[len(frame)] = means | sums | unknown | {"LastF1": _f1(results)}
    frame.insert(0, "Fold", [*(result["fold"] for result in results), "all"][: len(frame)])
    return to_csv(frame, {name: places for name, (_, places) in FOLD_COLUMNS.items()})


def _data_text(header, rows, results):
    """The text of data.txt."""
    lines = [f"{key}: {' '.join(str(value).splitlines())}" for key, value in header.items()]
    of_fold = {result["fold"]: result for result in results}
    for fold in dict.fromkeys(row["fold"] for row in rows):
        lines += ["", f"Fold {fold}"]
        lines += [_epoch_line(row) for row in rows if row["fold"] == fold]
        lines += _fold_lines(of_fold[fold]) if fold in of_fold else []
    if results:
        lines += ["", f"Overall, {counted(len(results), 'fold')}"]
    for name, words in OVERALL.items() if results else ():
        values = np.array([result.get(name) for result in results], dtype=float)
        overall = _mean(values, name, results)
        if not np.isnan(overall):
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            lines.append(
                f"  {words}: {overall:.3f} % of all; mean of folds {values.mean():.3f} %, standard "
                f"deviation {spread:.3f}"
            )
    return "\n".join(lines) + "\n"


def _epoch_line(row):
    trained, tested = row["Training"], row["Test"]
    line = (
        f"  epoch {row['epoch']}: training accuracy {trained['Acc']:.3f} %, held-out accuracy "
        f"{tested['Acc']:.3f} %, of sequences {tested['SeqAcc']:.3f} %, cross-entropy "
        f"{tested['Loss']:.6f}, macro F1 {tested['F1']:.6f}"
    )
    if tested.get("L1") is not None:
        line += f"; synthesized faces L1 {tested['L1']:.6f}, SSIM {tested['SSIM']:.6f}"
    return line


def _fold_lines(result):
    faces = counted(result["faces"], "held-out face")
    sequences = counted(result["sequences"], "sequence")
    yield (
        f"  result (last epoch, {faces} of {sequences}): accuracy {result['Acc']:.3f} %, of "
        f"sequences {result['SeqAcc']:.3f} %"
    )
    yield (
        f"  optimistic, at epoch {result['BestEpoch']}, chosen on the held-out faces: "
        f"{result['BestAcc']:.3f} %; of sequences, at the epoch best for them: "
        f"{result['BestSeqAcc']:.3f} %"
    )
    if result.get("L1") is not None:
        yield (
            f"  synthesized faces and the real ones: L1 {result['L1']:.6f}, SSIM "
            f"{result['SSIM']:.6f}; the unchanged face would have {result['CopyL1']:.6f} and "
            f"{result['CopySSIM']:.6f}"
        )
    if result.get("TunedFaces") == 0:
        yield "  not tuned: the network reads the target in no synthesized face"
    if result.get("TunedFaces"):
        yield (
            f"  tuned with {counted(result['TunedFaces'], 'synthesized face')}: "
            f"{result['TunedAcc']:.3f} %, {result['TunedAcc'] - result['Acc']:+.3f}; of sequences "
            f"{result['TunedSeqAcc']:.3f} %; optimistic, after its best epoch: "
            f"{result['BestTunedAcc']:.3f} %, of sequences {result['BestTunedSeqAcc']:.3f} %"
        )
