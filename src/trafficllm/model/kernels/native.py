"""The written functions as machine code of this processor: made once on a machine, then read from disk.

LLVM takes a fifth of a second for them. Where llvmlite is missing, memory of float32 would be something else than a row of them, or the
model's sizes do not fit, there are none and torch computes everything.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from trafficllm.capture.kernels.shipped import machine_code
from trafficllm.model.kernels import LANES

_P, _W, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_TAKES: dict[str, tuple[Any, ...]] = {
    "attend": (*[_P] * 7, *[_W] * 4, _F),
    "norm": (*[_P] * 3, *[_W] * 2, _F),
    "gate": (*[_P] * 2, *[_W] * 2),
    "pool": (*[_P] * 5, *[_W] * 3),
}
_MAKING = threading.Lock()


class Native:
    """The functions for heads of one size, on float32 tensors on the CPU; all tensors are contiguous. Whoever calls gives tensors that
    fit each other: nothing is checked here, and memory beyond their ends would be read."""

    def __init__(self, head: int, addresses: dict[str, int], holder: Any) -> None:
        self.head, self._holder = head, holder
        made = {name: ctypes.CFUNCTYPE(None, *takes)(addresses[name]) for name, takes in _TAKES.items()}
        self._attend, self._norm, self._gate, self._pool = (made[name] for name in ("attend", "norm", "gate", "pool"))

    def attend(
        self, qkv: torch.Tensor, rows: torch.Tensor, depths: torch.Tensor, turns: Sequence[torch.Tensor], *, heads: int, groups: int
    ) -> torch.Tensor:
        """Attention [nodes, heads x head] of nodes in depth-first order, each to those above it and itself.

        `qkv` [any, (heads + 2 groups) x head] has queries, keys and values side by side, `rows` and `depths` int32 [nodes] say which of its
        rows a node's are and how many nodes lie above; `turns` are cosines and sines [positions, head]. IndexError where a node lies
        deeper than they reach.
        """
        size, nodes, deepest = self.head, len(depths), int(depths.max())
        if deepest >= len(turns[0]):
            raise IndexError(f"position {deepest} of {len(turns[0])}")
        longest = -(-(deepest + 1) // LANES) * LANES
        scratch = torch.zeros(2 * longest * size + longest + size)
        out = torch.empty(nodes, heads * size)
        addresses = [t.data_ptr() for t in (qkv, rows, depths, *turns, out, scratch)]
        self._attend(*addresses, nodes, groups, heads // groups, longest, size**-0.5)
        return out

    def norm(self, x: torch.Tensor, factors: torch.Tensor, eps: float) -> torch.Tensor:
        """Root mean square norm of the rows of x [rows, width], by `factors` [width]."""
        out = torch.empty_like(x)
        self._norm(x.data_ptr(), factors.data_ptr(), out.data_ptr(), *x.shape, eps)
        return out

    def gate(self, both: torch.Tensor) -> torch.Tensor:
        """silu(gate) up [rows, width] of gate and up [rows, 2 x width] side by side."""
        rows, width = both.shape[0], both.shape[1] // 2
        out = torch.empty(rows, width)
        self._gate(both.data_ptr(), out.data_ptr(), rows, width)
        return out

    def pool(self, states: torch.Tensor, path: torch.Tensor, ends: torch.Tensor, out: torch.Tensor) -> None:
        """Mean and maximum of the states [nodes, width] on each row's path, `path[ends[r]:ends[r + 1]]` (int32), into `out`
        [rows, 2 x width], which may be part of longer rows."""
        width = states.shape[1]
        addresses = [t.data_ptr() for t in (states, path, ends, out, out[:, width:])]
        self._pool(*addresses, len(ends) - 1, width, out.stride(0))


def fits(head: int, widths: Sequence[int]) -> bool:
    """Whether a model with heads of so many values, and rows of these widths, can be computed this way."""
    return sys.byteorder == "little" and 0 < head <= 256 and head % (2 * LANES) == 0 and all(width % LANES == 0 for width in widths)


@cache
def _made(head: int) -> Native | None:
    try:
        return _native(head)
    except (ImportError, OSError, RuntimeError, AttributeError):  # torch computes it
        return None


def native(head: int) -> Native | None:
    """The functions for heads of so many values (`fits` says which); None where LLVM does not give them."""
    with _MAKING:
        return _made(head)


def _native(head: int) -> Native:
    import llvmlite.binding as llvm

    engine = machine_code(llvm, f"forward-{_sources()}-{head}", lambda target: _module(llvm, target, head), opt=3)
    return Native(head, {name: engine.get_function_address(f"{name}_{head}") for name in _TAKES}, engine)


def _sources() -> str:
    """Hash of what the code is written by."""
    folder = Path(__file__).parent
    return blake2b(b"".join((folder / name).read_bytes() for name in ("lanes.py", "written.py")), digest_size=12).hexdigest()


def _module(llvm: Any, target: Any, head: int) -> Any:
    """The written functions, through LLVM's passes for the target; they bring their own vectors, so none are looked for."""
    from trafficllm.model.kernels.written import module

    made = llvm.parse_assembly(str(module(head)))
    made.triple, made.data_layout = target.triple, str(target.target_data)
    made.verify()
    choices = llvm.create_pipeline_tuning_options(speed_level=2)
    choices.loop_vectorization = choices.slp_vectorization = choices.loop_unrolling = False
    builder = llvm.create_pass_builder(target, choices)
    builder.getModulePassManager().run(made, builder)
    return made
