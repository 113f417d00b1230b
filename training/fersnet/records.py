"""The history of a cross-validation, reported in files: CSVs, data.txt, a confusion matrix.

Every file is a pure function of the arguments, so a resumed run rewrites exactly the same bytes. Folds count from 1.
"""

import statistics
from pathlib import Path

import numpy as np

from training.records import write_confusion, write_file
from utils.tables import to_csv

# Columns of AccProcess_classify.csv: {heading: (part of a row, figure, decimals)}.
EPOCH_COLUMNS = {
    "TrainAcc": ("Training", "Acc", 3),
    "TestAcc": ("Test", "Acc", 3),
    "TrainLoss": ("Training", "Loss", 6),
    "TestLoss": ("Test", "Loss", 6),
    "TestF1": ("Test", "F1", 6),
    "TrainL1": ("Training", "L1", 6),
    "TestL1": ("Test", "L1", 6),
    "TestSSIM": ("Test", "SSIM", 6),
}
# Columns of AccProcess_folds.csv: {heading: (figure of a fold's result, decimals)}.
FOLD_COLUMNS = {
    "LastAcc": ("Acc", 3),
    "LastF1": ("F1", 6),
    "BestAccOptimistic": ("BestAcc", 3),
    "BestEpoch": ("BestEpoch", 0),
    "TunedAcc": ("TunedAcc", 3),
    "L1": ("L1", 6),
    "SSIM": ("SSIM", 6),
    "CopyL1": ("CopyL1", 6),
    "CopySSIM": ("CopySSIM", 6),
    "ReadAsTarget": ("TargetShare", 3),
    "JudgeAccOnReal": ("JudgeAcc", 3),
}
OVERALL = "all"
CLOSED = "its rows are written once it is closed, after the next epoch or with --resume"


def write_records(out, folder, header, rows, results, class_names):
    """Write everything that is reported about a cross-validation, each file atomically.

    out, folder: of the records and of the checkpoints; header: {key: value} for the head of data.txt; rows: a dict
    per finished epoch with fold, epoch, Training and Test figures; results: a dict per finished fold. UserError when
    a file cannot be written for another reason than being open elsewhere.
    """
    files = {
        "AccProcess_classify.csv": _epochs_csv(rows, results).encode(),
        "AccProcess_folds.csv": _folds_csv(results).encode(),
        "data.txt": _report(header, rows, results).encode(errors="backslashreplace"),
    }
    for name, content in files.items():
        write_file(Path(out) / name, content, CLOSED)
    if results:
        title = f"{header['dataset']}, {header['model']}: held-out faces of {_folds(results)}, last epoch"
        matrix = sum(np.array(result["confusion"]) for result in results)
        write_confusion(Path(folder) / "Test_confusion.png", matrix, title, class_names)


def _weighted(frame, faces):
    """Mean of each column over folds, weighted by their faces: the share of all faces. NaN where one has no figure."""
    return frame.mul(faces, axis=0).sum(skipna=False) / faces.sum()


def _epochs_csv(rows, results):
    """A row per fold and epoch; then one per epoch over all finished folds, where there are several."""
    import pandas

    cells = [
        {"Fold": row["fold"] + 1, "Epoch": row["epoch"]}
        | {heading: row[part].get(figure) for heading, (part, figure, _) in EPOCH_COLUMNS.items()}
        for row in rows
    ]
    frame = pandas.DataFrame(cells, columns=["Fold", "Epoch", *EPOCH_COLUMNS])
    figures = frame[list(EPOCH_COLUMNS)] = frame[list(EPOCH_COLUMNS)].astype(float)
    faces = frame["Fold"].map({result["fold"] + 1: result["faces"] for result in results})
    if len(results) > 1:
        finished = figures.assign(faces=faces)[faces.notna()].groupby(frame["Epoch"])
        overall = finished.apply(lambda part: _weighted(part[list(EPOCH_COLUMNS)], part["faces"]))
        frame = pandas.concat([frame, overall.reset_index().assign(Fold=OVERALL)])
    return to_csv(frame, {heading: decimals for heading, (_, _, decimals) in EPOCH_COLUMNS.items()})


