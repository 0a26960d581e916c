"""How kernels are compiled: entry points are cached on disk, inner functions are only part of them.

Measured on two cores: with wrappers, reference counting and a cache file for every function the first call took 22 s of CPU,
so inner functions have none of these. With NUMBA_DISABLE_JIT=1 both decorators return the Python function.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numba import njit

Word: TypeAlias = Any
"""An integer in a kernel: int64 when compiled, int or np.int64 when not."""
i64: Any = np.int64
"""Cast to int64: without it unsigned and narrow columns would wrap around."""

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def _sources() -> str:
    """Hash of all kernel sources: numba looks only at the file of the entry point when it decides whether its cache is stale."""
    digest = blake2b(digest_size=16)
    for path in sorted([*Path(__file__).parent.glob("kernels*.py"), *Path(__file__).parent.glob("*_layout.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _stamp(dispatcher: Any) -> Any:
    index: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if hasattr(index, "_source_stamp"):
        index._source_stamp = _SOURCES
    return dispatcher


def entry(function: Kernel) -> Kernel:
    """A kernel that Python calls."""
    options = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}
    try:
        return cast(Kernel, _stamp(njit(cache=True, **options)(function)))
    except RuntimeError:  # nowhere to write a cache, neither beside the package nor in the user's cache folder
        return cast(Kernel, njit(**options)(function))


def is_compiled(kernel: Any) -> bool:
    """Whether a call of the entry point finds it in memory or on disk; True where kernels run as plain Python."""
    if not hasattr(kernel, "overloads") or kernel.overloads:
        return True
    path = getattr(kernel._cache, "cache_path", None)
    return path is not None and any(Path(path).glob(f"*.{kernel.py_func.__name__}-*.nbi"))


def inner(function: Kernel) -> Kernel:
    """A kernel that only other kernels call."""
    options = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True, "no_cpython_wrapper": True}
    return cast(Kernel, njit(**options)(function))


def merged(function: Kernel) -> Kernel:
    """A kernel with one caller: becomes part of that caller before types are inferred, and is not compiled by itself.

    Every separately compiled level of calls is optimized and emitted again with each of its callers.
    """
    return cast(Kernel, njit(nogil=True, error_model="numpy", _nrt=False, inline="always")(function))


_SOURCES = _sources()
