"""What the network predicts: one table of tasks, from which heads, losses, CSV columns and
checkpoints derive.

A new task is one row of `TASKS`; its target is the emotion or a dimension of V/A/D, another one
needs a case of its own in `task_target` (training/metrics.py). A new kind of task is one of
`KINDS`, with a loss in `Objective` (training/losses.py) and an entry in each table that is indexed
by kind: `HEADS` (models/multitask.py), `METRICS` and `TRAINING_SUMS` (training/metrics.py),
`BEST_LINES` and `WORDS` (training/report.py).
"""

from dataclasses import dataclass

EMOTIONS = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
# Class names of datasets, in lower case, and ours; FER2013 itself has no contempt.
CLASS_WORDS = {
    "angry": "Angry", "anger": "Angry", "disgust": "Disgust", "disgusted": "Disgust",
    "fear": "Fear", "fearful": "Fear", "afraid": "Fear", "happy": "Happy", "happiness": "Happy",
    "joy": "Happy", "sad": "Sad", "sadness": "Sad", "surprise": "Surprise",
    "surprised": "Surprise", "suprise": "Surprise", "neutral": "Neutral", "contempt": "Contempt",
}  # fmt: skip
DIMENSIONS = ("Valence", "Arousal", "Dominance")
VAD_LIMIT = 2.0  # annotations run from -2 to 2
ZERO_BAND = 0.5  # |value| below it counts as zero, as if rounded to the annotators' integers
# Mean pleasure, arousal and dominance, -1..1, of angry, disgusted, fearful, happy, sad, surprised
# (Russell and Mehrabian, "Evidence for a three-factor theory of emotions", Journal of Research in
# Personality 11, 1977).
PUBLISHED_VAD = (
    (-0.51, 0.59, 0.25),
    (-0.60, 0.35, 0.11),
    (-0.64, 0.60, -0.43),
    (0.81, 0.51, 0.46),
    (-0.63, -0.27, -0.33),
    (0.40, 0.67, -0.13),
    (0.0, 0.0, 0.0),  # neutral: the origin
)
SPLITS = ("Training", "PublicTest", "PrivateTest")
TEST_SPLITS = SPLITS[1:]


@dataclass(frozen=True)
class Kind:
    """How a kind of task is measured.

    training_metrics, test_metrics: names of the metrics that training and evaluation report.
    decisive: the test metric that chooses the best epoch.
    sign: +1 if greater is better, else -1.
    """

    training_metrics: tuple
    test_metrics: tuple
    decisive: str
    sign: int

    def metrics(self, split):
        """The names of the metrics that are reported of a split."""
        return self.training_metrics if split == "Training" else self.test_metrics


KINDS = {
    "classification": Kind(("Acc", "Loss"), ("Acc", "Loss", "F1"), "Acc", +1),
    "regression": Kind(("Loss",), ("Loss", "CCC", "PCC", "SAGR"), "Loss", -1),
}


@dataclass(frozen=True)
class Task:
    """One output of the network. Raises ValueError for a dimension that does not fit the kind.

    name: in the names of the CSV (`AccProcess_<name>.csv`) and the public checkpoint.
    kind: a key of `KINDS`.
    width: number of outputs of the head.
    dimension: column of the V/A/D target, None for a classification.
    private_name: in the name of the checkpoint that is best on the private split.
    """

    name: str
    kind: str
    width: int
    dimension: int | None
    private_name: str

    def __post_init__(self):
        if (self.dimension is None) != (self.kind == "classification"):
            raise ValueError(f"{self.name}: only a classification has no dimension")

    @property
    def letter(self):
        """V, A or D at the end of the column names; empty for a classification."""
        return "" if self.dimension is None else DIMENSIONS[self.dimension][0]

    @property
    def rules(self):
        """The `Kind` that says how this task is measured."""
        return KINDS[self.kind]

    def checkpoint(self, split):
        """File name of the checkpoint that is best on `split` (PublicTest or PrivateTest)."""
        return f"{split}_model_{self.name if split == 'PublicTest' else self.private_name}.t7"


TASKS = {
    task.name: task
    for task in (
        Task("classify", "classification", len(EMOTIONS), None, "privateClassify"),
        Task("regressV", "regression", 1, 0, "privateV"),
        Task("regressA", "regression", 1, 1, "privateA"),
        Task("regressD", "regression", 1, 2, "privateD"),
    )
}
