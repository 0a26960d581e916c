"""How kernels are compiled: entry points come as LLVM code with the package, or numba compiles them and keeps them on disk.

With NUMBA_DISABLE_JIT=1 both decorators return the Python function. numba itself is loaded only where the shipped code does not
fit (`shipped` says when); see `pipeline` for what makes numba's first call short.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from trafficllm.capture.kernels.shipped import shipped, sources

Word: TypeAlias = Any
"""An integer in a kernel: int64 when compiled, int or np.int64 when not."""
i64: Any = np.int64
"""Cast to int64: without it unsigned and narrow columns would wrap around."""

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def _stamp(dispatcher: Any) -> Any:
    """numba looks only at the file of the entry point when it decides whether its cache is stale: let it look at all sources."""
    index: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if hasattr(index, "_source_stamp"):
        index._source_stamp = sources()
    return dispatcher


def _jit(function: Kernel, *, part: bool, cache: bool) -> Any:
    from numba import njit

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True, "no_cpython_wrapper": part}
    try:
        from trafficllm.capture.kernels.pipeline import Part, Whole

        options["pipeline_class"] = Part if part else Whole
    except (ImportError, AttributeError):  # another numba with other insides: its usual pipeline takes twice as long
        pass
    return njit(cache=cache, **options)(function)


class Inner:
    """A kernel that only other kernels call: numba's dispatcher of it is made when numba compiles one of them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__, self.__doc__ = function.__name__, function.__doc__

    @cached_property
    def dispatcher(self) -> Any:
        """numba's."""
        return _jit(self.function, part=True, cache=False)

    @property
    def _numba_type_(self) -> Any:
        """What numba takes the name for, in the kernels that it compiles."""
        return self.dispatcher._numba_type_


class Entry(Inner):
    """A kernel that Python calls: the shipped code where it fits, else what numba makes of the source."""

    @cached_property
    def dispatcher(self) -> Any:
        """numba's, with its cache on disk."""
        try:
            return _stamp(_jit(self.function, part=False, cache=True))
        except RuntimeError:  # nowhere to write a cache, neither beside the package nor in the user's cache folder
            return _jit(self.function, part=False, cache=False)

    def __call__(self, *arguments: Any) -> Any:
        """Run it; arrays are written in place."""
        native = shipped(self.function.__name__)
        words = None if native is None else native.words(arguments)
        if native is None or words is None:  # arguments of other types than it was compiled for
            return self.dispatcher(*arguments)
        return native.run(words)


def entry(function: Kernel) -> Kernel:
    """A kernel that Python calls."""
    return function if _as_python() else cast(Kernel, Entry(function))


def inner(function: Kernel) -> Kernel:
    """A kernel that only other kernels call."""
    return function if _as_python() else cast(Kernel, Inner(function))


def _as_python() -> bool:
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in {"", "0"}


def is_cached(kernel: Any) -> bool:
    """Whether what numba compiles of the entry point goes to disk; False where kernels run as plain Python."""
    cache = getattr(getattr(kernel, "dispatcher", None), "_cache", None)
    return bool(getattr(cache, "cache_path", ""))


def is_compiled(kernel: Any) -> bool:
    """Whether a call of the entry point finds it shipped, in memory or on disk; True where kernels run as plain Python."""
    if not isinstance(kernel, Entry) or shipped(kernel.function.__name__) is not None or kernel.dispatcher.overloads:
        return True
    index = getattr(getattr(kernel.dispatcher, "_cache", None), "_cache_file", None)
    return index is not None and bool(index._load_index())  # nothing is in an index that older sources have written
