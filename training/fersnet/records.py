"""The history of a cross-validation, reported in files: CSVs, data.txt, a confusion matrix.

Every file is a pure function of the arguments, so a resumed run rewrites exactly the same bytes. Folds count from 1.
"""

from pathlib import Path

import numpy as np
import torch

from training.fersnet.judge import VIEWS
from training.metrics import macro_f1
from training.records import write_confusion, write_file
from utils.text import counted, to_csv

# Columns of AccProcess_classify.csv: {heading: (part of a row, figure, decimals)}.
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
# Columns of AccProcess_folds.csv: {heading: (figure of a fold's result, decimals)}.
FOLD_COLUMNS = {
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
    **{f"ReadAsTarget{view}": (f"TargetShare{view}", 3) for view in VIEWS},
    **{f"Judge{view}AccOnReal": (f"JudgeAcc{view}", 3) for view in VIEWS},
}
COUNTS = ("Faces", "Sequences")  # of a fold
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
        title = f"{header['dataset']}, {header['model']}: held-out faces of {counted(len(results), 'fold')}, last epoch"
        matrix = sum(np.array(result["confusion"]) for result in results)
        write_confusion(Path(folder) / "Test_confusion.png", matrix, title, class_names)


def _weighted(frame, counts):
    """Mean of each column over folds, weighted by what it counts: the share of all. NaN where one has no figure.

    (F1 is no share: see `_f1`.)

    counts: DataFrame of the folds' "Faces" and "Sequences".
    """
    weights = {name: counts["Sequences" if "Seq" in name else "Faces"] for name in frame.columns}
    return frame.apply(lambda column: (column * weights[column.name]).sum(skipna=False) / weights[column.name].sum())


def _f1(figures):
    """Macro F1 of the held-out faces of several folds together. figures: of each, with its confusion matrix."""
    return macro_f1(torch.tensor([each["confusion"] for each in figures]).sum(dim=0)).item()


def _counts(results):
    """Faces and sequences of finished folds, by number of the fold."""
    import pandas

    counts = [{"Fold": result["fold"] + 1, **{name: result[name.lower()] for name in COUNTS}} for result in results]
    return pandas.DataFrame(counts, columns=["Fold", *COUNTS]).set_index("Fold")


def _epochs_csv(rows, results):
    """A row per fold and epoch; then one per epoch over all finished folds, where there are several."""
    import pandas

    cells = [
        {"Fold": row["fold"] + 1, "Epoch": row["epoch"]}
        | {heading: row[part].get(figure) for heading, (part, figure, _) in EPOCH_COLUMNS.items()}
        for row in rows
    ]
    frame = pandas.DataFrame(cells, columns=["Fold", "Epoch", *EPOCH_COLUMNS])
    frame[list(EPOCH_COLUMNS)] = frame[list(EPOCH_COLUMNS)].astype(float)
    if len(results) > 1:
        counted = frame.join(_counts(results), on="Fold", how="inner")
        overall = counted.groupby("Epoch")[[*EPOCH_COLUMNS, *COUNTS]].apply(
            lambda part: _weighted(part[list(EPOCH_COLUMNS)], part[list(COUNTS)])
        )
        finished = {result["fold"] for result in results}
        tested = [(row["epoch"], row["Test"]) for row in rows if row["fold"] in finished]
        overall["TestF1"] = [_f1([figures for each, figures in tested if each == epoch]) for epoch in overall.index]
        frame = pandas.concat([frame, overall.reset_index().assign(Fold=OVERALL)])
    return to_csv(frame, {heading: decimals for heading, (_, _, decimals) in EPOCH_COLUMNS.items()})


