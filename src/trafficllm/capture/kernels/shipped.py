"""Kernels that come compiled half-way: LLVM code in the package becomes machine code for this processor, numba is not needed.

From their Python source numba takes 12 s of processor time for them; from this code LLVM takes one, once on a machine. `shipping` writes
the code, with the hash of the sources it is of. Where sources, LLVM or machine are others, or a call has other types, numba compiles.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.files import atomic_write, make_folder

FOLDER = Path(__file__).parent / "code"
CODE, MANIFEST = FOLDER / "kernels.bc", FOLDER / "kernels.json"
PREFIX = "trafficllm_"
"""Before a kernel's name in the module: a name of its own among all that is loaded."""
_DIGEST = 16
_NO_KERNELS = frozenset({"shipped.py", "shipping.py", "warm.py"})
_LOADING = threading.Lock()  # two threads may call their first kernel at once
_WORDS: dict[str, Any] = {"int64": ctypes.c_int64, "bool": ctypes.c_int8}


@cache
def sources() -> str:
    """Hash of all sources that the code depends on."""
    digest = blake2b(digest_size=16)
    for path in sorted([*Path(__file__).parent.rglob("*.py"), *Path(__file__).parents[1].joinpath("link").glob("*.py")]):
        if path.name not in _NO_KERNELS:
            digest.update(path.read_bytes())
    return digest.hexdigest()


class ArrayType(NamedTuple):
    """What an array argument must be: C-contiguous, of this dtype and number of dimensions, and writable where it is written."""

    dtype: np.dtype[Any]
    ndim: int
    writable: bool

    def fits(self, value: Any) -> bool:
        """Whether it is that."""
        flags = value.flags if type(value) is np.ndarray else None
        return bool(
            flags is not None
            and value.ndim == self.ndim
            and (value.dtype is self.dtype or value.dtype == self.dtype)
            and flags.c_contiguous
            and flags.aligned
            and (flags.writeable or not self.writable)
        )


def type_of(described: Any) -> Any:
    """An argument's type as the manifest has it: "int64", "bool", an array, or the fields of a named tuple.

    >>> type_of(["int64", {"dtype": "<u4", "ndim": 1, "writable": True}])
    ('int64', ArrayType(dtype=dtype('uint32'), ndim=1, writable=True))
    """
    if isinstance(described, str):
        return described
    if isinstance(described, list):
        return tuple(type_of(one) for one in described)
    form: Any = described["dtype"]
    return ArrayType(np.dtype(form), int(described["ndim"]), bool(described["writable"]))


def _flat(kind: Any, value: Any, words: list[int]) -> bool:
    """Append the machine words by which numba passes a value (its data model of arrays); False where the value is of another type."""
    if isinstance(kind, ArrayType):
        if not kind.fits(value):
            return False
        words += (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
        return True
    if isinstance(kind, tuple):
        return isinstance(value, tuple) and len(value) == len(kind) and all(map(_flat, kind, value, [words] * len(kind)))
    if kind == "bool":
        fits = bool(isinstance(value, (bool, np.bool_)))
    else:
        fits = isinstance(value, (int, np.int64)) and not isinstance(value, bool) and bool(-(2**63) <= value < 2**63)
    words.append(int(value) if fits else 0)
    return fits


def _ctypes_of(kind: Any) -> list[Any]:
    """The C types of those words."""
    if isinstance(kind, ArrayType):
        return [ctypes.c_ssize_t] * (5 + 2 * kind.ndim)
    if isinstance(kind, tuple):
        return [word for part in kind for word in _ctypes_of(part)]
    return [_WORDS[kind]]


class Native:
    """A kernel as machine code, called as numba calls it: where the result goes, where an exception would, then the arguments.

    `takes` are the types of its arguments and `gives` those of its results, as the manifest has them; `holder` is what must live as long
    as the code at `address`.
    """

    def __init__(self, address: int, takes: Sequence[Any], gives: Sequence[str], holder: Any = None) -> None:
        self._takes = type_of(list(takes))
        self._function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *_ctypes_of(self._takes))(address)
        self._gives = tuple(gives)
        self._result = type("Result", (ctypes.Structure,), {"_fields_": [(f"f{k}", _WORDS[word]) for k, word in enumerate(gives)]})
        self._holder = holder

    def words(self, arguments: Sequence[Any]) -> list[int] | None:
        """The arguments as machine words; None where one is of another type than the code was compiled for."""
        words: list[int] = []
        return words if _flat(self._takes, tuple(arguments), words) else None

    def run(self, words: Sequence[int]) -> Any:
        """Call it, without Python's lock. The arrays behind the words must stay alive meanwhile."""
        result, error = self._result(), ctypes.c_void_p()
        room = result if self._gives else ctypes.c_void_p()
        status = self._function(ctypes.addressof(room), ctypes.addressof(error), *words)
        if status not in {0, -2}:  # numba's RETCODE_OK and RETCODE_NONE; no kernel raises
            raise RuntimeError(f"a kernel ended with status {status}")
        values = [(bool if kind == "bool" else int)(getattr(result, f"f{k}")) for k, kind in enumerate(self._gives)]
        return None if not values else values[0] if len(values) == 1 else tuple(values)


