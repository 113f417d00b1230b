"""A training step that a GPU can replay: recorded here operation by operation, and replayed."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from data.demo.demo import draw_faces
from data.faces import Faces
from models.fersnet import Discriminator, FERSNet, SmallClassifier
from models.multitask import MultiTask
from training.captured import CapturedStep, tensors_of
from training.config import FERSNET_RECIPES, RECIPES
from training.device import Runtime, setup_device
from training.fersnet.learner import FERSNetLearner, PairBatch
from training.learner import MultiTaskLearner
from utils.tasks import TASKS

BATCH, STEPS = 16, 4
# What CUDA computes in another order each time, in the backward pass: the list in the documentation
# of `torch.use_deterministic_algorithms`, as far as a network could call it.
NOT_DETERMINISTIC = {
    f"aten::{name}_backward"
    for name in (
        "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d",
        "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "grid_sampler_2d",
        "_adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool3d_with_indices", "embedding_dense",
    )
} | {"aten::index_add", "aten::index_add_", "aten::index_put", "aten::scatter_add",
     "aten::_index_put_impl_", "aten::put_", "aten::histc", "aten::nll_loss2d_forward"}  # fmt: skip


class Tape(TorchDispatchMode):
    """Stands in for a CUDA graph: records operations with the host's numbers as they were then.

    A replay repeats them, and leaves what they compute in the tensors of the recording.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        self.calls.append((function, arguments, options or {}, result))
        return result

    @property
    def names(self):
        return [function.name() for function, *_ in self.calls]

    @torch.no_grad()
    def replay(self):
        now = {}

        def current(value):
            if isinstance(value, torch.Tensor):
                return now.get(id(value), (value, value))[1]
            if isinstance(value, list | tuple):
                return type(value)(map(current, value))
            return value

        def remember(recorded, value):
            if isinstance(recorded, torch.Tensor):
                now[id(recorded)] = recorded, value
            elif isinstance(recorded, list | tuple):
                for each in zip(recorded, value, strict=True):
                    remember(*each)

        for function, arguments, options, result in self.calls:
            options = {name: current(value) for name, value in options.items()}
            remember(result, function(*current(arguments), **options))
        for recorded, value in now.values():
            if recorded is not value and 0 not in recorded.stride():  # an expanded one is a view
                recorded.copy_(value)


@pytest.fixture
def tapes(monkeypatch):
    """Captures work without a GPU, by `Tape`s, which are collected in the list returned."""
    made = []
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: made.append(Tape()) or made[-1])
    monkeypatch.setattr(torch.cuda, "graph", lambda tape: tape)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return made


def multitask_learner(recipe, precision):
    faces = Faces.from_arrays(*draw_faces(BATCH * STEPS, seed=0))
    recipe = replace(recipe, batch_size=BATCH, epochs=1)
    torch.manual_seed(0)
    options = {"base": 8, "pooled": recipe.pooled, "dropout": recipe.dropout}
    model = MultiTask(tuple(TASKS), recipe.sharing, **options)
    if recipe.targets == "votes":
        faces = replace(faces, votes=torch.randint(3, (len(faces), 7), dtype=torch.uint8))
    teacher = torch.rand(len(faces), 7).softmax(1) if recipe.teacher else None
    runtime = setup_device("cpu", precision)
    learner = MultiTaskLearner(model, recipe, faces, 0, runtime, teacher)
    return learner, list(learner.batches(learner.plan(0)))


def fersnet_learner(recipe, precision):
    torch.manual_seed(0)
    recipe, size = replace(recipe, epochs=1), (8, 1, 48, 48)
    helpers = Discriminator(7, 8), SmallClassifier(5, 8), SmallClassifier(7, 8)
    runtime = setup_device("cpu", precision)
    learner = FERSNetLearner(FERSNet(base=8), helpers, recipe, None, 0, runtime)
    batches = []
    for _ in range(STEPS):
        labels = torch.randint(7, (3, 8))
        known = torch.rand(8) < 0.5
        batches.append(
            PairBatch(torch.rand(size), labels[0], labels[1], torch.rand(size), labels[2], known)
        )
    return learner, batches


LEARNERS = {
    "default": lambda precision: multitask_learner(RECIPES["default"], precision),
    "fast": lambda precision: multitask_learner(RECIPES["fast"], precision),
    "photographs": lambda precision: multitask_learner(RECIPES["photographs"], precision),
    "paper": lambda precision: multitask_learner(RECIPES["paper"], precision),
    "demo": lambda precision: multitask_learner(RECIPES["demo"], precision),
    "fersnet": lambda precision: fersnet_learner(FERSNET_RECIPES["default"], precision),
    "fersnet-paper": lambda precision: fersnet_learner(FERSNET_RECIPES["paper"], precision),
}
# (recipe, precision, most operations of its step): how many a GPU must be given one by one where
# it cannot replay them.
CASES = [
    ("default", "bf16", 1800),
    ("fast", "fp32", 1750),
    ("photographs", "fp32", 1750),
    ("paper", "fp32", 2550),
    ("demo", "fp32", 800),
    ("fersnet", "bf16", 2500),
    ("fersnet-paper", "fp32", 3350),
]


def learn(learner, batches, first=0):
    """The losses and sums of the steps from `first` on, each copied before the next."""
    learner.model.train()
    results = []
    for number, batch in enumerate(batches[first:], first):
        loss, sums = learner.step(batch, number, STEPS)
        results += [loss.clone(), sums.clone()]
    return results


def state_of(learner):
    return dict(tensors_of(learner.state_dict()))


def assert_equal_tensors(expected, found):
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


@pytest.mark.parametrize(("name", "precision", "most_operations"), CASES)
def test_a_replayed_step_learns_what_the_step_does(
    tapes, monkeypatch, name, precision, most_operations
):
    learner, batches = LEARNERS[name](precision)
    torch.manual_seed(1)
    expected = learn(learner, batches)
    monkeypatch.setattr(Runtime, "replays_steps", True)
    other, _ = LEARNERS[name](precision)
    other.model.train()
    random = torch.manual_seed(1).get_state()
    monkeypatch.setattr(CapturedStep, "__init__", then_set_state(CapturedStep.__init__, random))
    found = learn(other, batches)
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    assert_equal_tensors(state_of(learner), state_of(other))
    names = tapes[-1].names
    assert "aten::_local_scalar_dense" not in names  # a value read back
    assert len(names) <= most_operations
    assert not NOT_DETERMINISTIC & set(names)


@pytest.mark.parametrize("name", ["default", "demo", "fersnet"])
def test_a_replayed_step_continues_from_a_checkpoint(tapes, monkeypatch, name):
    learner, batches = LEARNERS[name]("fp32")
    learn(learner, batches[:2])
    saved, random = deepcopy(learner.state_dict()), torch.get_rng_state()
    learn(learner, batches, 2)
    continued, _ = LEARNERS[name]("fp32")
    continued.load_state_dict(saved)
    monkeypatch.setattr(Runtime, "replays_steps", True)
    monkeypatch.setattr(CapturedStep, "__init__", then_set_state(CapturedStep.__init__, random))
    learn(continued, batches, 2)
    assert len(tapes) == 1
    assert_equal_tensors(state_of(learner), state_of(continued))


def then_set_state(function, random):
    """The function, after which the random numbers are those that follow `random`.

    On a GPU each step sets the seed of its random numbers; on a processor a capture uses some up.
    """

    def called(*arguments):
        function(*arguments)
        torch.set_rng_state(random)

    return called
