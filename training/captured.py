"""A training step as a CUDA graph: started as a whole, where each of its kernels would wait."""

from contextlib import contextmanager

import torch

WARM_UP_STEPS = 3  # in which libraries choose algorithms and allocate their workspaces


class CapturedStep:
    """The `device_step` of a learner, captured once and replayed with the batches that follow.

    Building it leaves the state of the learner as it was, so that every step of a run is a replay.
    All batches have the shapes of the one given here. Called with a batch it returns what
    `device_step` returns, in tensors that the next call overwrites.
    """

    def __init__(self, learner, batch):
        self.batch = [None if values is None else values.clone() for values in batch]
        self.graph = torch.cuda.CUDAGraph()
        with unchanged(learner):
            warm_up(learner, self.batch)
            with capturable(learner.optimizers()), torch.cuda.graph(self.graph):
                self.result = learner.device_step(self.batch)

    def __call__(self, batch):
        for static, values in zip(self.batch, batch, strict=True):
            if values is not None:
                static.copy_(values)
        self.graph.replay()
        return self.result


def warm_up(learner, batch):
    """Take the steps before a capture, on a CUDA stream of their own as capturing requires."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_STEPS):
            learner.device_step(batch)
    torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def capturable(optimizers):
    """Tell the optimizers that have a flag for it that their step is being captured."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    groups = [group for group in groups if "capturable" in group]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False


@contextmanager
def unchanged(learner):
    """Give every tensor of the learner's state its value back, in place, when the block ends.

    Optimizers create some of their state in their first step, with 0 as the value before it.
    """
    before = {path: tensor.clone() for path, tensor in tensors_of(learner.state_dict())}
    yield
    with torch.no_grad():
        for path, tensor in tensors_of(learner.state_dict()):
            if path in before:
                tensor.copy_(before[path])
            else:
                tensor.zero_()


def tensors_of(state, path=()):
    """Yield (path, tensor) of nested dicts and lists."""
    if isinstance(state, torch.Tensor):
        yield path, state
    elif isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in items:
            yield from tensors_of(value, (*path, key))
