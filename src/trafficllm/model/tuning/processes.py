"""One tuning run over several processes, started by torchrun or accelerate: who is who, shared decisions, sharded parameters.

Every process reads the same data and plans the same batches; each takes its rows of a batch, so that the global batch and the
curve are those of one process. Without a launcher all of this is one process and costs nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import distributed


def world() -> int:
    """Number of processes of the run: 1 without a launcher."""
    return distributed.get_world_size() if distributed.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else int(os.environ.get("RANK", "0"))


def device() -> str:
    """Where this process tunes: its own GPU where there is one, else the CPU."""
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}" if torch.cuda.is_available() else "cpu"


def join(kind: str, *, shard: bool) -> None:
    """Meet the other processes: NCCL where the base lies on GPUs or is to be sharded over them, else gloo; nothing for one process."""
    if world() == 1 or distributed.is_initialized():
        return
    on_gpus = kind == "cuda" or (shard and torch.cuda.is_available())
    if on_gpus:
        torch.cuda.set_device(device())
    distributed.init_process_group("nccl" if on_gpus else "gloo")


@contextlib.contextmanager
def in_turn() -> Iterator[bool]:
    """True in the first process, which works on files alone; the others go on when it is done."""
    try:
        yield rank() == 0
    finally:
        if world() > 1 and distributed.is_initialized():
            distributed.barrier()


def _tensor(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device() if distributed.get_backend() == "nccl" else "cpu")


def agreed(values: Sequence[float]) -> list[float]:
    """The first process's numbers in every process: clocks differ, decisions must not."""
    if world() == 1:
        return list(values)
    shared = _tensor(values)
    distributed.broadcast(shared, src=0)
    return [float(value) for value in shared]


def total(value: float) -> float:
    """The sum of a number over the processes."""
    if world() == 1:
        return value
    shared = _tensor([value])
    distributed.all_reduce(shared)
    return float(shared[0])


def shard(tuned: Any) -> None:
    """Split every parameter over the processes (FSDP2, `fully_shard`), one unit a decoder layer; in place, for good.

    Parameters become DTensors. The Trainer's own FSDP is not used: on CPU it is silently ignored.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = tuned.get_base_model() if hasattr(tuned, "get_base_model") else tuned
    names = set(getattr(model, "_no_split_modules", None) or ())
    mesh = init_device_mesh("cuda" if distributed.get_backend() == "nccl" else "cpu", (world(),))
    for block in [module for module in model.modules() if type(module).__name__ in names]:
        fully_shard(block, mesh=mesh)
    fully_shard(tuned, mesh=mesh)


def averaged(gradient: torch.Tensor) -> torch.Tensor:
    """Mean of a gradient over the processes: for parameters beside a sharded model, which nothing else reduces."""
    mean = gradient.clone()
    distributed.all_reduce(mean)
    return mean / world()


def settle(tuned: Any) -> None:
    """Give every sharded unit its shards back: the outermost keeps whole copies after a forward, and a write to those is lost."""
    for module in tuned.modules():
        if hasattr(module, "reshard"):
            module.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a parameter with all its shards, in every process."""
    mine = tensor.detach()
    return (mine.full_tensor() if hasattr(mine, "full_tensor") else mine).clone().contiguous()


def like(tensor: torch.Tensor, whole_value: torch.Tensor) -> torch.Tensor:
    """A whole tensor laid out as `tensor` is: sharded where that is sharded."""
    if not hasattr(tensor, "full_tensor"):
        return whole_value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(tensor, DTensor)
    return distribute_tensor(whole_value.to(tensor.device), tensor.device_mesh, tensor.placements)
