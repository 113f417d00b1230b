"""The history of a cross-validation, told in files: CSVs, data.txt, a confusion matrix.

Every file is a pure function of the arguments, so a resumed run rewrites exactly the same bytes. Folds count from 1.
"""

import statistics
from pathlib import Path

from training.records import write_confusion, write_file

# Columns of AccProcess_classify.csv: (heading, part of a row, figure, decimals).
EPOCH_COLUMNS = (
    ("TrainAcc", "Training", "Acc", 3),
    ("TestAcc", "Test", "Acc", 3),
    ("TrainLoss", "Training", "Loss", 6),
    ("TestLoss", "Test", "Loss", 6),
    ("TestF1", "Test", "F1", 6),
    ("TrainL1", "Training", "L1", 6),
    ("TestL1", "Test", "L1", 6),
    ("TestSSIM", "Test", "SSIM", 6),
)
# Columns of AccProcess_folds.csv: (heading, figure of a fold's result, decimals).
FOLD_COLUMNS = (
    ("Faces", "faces", 0),
    ("LastAcc", "Acc", 3),
    ("LastF1", "F1", 6),
    ("BestAccOptimistic", "BestAcc", 3),
    ("BestEpoch", "BestEpoch", 0),
    ("TunedAcc", "TunedAcc", 3),
    ("L1", "L1", 6),
    ("SSIM", "SSIM", 6),
    ("CopyL1", "CopyL1", 6),
    ("CopySSIM", "CopySSIM", 6),
    ("ReadAsTarget", "TargetShare", 3),
    ("JudgeAccOnReal", "JudgeAcc", 3),
)
OVERALL = "all"
CLOSED = "its rows are written once it is closed, after the next epoch or with --resume"


def write_records(out, folder, header, rows, results, class_names):
    """Write everything that is told about a cross-validation, each file atomically.

    out, folder: of the records and of the checkpoints; header: {key: value} for the head of data.txt; rows: a dict
    per finished epoch with fold, epoch, Training and Test figures; results: a dict per finished fold. UserError when
    a file cannot be written for another reason than being open elsewhere.
    """
    write_file(Path(out) / "AccProcess_classify.csv", _epochs_csv(rows, results).encode(), CLOSED)
    write_file(Path(out) / "AccProcess_folds.csv", _folds_csv(results).encode(), CLOSED)
    write_file(Path(out) / "data.txt", _told(header, rows, results).encode(errors="backslashreplace"), CLOSED)
    if results:
        title = f"{header['dataset']}, {header['model']}: held-out faces of {_folds(results)}, last epoch"
        write_confusion(Path(folder) / "Test_confusion.png", _summed(results, "confusion"), title, class_names)


def _summed(results, name):
    matrices = [result[name] for result in results]
    return [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def _text(value, decimals):
    """Plain decimal digits; an empty cell for what was not measured."""
    return "" if value is None else f"{value:.{decimals}f}"


def _epochs_csv(rows, results):
    lines = [",".join(("Fold", "Epoch", *(heading for heading, *_ in EPOCH_COLUMNS)))]
    for row in (*rows, *_overall_rows(rows, results)):
        cells = [_text(row[part].get(figure), decimals) for _, part, figure, decimals in EPOCH_COLUMNS]
        fold = row["fold"] if row["fold"] == OVERALL else str(row["fold"] + 1)
        lines.append(",".join((fold, str(row["epoch"]), *cells)))
    return "\n".join(lines) + "\n"


def _overall_rows(rows, results):
    """A row per epoch over all finished folds, where there are several: means weighted by their held-out faces."""
    faces = {result["fold"]: result["faces"] for result in results}
    for epoch in sorted({row["epoch"] for row in rows}) if len(faces) > 1 else ():
        these = [row for row in rows if row["epoch"] == epoch and row["fold"] in faces]
        mean = {"Training": {}, "Test": {}}
        for _, part, figure, _ in EPOCH_COLUMNS:
            weighted = [{"faces": faces[row["fold"]], figure: row[part].get(figure)} for row in these]
            mean[part][figure] = _mean(weighted, figure)
        yield {"fold": OVERALL, "epoch": epoch, **mean}


def _folds_csv(results):
    lines = [",".join(("Fold", *(heading for heading, *_ in FOLD_COLUMNS)))]
    for result in results:
        cells = [_text(result[figure] if figure in result else None, decimals) for _, figure, decimals in FOLD_COLUMNS]
        lines.append(",".join((str(result["fold"] + 1), *cells)))
    if results:
        cells = [_overall_cell(results, figure, decimals) for _, figure, decimals in FOLD_COLUMNS]
        lines.append(",".join((OVERALL, *cells)))
    return "\n".join(lines) + "\n"


def _overall_cell(results, figure, decimals):
    if figure == "faces":
        return str(sum(result["faces"] for result in results))
    if figure == "BestEpoch":
        return ""
    return _text(_mean(results, figure), decimals)


def _mean(results, figure):
    """Mean over folds, weighted by their faces: the share of all faces. None where a fold has no figure."""
    known = [(result["faces"], result.get(figure)) for result in results]
    if any(value is None for _, value in known):
        return None
    return sum(faces * value for faces, value in known) / sum(faces for faces, _ in known)


def _told(header, rows, results):
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
        line += f"; drawn faces L1 {tested['L1']:.6f}, SSIM {tested['SSIM']:.6f}"
    return line


def _fold_lines(result):
    yield f"  result (last epoch, {result['faces']} held-out faces): accuracy {result['Acc']:.3f} %"
    yield f"  optimistic, at epoch {result['BestEpoch']}, chosen on the held-out faces: {result['BestAcc']:.3f} %"
    if result.get("L1") is not None:
        yield (f"  drawn faces and the real ones: L1 {result['L1']:.6f}, SSIM {result['SSIM']:.6f}; the unchanged face "
               f"would have {result['CopyL1']:.6f} and {result['CopySSIM']:.6f}")  # fmt: skip
    if result["TargetShare"] is not None:
        yield (f"  drawn faces that an independent network reads as wanted: {result['TargetShare']:.3f} %; it reads "
               f"{result['JudgeAcc']:.3f} % of the real ones rightly")  # fmt: skip
    if result["TunedAcc"] is not None:
        yield f"  tuned with drawn faces: {result['TunedAcc']:.3f} %, {result['TunedAcc'] - result['Acc']:+.3f}"


def _folds(results):
    return "1 fold" if len(results) == 1 else f"{len(results)} folds"


def _overall_lines(results):
    yield f"Overall, {_folds(results)}"
    for figure, name in (
        ("Acc", "accuracy at the last epoch: the result"),
        ("BestAcc", "accuracy at each fold's best epoch, chosen on its held-out faces: optimistic"),
        ("TunedAcc", "accuracy at the last epoch, tuned with drawn faces"),
        ("TargetShare", "drawn faces that an independent network reads as wanted"),
    ):
        values = [result[figure] for result in results]
        if None not in values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            yield (f"  {name}: {_mean(results, figure):.3f} % of all faces; mean of folds "
                   f"{statistics.mean(values):.3f} %, standard deviation {spread:.3f}")  # fmt: skip
