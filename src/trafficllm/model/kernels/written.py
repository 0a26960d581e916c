"""The functions themselves: attention along paths of a tree, norm, gate, and pooling over paths.

A batch of prompts is a tree of tokens in depth-first order: prompts that begin alike share the nodes of their beginning, whose states are
the same. A node sees the nodes above it and itself, at positions 0 to its depth. Walking in that order, keys and values of the present
path lie in one small piece of memory, by position: a node writes its own at its depth, over what another branch has left there.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from trafficllm.model.kernels import LANES
from trafficllm.model.kernels.lanes import FLOAT, POINTER, WORD, Lanes, Variable

_LEAST = -1e30


def module(head: int) -> Any:
    """All functions, for heads of so many values (a multiple of 32)."""
    made = ir.Module("forward")
    _attend(made, head)
    _norm(made, head)
    _gate(made, head)
    _pool(made, head)
    return made


def _turned(f: Lanes, base: Any, place: Any, head: int, turns: tuple[Any, Any, Any]) -> list[Any]:
    """A head's values turned by their position's angle (rotary positions): cosines, sines [positions, head], and the row's place there."""
    cosines, sines, row = turns
    half, first, second = head // 2, [], []
    for k in range(0, half, LANES):
        low, high = (f.load(base, f.code.add(place, f.word(k + more))) for more in (0, half))
        cosine, sine = (f.load(table, f.code.add(row, f.word(k))) for table in (cosines, sines))
        first.append(f.code.fsub(f.code.fmul(low, cosine), f.code.fmul(high, sine)))
        second.append(f.code.fadd(f.code.fmul(high, cosine), f.code.fmul(low, sine)))
    return first + second


def _attend(made: Any, head: int) -> None:
    """attend(qkv, rows, depths, cosines, sines, out, scratch, nodes, groups, heads a group, longest, scale).

    `qkv` [rows, (heads + 2 groups) head] holds queries, keys and values side by side, the node's row in `rows`; `out` [nodes, heads head];
    `scratch` has room for `longest` (a multiple of 16) keys and values and their weights, and one query.
    """
    f = Lanes(made, f"attend_{head}", [POINTER] * 7 + [WORD] * 4 + [FLOAT])
    qkv, rows, depths, cosines, sines, out, scratch, nodes, groups, per, longest, scale = f.arguments
    code, size = f.code, f.word(head)
    heads = code.mul(groups, per)
    stride = code.mul(code.add(heads, code.mul(groups, f.word(2))), size)
    values = f.at(scratch, code.mul(longest, size))
    weights = f.at(values, code.mul(longest, size))
    query = f.at(weights, longest)
    with f.loop(groups) as group, f.loop(nodes) as node:
        depth = f.index(depths, node)
        base = code.mul(f.index(rows, node), stride)
        turns = (cosines, sines, code.mul(depth, size))
        key_at = code.add(base, code.mul(code.add(heads, group), size))
        for k, vector in enumerate(_turned(f, qkv, key_at, head, turns)):
            for lane in range(LANES):
                number = code.extract_element(vector, ir.Constant(ir.IntType(32), lane))
                f.store(number, scratch, code.add(code.mul(f.word(k * LANES + lane), longest), depth))
        value_at = code.add(key_at, code.mul(groups, size))
        for k in range(0, head, LANES):
            f.store(f.load(qkv, code.add(value_at, f.word(k))), values, code.add(code.mul(depth, size), f.word(k)))
        with f.loop(per) as member:
            own = code.add(code.mul(group, per), member)
            for k, vector in enumerate(_turned(f, qkv, code.add(base, code.mul(own, size)), head, turns)):
                f.store(code.fmul(vector, f.all(scale)), query, f.word(k * LANES))
            seen = code.add(depth, f.word(1))
            total = _weighed(f, (scratch, query, weights), head, seen, longest)
            place = code.mul(code.add(code.mul(node, heads), own), size)
            for k, vector in enumerate(_summed(f, values, weights, head, seen)):
                f.store(code.fdiv(vector, f.all(total)), out, code.add(place, f.word(k * LANES)))
    code.ret_void()