def loaded() -> dict[str, Native]:
    """The shipped kernels, ready to be called; none of them where anything does not fit."""
    try:
        manifest = json.loads(MANIFEST.read_bytes())
        if manifest["sources"] != sources() or sys.byteorder != "little" or sys.maxsize != 2**63 - 1 or sys.platform == "win32":
            return {}
        import llvmlite.binding as llvm

        if tuple(llvm.llvm_version_info) < tuple(manifest["llvm"]):  # an older LLVM does not read a newer one's code
            return {}
        engine = _engine(llvm)
        kernels: Mapping[str, Any] = manifest["kernels"]
        return {
            name: Native(engine.get_function_address(PREFIX + name), one["takes"], one["gives"], engine) for name, one in kernels.items()
        }
    except (ImportError, OSError, ValueError, KeyError, RuntimeError, AttributeError):  # numba takes over, and says what is wrong if it is
        return {}


def _engine(llvm: Any) -> Any:
    """The shipped code as machine code of this processor, from disk where it was made of the same code before."""
    code = CODE.read_bytes()

    def module(_: Any) -> Any:
        return llvm.parse_bitcode(code)

    return machine_code(llvm, f"kernels-{blake2b(code, digest_size=8).hexdigest()}", module, opt=2)


def machine_code(llvm: Any, name: str, module: Callable[[Any], Any], *, opt: int) -> Any:
    """Code of this processor, ready to be called: an engine of llvmlite's.

    Under `name`, which says what the code is made of, it is read from disk where it was made before. `module` gives the verified LLVM
    module for a target machine; `opt` is how much work that machine puts into instructions, 0 to 3.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple, processor, features = llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_triple(triple).create_target_machine(
        cpu=processor, features=features, opt=opt, reloc="pic", codemodel="jitdefault", jit=True
    )
    machine = blake2b(repr((llvm.llvm_version_info, triple, processor, features)).encode(), digest_size=8).hexdigest()
    file = _cache_folder() / f"{name}-{machine}.o"
    code = read_code(file)
    if code is None:
        made = module(target)
        made.triple, made.data_layout = triple, str(target.target_data)
        made.verify()
        code = bytes(target.emit_object(made))
        _write_code(file, code)
    empty = llvm.parse_assembly("")
    empty.triple = triple
    engine = llvm.create_mcjit_compiler(empty, target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def _write_code(file: Path, code: bytes) -> None:
    """Put machine code on disk for `read_code`, where that can be written."""
    try:
        make_folder(file.parent)
        atomic_write(file, blake2b(code, digest_size=_DIGEST).digest() + code, private=True)
    except (OSError, TrafficLLMError):  # it is made anew in the next process
        pass


def read_code(file: Path) -> bytes | None:
    """Machine code that this user, or the administrator, has put there and nobody else can change; None where it is damaged or missing."""
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if status.st_uid not in {os.geteuid(), 0} or status.st_mode & 0o022:
                return None
            data = stream.read()
    except OSError:
        return None
    digest, code = data[:_DIGEST], data[_DIGEST:]
    return code if digest == blake2b(code, digest_size=_DIGEST).digest() else None


def _cache_folder() -> Path:
    """Where numba would keep its own: the folder of NUMBA_CACHE_DIR, beside the module, else the user's cache folder."""
    if named := os.environ.get("NUMBA_CACHE_DIR", ""):
        return Path(named)
    beside = Path(__file__).parent
    if os.access(beside, os.W_OK):
        return beside / "__pycache__"
    from platformdirs import user_cache_path

    return user_cache_path("trafficllm")


_loaded_once = cache(loaded)

enabled = True
"""False: numba compiles everything in this process. `shipping` needs that, and tests that compare the two."""


def shipped(name: str) -> Native | None:
    """A kernel's shipped code, ready to be called; None where numba has to compile it."""
    if not enabled:
        return None
    with _LOADING:
        return _loaded_once().get(name)
