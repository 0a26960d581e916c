"""How kernels are compiled: entry points are cached on disk, inner functions are only part of them.

Measured on two cores: with wrappers, reference counting and a cache file for every function the first call took 22 s of CPU,
so inner functions have none of these. With NUMBA_DISABLE_JIT=1 both decorators return the Python function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def entry(function: Kernel) -> Kernel:
    """A kernel that Python calls."""
    return cast(Kernel, njit(cache=True, nogil=True, error_model="numpy", _nrt=False, no_cfunc_wrapper=True)(function))


def inner(function: Kernel) -> Kernel:
    """A kernel that only other kernels call."""
    options = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True, "no_cpython_wrapper": True}
    return cast(Kernel, njit(**options)(function))
