"""Cross-validation folds, caps and few-shot sizes: which flows of a split are used, decided by content and seed alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trafficllm.core.errors import UsageError
from trafficllm.core.files import hash64
from trafficllm.records.dataset.splits import FRACTIONS, settle, take


@dataclass(frozen=True, slots=True)
class Shots:
    """What caps choose by: label and content hash of each flow, and the seed."""

    labels: Sequence[str]
    content: Sequence[int]
    seed: int


def shots(assignment: Sequence[str], rows: Shots, options: Mapping[str, Any]) -> tuple[list[str], Counter[str]]:
    """The parts after caps: at most `cap` training flows a class, none of a class in `unknown`, and of `few_shot` sizes
    the largest in training and in validation alike: whoever has five labelled flows cannot tune on a thousand.

    Flows are ranked by a hash of seed and content, so that 5 shots are among the 10 of the same seed.
    """
    sides = list(assignment)
    left_out: Counter[str] = Counter()
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, side in enumerate(sides):
        if side not in ("train", "val"):
            continue
        if rows.labels[i] in options["unknown"]:
            sides[i] = "dropped"
            left_out["unknown class"] += 1
        else:
            members[rows.labels[i], side].append(i)
    few = max(options["few_shot"], default=None)
    for (_, side), mine in members.items():
        mine.sort(key=lambda i: (hash64(f"{rows.seed} {rows.content[i]}".encode()), i))
        caps = [(few, "few shots"), (options["cap"] if side == "train" else None, "cap")]
        limit, reason = min(((n, why) for n, why in caps if n is not None), default=(len(mine), ""))
        for i in mine[limit:]:
            sides[i] = "dropped"
            left_out[reason] += 1
    return sides, left_out


def folds(
    labels: Sequence[str], count: int, *, unit: str, groups: Sequence[str], seed: int, reserved: Sequence[bool], hashes: Sequence[int]
) -> Iterator[list[str]]:
    """`count` assignments; over all folds each flow that is not reserved is tested once at most.

    Groups stay whole and classes are spread evenly. Reserved flows are in no part of a fold, not even test: folds serve
    choices. Under the unit "time" a fold learns only from what came before its test block.
    """
    free = [i for i, held in enumerate(reserved) if not held]
    members: dict[str, list[int]] = defaultdict(list)
    for i in free:
        members[groups[i]].append(i)
    if count < 2:
        raise UsageError("usage.folds", "one fold leaves nothing to learn from", input="--folds", hint="2 or more")
    if len(members) < count:
        hint = f"there are {len(members)} {unit} groups: ask for fewer folds, or a finer --split"
        raise UsageError("usage.folds", f"{count} folds of {len(members)} groups", input="--folds", hint=hint)
    number = _in_time(members, count) if unit == "time" else _spread(members, labels, count, seed)
    order = {key: hash64(f"{seed} {key}".encode()) for key in members}
    for fold in range(1, count + 1):
        sides = ["dropped"] * len(labels)
        for key, rows in members.items():
            side = "test" if number[key] == fold else "train" if unit != "time" or number[key] < fold else "dropped"
            for i in rows:
                sides[i] = side
        rest = {key: rows for key, rows in members.items() if sides[rows[0]] == "train"}
        take("val", FRACTIONS[1], sorted(set(labels)), labels, members=rest, order=order, sides=sides)
        settle(sides, labels, hashes)
        yield sides


def _in_time(members: Mapping[str, Sequence[int]], count: int) -> dict[str, int]:
    """Blocks of time dealt to `count` + 1 stretches, per class: stretch 0 is never tested."""
    blocks: dict[str, list[str]] = defaultdict(list)
    for key in sorted(members):
        blocks[key.rsplit(" ", 1)[0]].append(key)
    return {key: rank * (count + 1) // len(keys) for keys in blocks.values() for rank, key in enumerate(keys)}


def _spread(members: Mapping[str, Sequence[int]], labels: Sequence[str], count: int, seed: int) -> dict[str, int]:
    """Large groups first, each to the fold that has least of its classes (as shares of each class)."""
    sizes = {key: Counter(labels[i] for i in rows) for key, rows in members.items()}
    total = Counter(labels[i] for rows in members.values() for i in rows)
    have: list[Counter[str]] = [Counter() for _ in range(count)]
    out: dict[str, int] = {}
    for key in sorted(sizes, key=lambda key: (-len(members[key]), hash64(f"{seed} {key}".encode()), key)):
        cost = [sum(fold[name] * n / total[name] ** 2 for name, n in sizes[key].items()) for fold in have]
        best = min(range(count), key=lambda k: (cost[k], have[k].total(), k))
        have[best].update(sizes[key])
        out[key] = best + 1
    return out
