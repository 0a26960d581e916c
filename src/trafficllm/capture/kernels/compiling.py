"""How kernels are compiled: entry points are cached on disk, inner functions are only part of them.

With NUMBA_DISABLE_JIT=1 both decorators return the Python function. See `pipeline` for what makes the first call short.
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
    for path in sorted([*Path(__file__).parent.rglob("*.py"), *Path(__file__).parents[1].joinpath("link").glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _stamp(dispatcher: Any) -> Any:
    index: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if hasattr(index, "_source_stamp"):
        index._source_stamp = _SOURCES
    return dispatcher


def _jit(function: Kernel, *, part: bool, cache: bool) -> Any:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True, "no_cpython_wrapper": part}
    try:
        from trafficllm.capture.kernels.pipeline import Part, Whole

        options["pipeline_class"] = Part if part else Whole
    except (ImportError, AttributeError):  # another numba with other insides: its usual pipeline takes twice as long
        pass
    return njit(cache=cache, **options)(function)


def entry(function: Kernel) -> Kernel:
    """A kernel that Python calls."""
    try:
        return cast(Kernel, _stamp(_jit(function, part=False, cache=True)))
    except RuntimeError:  # nowhere to write a cache, neither beside the package nor in the user's cache folder
        return cast(Kernel, _jit(function, part=False, cache=False))


def is_cached(kernel: Any) -> bool:
    """Whether what is compiled of the entry point goes to disk; False where kernels run as plain Python."""
    return hasattr(getattr(kernel, "_cache", None), "cache_path") and bool(kernel._cache.cache_path)


def is_compiled(kernel: Any) -> bool:
    """Whether a call of the entry point finds it in memory or on disk; True where kernels run as plain Python."""
    if not hasattr(kernel, "overloads") or kernel.overloads:
        return True
    index = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
    return index is not None and bool(index._load_index())  # nothing is in an index that older sources have written


def inner(function: Kernel) -> Kernel:
    """A kernel that only other kernels call."""
    return cast(Kernel, _jit(function, part=True, cache=False))


_SOURCES = _sources()