def _folds_csv(results):
    """A row per finished fold, then one over all."""
    import pandas

    cells = [
        {"Fold": result["fold"] + 1, "Faces": result["faces"]}
        | {heading: result.get(figure) for heading, (figure, _) in FOLD_COLUMNS.items()}
        for result in results
    ]
    frame = pandas.DataFrame(cells, columns=["Fold", "Faces", *FOLD_COLUMNS])
    figures = frame[list(FOLD_COLUMNS)] = frame[list(FOLD_COLUMNS)].astype(float)
    if results:
        overall = _weighted(figures, frame["Faces"]).drop("BestEpoch").to_frame().T
        frame = pandas.concat([frame, overall.assign(Fold=OVERALL, Faces=frame["Faces"].sum())])
    return to_csv(frame, {heading: decimals for heading, (_, decimals) in FOLD_COLUMNS.items()})


def _mean(results, figure):
    """Mean over folds, weighted by their faces: the share of all faces."""
    return sum(result["faces"] * result[figure] for result in results) / sum(result["faces"] for result in results)


def _report(header, rows, results):
    lines = [f"{key}: {' '.join(str(value).splitlines())}" for key, value in header.items()]
    for fold in dict.fromkeys(row["fold"] for row in rows):
        lines += ["", f"Fold {fold + 1}"]
        lines += [_epoch_line(row) for row in rows if row["fold"] == fold]
        lines += [line for result in results if result["fold"] == fold for line in _fold_lines(result)]
    if results:
        lines += ["", *_overall_lines(results)]
    return "\n".join(lines) + "\n"


def _epoch_line(row):
    trained, tested = row["Training"], row["Test"]
    line = (
        f"  epoch {row['epoch']}: training accuracy {trained['Acc']:.3f} %, held-out accuracy {tested['Acc']:.3f} %, "
        f"cross-entropy {tested['Loss']:.6f}, macro F1 {tested['F1']:.6f}"
    )
    if tested.get("L1") is not None:
        line += f"; synthesized faces L1 {tested['L1']:.6f}, SSIM {tested['SSIM']:.6f}"
    return line


def _fold_lines(result):
    yield f"  result (last epoch, {result['faces']} held-out faces): accuracy {result['Acc']:.3f} %"
    yield f"  optimistic, at epoch {result['BestEpoch']}, chosen on the held-out faces: {result['BestAcc']:.3f} %"
    if result.get("L1") is not None:
        yield (f"  synthesized faces and the real ones: L1 {result['L1']:.6f}, SSIM {result['SSIM']:.6f}; the "
               f"unchanged face would have {result['CopyL1']:.6f} and {result['CopySSIM']:.6f}")  # fmt: skip
    if result["TargetShare"] is not None:
        yield (f"  synthesized faces that an independent network reads as wanted: {result['TargetShare']:.3f} %; it "
               f"reads {result['JudgeAcc']:.3f} % of the real ones rightly")  # fmt: skip
    if result["TunedAcc"] is not None:
        yield f"  tuned with synthesized faces: {result['TunedAcc']:.3f} %, {result['TunedAcc'] - result['Acc']:+.3f}"


def _folds(results):
    return "1 fold" if len(results) == 1 else f"{len(results)} folds"


def _overall_lines(results):
    yield f"Overall, {_folds(results)}"
    for figure, name in (
        ("Acc", "accuracy at the last epoch: the result"),
        ("BestAcc", "accuracy at each fold's best epoch, chosen on its held-out faces: optimistic"),
        ("TunedAcc", "accuracy at the last epoch, tuned with synthesized faces"),
        ("TargetShare", "synthesized faces that an independent network reads as wanted"),
    ):
        values = [result[figure] for result in results]
        if None not in values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            yield (f"  {name}: {_mean(results, figure):.3f} % of all faces; mean of folds "
                   f"{statistics.mean(values):.3f} %, standard deviation {spread:.3f}")  # fmt: skip
