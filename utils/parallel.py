"""Several processes that train one network together, each on its share of every batch.

Started by torchrun, which tells each process its rank and how many there are. Everything here does
nothing, at no cost, in a process that is alone.
"""

import os
import sys
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from utils.files import UserError


def ranks():
    """(this process's rank, number of processes) as torchrun set them: (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def local_ranks():
    """(rank, number) among the processes of this machine."""
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def join(device):
    """Meet the other processes, if there are any; all but the first are silent from here on.

    device: the torch.device of this process.
    """
    if ranks()[1] > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if not is_first():
            sys.stdout = open(os.devnull, "w")


def shutdown():
    """Part from the other processes; without it PyTorch complains at exit.

    Where all went well, `wait_for_all` comes first: a process that ends while another still works may abort.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def is_first():
    """Whether this is the process that prints and writes."""
    return ranks()[0] == 0


@contextmanager
def rank0_first():
    """A block that the first process runs before the others do."""
    if not is_first():
        wait_for_all()
    try:
        yield
    finally:
        if is_first():
            wait_for_all()


def check_share(batch_size, fewest):
    """Raise UserError unless a batch can be shared equally by the processes; fewest: faces in the smallest split."""
    processes = ranks()[1]
    if batch_size % processes:
        raise UserError(f"A batch of {batch_size} cannot be shared by {processes} processes: choose another --bs.")
    if fewest < processes:
        raise UserError(f"{fewest} faces cannot be shared by {processes} processes: start fewer.")


def wait_for_all():
    """Return when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


class _Sum(torch.autograd.Function):
    """Sum over the processes; so is the gradient, as each process's loss depends on everyone's input."""

    @staticmethod
    def forward(context, tensor):
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient):
        return _Sum.apply(gradient)


def total(tensor):
    """The sum of `tensor` over the processes, in each of them. Differentiable."""
    return _Sum.apply(tensor) if dist.is_initialized() else tensor


def gather(tensor):
    """(B, ...) of each process, equal B -> (processes * B, ...) in each, by rank. Differentiable.

    A loss of the gathered outputs is that of the whole batch, also where it is no mean over images (CCC). Its
    gradient arrives multiplied by the number of processes, which DistributedDataParallel divides by.
    """
    if not dist.is_initialized():
        return tensor
    rank, processes = ranks()
    # The others' rows are zero here, so that the sum puts all of them together.
    padding = [0, 0] * (tensor.ndim - 1) + [rank * len(tensor), (processes - 1 - rank) * len(tensor)]
    return total(F.pad(tensor, padding))


def gather_unequal(tensor):
    """Like `gather` where the processes hold different numbers of rows."""
    if not dist.is_initialized():
        return tensor
    rank, processes = ranks()
    counts = torch.zeros(processes, dtype=torch.int64, device=tensor.device)
    counts[rank] = len(tensor)
    counts = total(counts).tolist()
    padded = F.pad(tensor, [0, 0] * (tensor.ndim - 1) + [0, max(counts) - len(tensor)])
    parts = gather(padded).split(max(counts))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class AgreedStop:
    """Asks every process now and then whether one of them was asked to stop; all get the same answer at once."""

    def __init__(self, stop, device):
        self.stop, self.device, self.calls = stop, device, 0
        self.interval = 16 if device.type == "cuda" else 1  # calls from question to question, which waits for a GPU

    def __call__(self, now=False):
        if not dist.is_initialized():
            return self.stop()
        self.calls += 1
        if self.calls % self.interval and not now:
            return False
        return total(torch.tensor(float(self.stop()), device=self.device)).item() > 0


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are those of the batches of all processes together.

    For processors: PyTorch's own `SyncBatchNorm` needs GPUs. Input (B, C, H, W) of equal shape in all processes.
    """

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        values = x.to(self.weight.dtype)  # finer than x under autocast
        count = ranks()[1] * values.numel() // values.shape[1]
        mean = total(values.sum(dim=(0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = total(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronise_batch_norms(network, device):
    """Let every batch norm use the statistics of all processes; in place, the parameters stay the same tensors."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronisedBatchNorm
    return network


def distribute(network, device):
    """The network that averages gradients over the processes; the network itself when this one is alone."""
    if not dist.is_initialized():
        return network
    network = synchronise_batch_norms(network, device)
    devices = [device] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(network, device_ids=devices)
