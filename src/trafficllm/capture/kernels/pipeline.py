"""How numba compiles the kernels: a short pass list, and inner functions that are never optimized or emitted by themselves.

numba's usual way runs LLVM's whole optimizer and emits machine code for each function and again for each of its callers: with
80 kernels that was 40 % of the first call. Here an inner function stays plain LLVM code that its entry point optimizes once,
together with all others. Passes for closures, `with`, array expressions and literal unrolling are left out: kernels have none.
"""

from __future__ import annotations

from typing import Any

from numba import _dynfunc
from numba.core import typed_passes, untyped_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, _LowerResult
from numba.core.compiler_machinery import PassManager, register_pass

_BEFORE_LOWERING = (
    untyped_passes.TranslateByteCode,
    untyped_passes.FixupArgs,
    untyped_passes.IRProcessing,
    untyped_passes.GenericRewrites,
    untyped_passes.ReconstructSSA,
    typed_passes.NopythonTypeInference,
    typed_passes.PreLowerStripPhis,
    typed_passes.IRLegalization,
    typed_passes.AnnotateTypes,
)


class _PartLibrary(JITCodeLibrary):  # type: ignore[misc]
    """LLVM code of one inner function and what it calls, to be linked into its callers."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        """Link, and stop there."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(typed_passes.NativeLowering):  # type: ignore[misc]
    """Lowering without machine code: the function can only be called by other kernels."""

    _name = "part_lowering"

    def run_pass(self, state: Any) -> bool:
        """See numba's FunctionPass."""
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        done = state["cr"]
        name = state.func_id.func_qualname
        handle = _dynfunc.make_function(done.fndesc.lookup_module(), name, "", 0, done.env, (state.library,))
        state.targetctx.insert_user_function(handle, done.fndesc, [state.library])
        state["cr"] = _LowerResult(done.fndesc, done.call_helper, cfunc=handle, env=done.env)
        return True


class Whole(CompilerBase):  # type: ignore[misc]
    """Pipeline of an entry point."""

    lowering: Any = typed_passes.NativeLowering

    def define_pipelines(self) -> list[Any]:
        """See numba's CompilerBase."""
        manager = PassManager("kernel")
        for step in (*_BEFORE_LOWERING, self.lowering, typed_passes.NoPythonBackend):
            manager.add_pass(step, step.__name__)
        manager.finalize()
        return [manager]


class Part(Whole):
    """Pipeline of an inner function."""

    lowering = _PartLowering