def _weighed(f: Lanes, memory: tuple[Any, Any, Any], head: int, seen: Any, longest: Any) -> Any:
    """Write e^(score - largest score) of the keys that are seen into the weights, zeros behind them; returns their sum."""
    keys, query, weights = memory
    code, most = f.code, Variable(f, f.all(_LEAST))
    with f.loop(seen, LANES) as first:
        parts = [f.all(0.0)] * 4
        for k in range(head):
            row = f.load(keys, code.add(code.mul(f.word(k), longest), first))
            parts[k % 4] = f.fused(f.all(f.one(query, f.word(k))), row, parts[k % 4])
        score = code.fadd(code.fadd(parts[0], parts[1]), code.fadd(parts[2], parts[3]))
        score = code.select(f.below(first, seen), score, f.all(_LEAST))
        f.store(score, weights, first)
        most.value = f.larger(score, most.value)
    largest = f.all(f.folded(most.value, f.larger))
    total = Variable(f, f.all(0.0))
    with f.loop(seen, LANES) as first:
        weight = f.exp(code.fsub(f.load(weights, first), largest))
        weight = code.select(f.below(first, seen), weight, f.all(0.0))
        f.store(weight, weights, first)
        total.value = code.fadd(total.value, weight)
    return f.folded(total.value, code.fadd)


def _summed(f: Lanes, values: Any, weights: Any, head: int, seen: Any) -> list[Any]:
    """The values that are seen, each by its weight, added up: four at a time, the weights behind the last one are zero."""
    sums = [[Variable(f, f.all(0.0)) for _ in range(0, head, LANES)] for _ in range(4)]
    with f.loop(seen, 4) as first:
        for k, row in enumerate(sums):
            place = f.code.add(first, f.word(k))
            weight = f.all(f.one(weights, place))
            for part, total in enumerate(row):
                value = f.load(values, f.code.add(f.code.mul(place, f.word(head)), f.word(part * LANES)))
                total.value = f.fused(weight, value, total.value)
    return [f.code.fadd(f.code.fadd(a.value, b.value), f.code.fadd(c.value, d.value)) for a, b, c, d in zip(*sums, strict=True)]


def _norm(made: Any, head: int) -> None:
    """norm(x, factors, out, rows, width, eps): root mean square norm (Zhang and Sennrich 2019) of rows of a multiple of 16 values."""
    f = Lanes(made, f"norm_{head}", [POINTER] * 3 + [WORD] * 2 + [FLOAT])
    x, factors, out, rows, width, eps = f.arguments
    code = f.code
    with f.loop(rows) as row:
        start = code.mul(row, width)
        total = Variable(f, f.all(0.0))
        with f.loop(width, LANES) as k:
            value = f.load(x, code.add(start, k))
            total.value = f.fused(value, value, total.value)
        mean = code.fdiv(f.folded(total.value, code.fadd), code.sitofp(width, FLOAT))
        root = code.call(code.module.declare_intrinsic("llvm.sqrt", [FLOAT]), [code.fadd(mean, eps)])
        scale = f.all(code.fdiv(ir.Constant(FLOAT, 1.0), root))
        with f.loop(width, LANES) as k:
            place = code.add(start, k)
            f.store(code.fmul(f.load(factors, k), code.fmul(f.load(x, place), scale)), out, place)
    code.ret_void()


def _gate(made: Any, head: int) -> None:
    """gate(both, out, rows, width): silu(gate) up of rows that hold gate and up, a multiple of 16 values each, side by side."""
    f = Lanes(made, f"gate_{head}", [POINTER] * 2 + [WORD] * 2)
    both, out, rows, width = f.arguments
    code = f.code
    with f.loop(rows) as row, f.loop(width, LANES) as k:
        start = code.mul(row, width)
        at = code.add(code.mul(start, f.word(2)), k)
        gate, up = f.load(both, at), f.load(both, code.add(at, width))
        below = code.fadd(f.exp(code.fneg(gate)), f.all(1.0))
        f.store(code.fmul(code.fdiv(gate, below), up), out, code.add(start, k))
    code.ret_void()


def _pool(made: Any, head: int) -> None:
    """pool(states, path, ends, means, largest, rows, width, stride): mean and maximum of the states [nodes, width] on each row's path.

    The path of row r is `path[ends[r]:ends[r + 1]]`, at least one node; its results go to r x stride from the two pointers on.
    """
    f = Lanes(made, f"pool_{head}", [POINTER] * 5 + [WORD] * 3)
    states, path, ends, means, largest, rows, width, stride = f.arguments
    code = f.code
    with f.loop(rows) as row:
        start = f.index(ends, row)
        length = code.sub(f.index(ends, code.add(row, f.word(1))), start)
        share = f.all(code.fdiv(ir.Constant(FLOAT, 1.0), code.sitofp(length, FLOAT)))
        with f.loop(width, LANES) as k:
            total, most = Variable(f, f.all(0.0)), Variable(f, f.all(float("-inf")))
            with f.loop(length) as step:
                node = f.index(path, code.add(start, step))
                value = f.load(states, code.add(code.mul(node, width), k))
                total.value = code.fadd(total.value, value)
                most.value = f.larger(value, most.value)
            place = code.add(code.mul(row, stride), k)
            f.store(code.fmul(total.value, share), means, place)
            f.store(most.value, largest, place)
    code.ret_void()
