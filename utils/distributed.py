"""Data-parallel training: several processes, each with its share of every batch.

torchrun starts them and tells each its rank. In a process that is alone, everything here does
nothing, at no cost.
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
    """(rank of this process, number of processes) as torchrun set them: (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def local_ranks():
    """(rank, number) among the processes of this machine."""
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def join(device):
    """Join the process group, if there are other processes; only the first prints from here on.

    device: the torch.device of this process.
    """
    if ranks()[1] > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if not is_first():
            sys.stdout = open(os.devnull, "w")


def shutdown():
    """Leave the process group; without it PyTorch complains at exit.

    After success, call `wait_for_all` first: a process that ends while another works may abort it.
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
    """Raise UserError unless the processes can share a batch equally.

    fewest: number of faces in the smallest split.
    """
    count = ranks()[1]
    if batch_size % count:
        raise UserError(
            f"A batch of {batch_size} cannot be shared by {count} processes: choose another --bs."
        )
    if fewest < count:
        raise UserError(f"{fewest} faces cannot be shared by {count} processes: start fewer.")


def wait_for_all():
    """Wait until every process has come here."""
    if dist.is_initialized():
        dist.barrier()


class _Sum(torch.autograd.Function):
    """Sum over the processes; so is the gradient, as every loss depends on everyone's input."""

    @staticmethod
    def forward(context, tensor):
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(context, gradient):
        return _Sum.apply(gradient)


def total(tensor):
    """The sum of `tensor` over the processes, in each of them. Differentiable."""
    return _Sum.apply(tensor) if dist.is_initialized() else tensor


def gather(tensor):
    """(B, ...) of each process, equal B -> (processes * B, ...) in each, by rank. Differentiable.

    A loss of the gathered outputs is that of the whole batch, including losses that are not a mean
    over images (CCC). Its gradient is multiplied by the number of processes, by which
    DistributedDataParallel divides.
    """
    if not dist.is_initialized():
        return tensor
    rank, processes = ranks()
    # The rows of the others are zero, so that the sum puts all of them together.
    before, after = rank * len(tensor), (processes - 1 - rank) * len(tensor)
    return total(F.pad(tensor, [0, 0] * (tensor.ndim - 1) + [before, after]))


def gather_unequal(tensor):
    """`gather` for processes with different numbers of rows; not differentiable."""
    if not dist.is_initialized():
        return tensor
    parts = [None] * ranks()[1]
    dist.all_gather_object(parts, tensor.cpu())
    return torch.cat(parts).to(tensor.device)


class AgreedStop:
    """Whether any process was asked to stop: the same answer in all, at the same call."""

    def __init__(self, stop, device):
        self.stop, self.device, self.calls = stop, device, 0
        self.interval = 16 if device.type == "cuda" else 1  # asking waits for the GPU

    def __call__(self, now=False):
        if not dist.is_initialized():
            return self.stop()
        self.calls += 1
        if self.calls % self.interval and not now:
            return False
        return total(torch.tensor(float(self.stop()), device=self.device)).item() > 0


class CPUSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes, for CPUs: `nn.SyncBatchNorm` needs GPUs.

    Input (B, C, H, W) of equal shape in all processes.
    """

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        values = x.to(self.weight.dtype)  # more precise than x under autocast
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


def distribute(network, device):
    """The network in DistributedDataParallel with synchronized batch norm, in place.

    The network itself in a process that is alone.
    """
    if not dist.is_initialized():
        return network
    if device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return nn.parallel.DistributedDataParallel(network, device_ids=[device])
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CPUSyncBatchNorm
    return nn.parallel.DistributedDataParallel(network)