def _folds_csv(results):
    """A row per finished fold, then one over all."""
    import pandas

    cells = [{heading: result.get(figure) for heading, (figure, _) in FOLD_COLUMNS.items()} for result in results]
    counts = _counts(results)
    figures = pandas.DataFrame(cells, columns=list(FOLD_COLUMNS), index=counts.index, dtype=float)
    frame = counts.join(figures).reset_index()
    if results:
        overall = _weighted(figures, counts).drop(["BestEpoch", "TunedWithFaces"]).to_frame().T
        frame = pandas.concat([frame, overall.assign(Fold=OVERALL, LastF1=_f1(results), **counts.sum())])
    return to_csv(frame, {heading: decimals for heading, (_, decimals) in FOLD_COLUMNS.items()})


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
        f"of sequences {tested['SeqAcc']:.3f} %, cross-entropy {tested['Loss']:.6f}, macro F1 {tested['F1']:.6f}"
    )
    if tested.get("L1") is not None:
        line += f"; synthesized faces L1 {tested['L1']:.6f}, SSIM {tested['SSIM']:.6f}"
    return line


def _fold_lines(result):
    yield (f"  result (last epoch, {counted(result['faces'], 'held-out face')} of "
           f"{counted(result['sequences'], 'sequence')}): accuracy "
           f"{result['Acc']:.3f} %, of sequences {result['SeqAcc']:.3f} %")  # fmt: skip
    yield (f"  optimistic, at epoch {result['BestEpoch']}, chosen on the held-out faces: {result['BestAcc']:.3f} %; "
           f"of sequences, at the epoch best for them: {result['BestSeqAcc']:.3f} %")  # fmt: skip
    if result.get("L1") is not None:
        yield (f"  synthesized faces and the real ones: L1 {result['L1']:.6f}, SSIM {result['SSIM']:.6f}; the "
               f"unchanged face would have {result['CopyL1']:.6f} and {result['CopySSIM']:.6f}")  # fmt: skip
    if result["TargetShare"] is not None:
        for view in VIEWS:
            yield (f"  synthesized faces that an independent network reads as wanted{view and ', '}{view.lower()}: "
                   f"{result['TargetShare' + view]:.3f} %; it reads {result['JudgeAcc' + view]:.3f} % of the real ones "
                   "rightly")  # fmt: skip
    if result.get("TunedFaces") == 0:
        yield "  not tuned: in no synthesized face does the network itself read the expression that was wanted"
    if result["TunedAcc"] is not None:
        count = result.get("TunedFaces")  # which earlier versions did not keep
        faces = "synthesized faces" if count is None else counted(count, "synthesized face")
        gained = result["TunedAcc"] - result["Acc"]
        yield (f"  tuned with {faces}: {result['TunedAcc']:.3f} %, {gained:+.3f}; of sequences "
               f"{result['TunedSeqAcc']:.3f} %; optimistic, after its best epoch: "
               f"{result['BestTunedAcc']:.3f} %, of sequences {result['BestTunedSeqAcc']:.3f} %")  # fmt: skip


def _overall_lines(results):
    import pandas

    yield f"Overall, {counted(len(results), 'fold')}"
    names = {
        "Acc": "accuracy at the last epoch: the result",
        "SeqAcc": "the same of sequences, whose frames vote",
        "BestAcc": "accuracy at each fold's best epoch, chosen on its held-out faces: optimistic",
        "BestSeqAcc": "the same of sequences",
        "TunedAcc": "accuracy at the last epoch, tuned with synthesized faces",
        "TunedSeqAcc": "the same of sequences",
        "BestTunedAcc": "accuracy after each fold's best epoch of tuning: optimistic",
        "BestTunedSeqAcc": "the same of sequences",
        **{f"TargetShare{view}": f"synthesized faces that an independent network reads as wanted{view and ', '}"
                                 f"{view.lower()}" for view in VIEWS},
    }  # fmt: skip
    counts = _counts(results)
    cells = [{name: result[name] for name in names} for result in results]
    figures = pandas.DataFrame(cells, index=counts.index, dtype=float)
    for name, overall in _weighted(figures, counts).dropna().items():
        spread = figures[name].std() if len(results) > 1 else 0.0
        yield (f"  {names[name]}: {overall:.3f} % of all; mean of folds {figures[name].mean():.3f} %, "
               f"standard deviation {spread:.3f}")  # fmt: skip
