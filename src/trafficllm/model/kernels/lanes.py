"""Writes functions as LLVM code whose vectors have sixteen lanes of float32 by name: no compiler has to find out how to use them.

LLVM makes one instruction of such a vector with AVX-512, two with AVX2 and four with SSE or NEON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from trafficllm.model.kernels import LANES

WORD, FLOAT, INDEX, POINTER = ir.IntType(64), ir.FloatType(), ir.IntType(32), ir.PointerType()
VECTOR, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(INDEX, LANES)
_FUSED = ("contract",)
_LOG2E, _LN2_HIGH, _LN2_LOW, _ROUND = 1.4426950408889634, 0.693359375, -2.12194440e-4, 12582912.0
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
"""Cephes' polynomial of exp (Moshier 1992) on half of ln 2 either way."""


class Variable:
    """A value that changes in a loop; LLVM keeps it in a register."""

    def __init__(self, lanes: Lanes, start: Any) -> None:
        self._lanes = lanes
        with lanes.code.goto_entry_block():
            self._slot = lanes.code.alloca(start.type)
        self.value = start

    @property
    def value(self) -> Any:
        """What it holds now."""
        return self._lanes.code.load(self._slot, typ=self._slot.allocated_type)

    @value.setter
    def value(self, new: Any) -> None:
        """Hold another one from here on."""
        self._lanes.code.store(new, self._slot)


class Lanes:
    """A function that is being written; `code` is llvmlite's builder, at the place where the next instruction goes."""

    def __init__(self, module: Any, name: str, takes: Sequence[Any]) -> None:
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), takes), name)
        self.code = ir.IRBuilder(function.append_basic_block())
        self.arguments: tuple[Any, ...] = tuple(function.args)

    # Numbers

    def word(self, value: int) -> Any:
        """An int64."""
        return ir.Constant(WORD, value)

    def all(self, value: float | Any) -> Any:
        """The same number in every lane: a constant, or a float32 of the function."""
        if isinstance(value, float):
            return ir.Constant(VECTOR, [value] * LANES)
        first = self.code.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.Constant(INDEX, 0))
        return self.code.shuffle_vector(first, first, ir.Constant(INTS, [0] * LANES))

    def fused(self, a: Any, b: Any, plus: Any) -> Any:
        """a b + plus, in one instruction where the processor has it."""
        return self.code.fadd(self.code.fmul(a, b, flags=_FUSED), plus, flags=_FUSED)

    def larger(self, a: Any, b: Any) -> Any:
        """The larger one in each lane."""
        return self.code.select(self.code.fcmp_ordered(">", a, b), a, b)

    def exp(self, x: Any) -> Any:
        """e^x within two units of the last place, from -87 to 88, the ends beyond."""
        code = self.code
        x = self.larger(code.select(code.fcmp_ordered("<", x, self.all(88.0)), x, self.all(88.0)), self.all(-87.0))
        whole = code.fsub(code.fadd(code.fmul(x, self.all(_LOG2E)), self.all(_ROUND)), self.all(_ROUND))
        rest = self.fused(whole, self.all(-_LN2_LOW), self.fused(whole, self.all(-_LN2_HIGH), x))
        value = self.all(_EXP[0])
        for factor in _EXP[1:]:
            value = self.fused(value, rest, self.all(factor))
        value = code.fadd(self.fused(value, code.fmul(rest, rest), rest), self.all(1.0))
        bits = code.shl(code.fptosi(whole, INTS), ir.Constant(INTS, [23] * LANES))
        return code.bitcast(code.add(code.bitcast(value, INTS), bits), VECTOR)

    def folded(self, vector: Any, how: Callable[[Any, Any], Any]) -> Any:
        """All lanes as one number, halves onto halves."""
        width = LANES
        while width > 1:
            width //= 2
            other = ir.Constant(INTS, [(k + width) % LANES for k in range(LANES)])
            vector = how(vector, self.code.shuffle_vector(vector, vector, other))
        return self.code.extract_element(vector, ir.Constant(INDEX, 0))

    def below(self, first: Any, limit: Any) -> Any:
        """Which of the places from `first` on, one a lane, are below the limit (int64s)."""
        left = self.code.trunc(self.code.sub(limit, first), INDEX)
        one = self.code.insert_element(ir.Constant(INTS, ir.Undefined), left, ir.Constant(INDEX, 0))
        spread = self.code.shuffle_vector(one, one, ir.Constant(INTS, [0] * LANES))
        return self.code.icmp_signed("<", ir.Constant(INTS, list(range(LANES))), spread)

    # Memory

    def at(self, base: Any, place: Any, kind: Any = FLOAT) -> Any:
        """The address of an element."""
        return self.code.gep(base, [place], source_etype=kind)

    def load(self, base: Any, place: Any) -> Any:
        """Sixteen float32 from a place on."""
        return self.code.load(self.at(base, place), align=4, typ=VECTOR)

    def one(self, base: Any, place: Any) -> Any:
        """A float32."""
        return self.code.load(self.at(base, place), typ=FLOAT)

    def index(self, base: Any, place: Any) -> Any:
        """An int32 of the memory, as int64."""
        return self.code.sext(self.code.load(self.at(base, place, INDEX), typ=INDEX), WORD)

    def store(self, value: Any, base: Any, place: Any) -> None:
        """Sixteen float32, or one, to a place."""
        self.code.store(value, self.at(base, place), align=4)

    # Order

    @contextmanager
    def loop(self, stop: Any, step: int = 1) -> Iterator[Any]:
        """What is written inside runs for 0, step, 2 step, ... below `stop`."""
        code, place = self.code, Variable(self, self.word(0))
        head, body, end = (code.append_basic_block() for _ in range(3))
        code.branch(head)
        code.position_at_end(head)
        now = place.value
        code.cbranch(code.icmp_signed("<", now, stop), body, end)
        code.position_at_end(body)
        yield now
        place.value = code.add(now, self.word(step))
        code.branch(head)
        code.position_at_end(end)
