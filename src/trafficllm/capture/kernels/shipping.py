"""Write the LLVM code that `shipped` reads: `make kernels`, after every change of a file beside this one or of `capture/link`.

numba compiles each entry point for a processor without special features and LLVM optimizes it; the entry points' functions are then put
into one module under names of their own, and what is not needed to run them (wrappers for Python, texts of exceptions) is dropped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trafficllm.capture.kernels import shipped
from trafficllm.core.files import atomic_write, json_text


def describe(kind: Any) -> Any:
    """A numba type as the manifest has it; see `shipped.type_of`."""
    from numba import types
    from numba.np.numpy_support import as_dtype

    if isinstance(kind, types.Array):
        assert (kind.layout, kind.aligned) == ("C", True), f"{kind} is not contiguous, or not aligned"
        return {"dtype": form_of(as_dtype(kind.dtype)), "ndim": kind.ndim, "writable": kind.mutable}
    if isinstance(kind, types.BaseNamedTuple):
        return [describe(part) for part in kind]
    return {types.int64: "int64", types.boolean: "bool"}[kind]


def form_of(dtype: Any) -> Any:
    """A dtype as the manifest has it: the places of all fields say more than numpy's own text."""
    if dtype.fields is None:
        return dtype.str
    names = list(dtype.names)
    formats, offsets = [dtype.fields[name][0].str for name in names], [dtype.fields[name][1] for name in names]
    return {"names": names, "formats": formats, "offsets": offsets, "itemsize": dtype.itemsize}


def _module(llvm: Any, name: str, compiled: Any) -> Any:
    """The optimized module of an entry point, of which only the function itself can be called."""
    module = llvm.parse_assembly(compiled.library.get_llvm_str())
    for part in (*module.functions, *module.global_variables):
        if part.name == compiled.fndesc.llvm_func_name:
            part.name, part.linkage = shipped.PREFIX + name, "external"
        elif not part.is_declaration:
            part.linkage = "internal"
    return module


def _gives(kind: Any) -> list[str]:
    from numba import types

    if kind == types.none:
        return []
    return [describe(part) for part in kind] if isinstance(kind, types.BaseTuple) else [describe(kind)]


def build(folder: Path) -> None:
    """Compile all entry points here, with numba as the environment has it set, and write code and manifest into the folder."""
    shipped.enabled = False
    import llvmlite.binding as llvm

    from trafficllm.capture.kernels.warm import KERNELS, compile_others, compile_table

    compile_table()
    compile_others()
    parts, kernels = [], {}
    for kernel in KERNELS:
        name, (compiled,) = kernel.__name__, kernel.dispatcher.overloads.values()
        kernels[name] = {"takes": [describe(kind) for kind in compiled.signature.args], "gives": _gives(compiled.signature.return_type)}
        parts.append(_module(llvm, name, compiled))
    whole = _linked(llvm, parts)
    atomic_write(folder / shipped.CODE.name, whole.as_bitcode())
    manifest = {"sources": shipped.sources(), "llvm": list(llvm.llvm_version_info), "kernels": kernels}
    atomic_write(folder / shipped.MANIFEST.name, json_text(manifest))


def _linked(llvm: Any, parts: Sequence[Any]) -> Any:
    """One module of them all, without what no entry point needs; AssertionError where one needs something from outside.

    LLVM's whole optimizer runs once more over it: what numba optimized entry point by entry point can now be put where it is called, since
    nothing but the entry points is seen from outside. Reading is a quarter faster by it.
    """
    whole, *others = parts
    for module in others:
        whole.link_in(module)
    target = llvm.Target.from_triple(whole.triple).create_target_machine()
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(whole, builder)
    outside = {part.name for part in whole.functions if part.is_declaration and not part.name.startswith("llvm.")}
    assert outside <= {"memcpy", "memset", "memmove"}, f"{outside} would have to be found where the code runs"
    whole.name = "kernels"
    return whole


def main(arguments: Sequence[str]) -> None:
    """Build into the folder named, else the package's, in a process of its own with an empty cache: numba keeps machine code on disk."""
    folder = Path(arguments[0]) if arguments else shipped.FOLDER
    if os.environ.get("NUMBA_CPU_NAME") == "generic":
        build(folder)
        return
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": cache}
        environment.pop("NUMBA_DISABLE_JIT", None)
        command = [sys.executable, "-P", "-m", "trafficllm.capture.kernels.shipping", str(folder)]
        subprocess.run(command, check=True, env=environment)  # noqa: S603 - this interpreter, this module


if __name__ == "__main__":
    main(sys.argv[1:])
