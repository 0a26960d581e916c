"""Honest splits: groups never cross, captures and time order first, equal contents on one side, reserved flows only ever test."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import hash64
from trafficllm.core.types import FlowMeta

UNITS = ("capture", "host", "time", "session", "flow")
"""Strictest first: one capture file, one client host, a block of time, a pair of hosts, one 5-tuple."""
FRACTIONS = (0.7, 0.15, 0.15)
_BLOCKS = 20
_LEAST_TRAIN = 0.2
_LEAST_FOR_VAL = 8


@dataclass(frozen=True, slots=True)
class SplitResult:
    """`assignment` of each flow ("train", "val", "test", "dropped"), its `groups`, the `unit` chosen and `why`.

    `dropped` counts by reason; `notes` name classes that a part lacks; `leaky` what crosses although it should not.
    """

    assignment: tuple[str, ...]
    groups: tuple[str, ...]
    unit: str
    why: str
    dropped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    leaky: tuple[str, ...] = ()

    def indices(self, part: str) -> list[int]:
        """Positions of the flows of a part."""
        return [i for i, side in enumerate(self.assignment) if side == part]


def split(
    meta: Sequence[FlowMeta],
    labels: Sequence[str],
    *,
    seed: int = 0,
    unit: str = "auto",
    fractions: tuple[float, float, float] = FRACTIONS,
    reserved: Sequence[bool] | None = None,
    hashes: Sequence[int] | None = None,
    given: Sequence[str] | None = None,
) -> SplitResult:
    """Assign every flow to a part.

    `reserved` flows go to test and nowhere else; a label without any gets its test part from its last groups.
    `hashes` of masked contents keep equals on one side; `given` parts come from split folders and stand.
    Raises UsageError for an unknown unit, InputError where there is nothing to split.
    """
    if unit != "auto" and unit not in UNITS:
        raise UsageError("usage.split", f"no split unit {unit!r}", input=unit, hint=f"choose auto or one of {', '.join(UNITS)}")
    if not meta:
        raise InputError("input.no_flows", "no flows to split", hint="look at the captures with `capture info`")
    held = list(reserved) if reserved is not None else [False] * len(meta)
    if given is not None and any(given):
        return _given(meta, labels, given, hashes)
    choices = list(_choices(meta, labels, held)) if unit == "auto" else [(unit, "asked for")]
    for candidate, reason in choices:
        keys = groups_of(meta, labels, candidate)
        sides = _assign(meta, labels, keys, held, unit=candidate, seed=seed, fractions=fractions)
        unit, why = candidate, reason
        if _covers(sides, labels):
            break
    dropped = settle(sides, labels, hashes) if hashes is not None else {}
    return SplitResult(tuple(sides), tuple(keys), unit, why, dropped, notes(sides, labels))


def groups_of(meta: Sequence[FlowMeta], labels: Sequence[str], unit: str) -> list[str]:
    """The group of each flow under a unit: flows of one group are never parted."""
    if unit == "time":
        return _time_blocks(meta, labels)
    key: dict[str, Callable[[FlowMeta], str]] = {
        "capture": lambda m: m.origin,
        "host": lambda m: m.host,
        "session": lambda m: f"{m.origin} {min(m.orig_h, m.resp_h)} {max(m.orig_h, m.resp_h)}",
        "flow": lambda m: f"{m.origin} {m.community_id}",
    }
    return [key[unit](m) for m in meta]


def _time_blocks(meta: Sequence[FlowMeta], labels: Sequence[str]) -> list[str]:
    """Twentieths of each label's flows in time; a 5-tuple that comes back stays in its first block."""
    rows: dict[str, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        rows[label].append(i)
    out = [""] * len(meta)
    for label, members in rows.items():
        members.sort(key=lambda i: (meta[i].ts, meta[i].capture, i))
        first: dict[tuple[str, str], int] = {}
        for rank, i in enumerate(members):
            block = first.setdefault((meta[i].origin, meta[i].community_id), rank * _BLOCKS // len(members))
            out[i] = f"{label} {block:02d}"
    return out


def _choices(meta: Sequence[FlowMeta], labels: Sequence[str], held: Sequence[bool]) -> Iterator[tuple[str, str]]:
    """Units that leave every label a group for each part it needs, strictest first.

    With a reserved list the test part is settled by capture already, so a quarter of the labels with a second capture
    for validation is enough; the others learn from all they have.
    """
    names = sorted(set(labels))
    for unit in ("capture", "host", "time"):
        keys = groups_of(meta, labels, unit)
        free: dict[str, set[str]] = {name: set() for name in names}
        for i, name in enumerate(labels):
            if not held[i]:
                free[name].add(keys[i])
        if any(held):
            able = [name for name in names if len(free[name]) >= 2]
            if 4 * len(able) >= len(names):
                yield unit, f"{len(able)} of {len(names)} classes have two {unit} groups or more beside the reserved ones"
        elif all(len(groups) >= 3 for groups in free.values()):
            yield unit, f"every class has three {unit} groups or more"
    yield UNITS[-1], "some class has too few captures, hosts or moments; flows of one 5-tuple stay together"


def _covers(sides: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether validation holds two labels at least and a quarter of those that can be learnt."""
    labels_in = {part: {label for label, side in zip(labels, sides, strict=True) if side == part} for part in ("train", "val")}
    return len(labels_in["val"]) >= max(2, len(labels_in["train"]) / 4)


def _assign(
    meta: Sequence[FlowMeta],
    labels: Sequence[str],
    keys: Sequence[str],
    held: Sequence[bool],
    *,
    unit: str,
    seed: int,
    fractions: tuple[float, float, float],
) -> list[str]:
    sides = ["test" if h else "train" for h in held]
    members: dict[str, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        if not held[i]:
            members[key].append(i)
    by_time = unit in ("capture", "time")
    order = {key: max(meta[i].ts for i in rows) if by_time else hash64(f"{seed} {key}".encode()) for key, rows in members.items()}
    scored = {label for label, h in zip(labels, held, strict=True) if h}
    for part, fraction in (("test", fractions[2]), ("val", fractions[1])):
        names = sorted(set(labels) - scored) if part == "test" else sorted(set(labels))
        take(part, fraction, names, labels, members=members, order=order, sides=sides)
    return sides


def take(
    part: str,
    fraction: float,
    names: Sequence[str],
    labels: Sequence[str],
    *,
    members: dict[str, list[int]],
    order: dict[str, int],
    sides: list[str],
) -> None:
    """Move whole groups from train to `part`, last ones first, until each label has its fraction there.

    No label loses its last training group, or more than half of its flows; labels with the fewest groups choose first.
    """
    size = {key: Counter(labels[i] for i in rows) for key, rows in members.items()}
    left: dict[str, list[str]] = {name: [] for name in set(labels)}
    for key in sorted(members, key=lambda key: (order[key], key), reverse=True):
        if sides[members[key][0]] == "train":
            for name in size[key]:
                left[name].append(key)
    total = Counter(labels[i] for rows in members.values() for i in rows)
    have: Counter[str] = Counter(labels[i] for i, side in enumerate(sides) if side == part)
    for name in sorted(names, key=lambda name: (len(left[name]), name)):
        target = max(1.0, fraction * total[name])
        if part == "val" and total[name] < _LEAST_FOR_VAL:
            continue
        for key in _candidates(name, left[name], size, target):
            if have[name] and have[name] + size[key][name] / 2 > target:
                continue
            if all(len(left[o]) > 1 and have[o] + size[key][o] <= total[o] / 2 for o in size[key]):
                for i in members[key]:
                    sides[i] = part
                for other in size[key]:
                    left[other].remove(key)
                have.update(size[key])


def _candidates(name: str, keys: Sequence[str], size: dict[str, Counter[str]], target: float) -> list[str]:
    """Groups of a fitting size in their order, then the others, smallest first."""
    fitting = [key for key in keys if size[key][name] <= 2 * target]
    rest = sorted((key for key in keys if size[key][name] > 2 * target), key=lambda key: (size[key][name], key))
    return fitting + rest


def settle(sides: list[str], labels: Sequence[str], hashes: Sequence[int]) -> dict[str, int]:
    """Equal contents on one side: copies of test contents leave training and validation; of contents in both of these,
    a quarter (by hash) stays in validation and leaves training, the others the other way round.

    Where a label would lose more than four fifths of its training flows it is a template class: its contents are dealt
    out in turn, the commonest to training, so that it can be learnt, and measured on the others.
    """
    parts: dict[int, set[str]] = defaultdict(set)
    for side, content in zip(sides, hashes, strict=True):
        parts[content].add(side)
    rows = list(zip(labels, sides, hashes, strict=True))
    train = Counter(label for label, side, _ in rows if side == "train")
    lost: dict[str, Counter[int]] = defaultdict(Counter)
    for label, side, content in rows:
        if side == "train" and "test" in parts[content]:
            lost[label][content] += 1
    test_contents: set[int] = set()
    for label, contents in lost.items():
        if contents.total() > (1 - _LEAST_TRAIN) * train[label]:
            test_contents.update(sorted(contents, key=_commonest(contents))[::2])
    dropped: Counter[str] = Counter()
    for i, content in enumerate(hashes):
        reason = _reason(sides[i], parts[content], content in test_contents, to_val=content % 4 == 0)
        if reason:
            sides[i] = "dropped"
            dropped[reason] += 1
    return dict(sorted(dropped.items()))


def _commonest(counts: Counter[int]) -> Callable[[int], tuple[int, int]]:
    return lambda content: (-counts[content], content)


def _reason(side: str, others: set[str], in_test: bool, *, to_val: bool) -> str:
    if side == "test":
        return "test_copy_of_template" if in_test else ""
    if "test" in others and not in_test:
        return "copy_of_test"
    if {"train", "val"} <= others and side == ("train" if to_val else "val"):
        return "copy_of_val" if to_val else "copy_of_train"
    return ""


def _given(meta: Sequence[FlowMeta], labels: Sequence[str], given: Sequence[str], hashes: Sequence[int] | None) -> SplitResult:
    sides = [side or "train" for side in given]
    dropped = settle(sides, labels, hashes) if hashes is not None else {}
    keys = tuple(m.capture for m in meta)
    return SplitResult(tuple(sides), keys, "given", "the folders name the parts", dropped, notes(sides, labels))


def notes(sides: Sequence[str], labels: Sequence[Hashable]) -> tuple[str, ...]:
    """The classes that a part lacks, in words."""
    out = []
    for part in ("train", "val", "test"):
        present = {label for label, side in zip(labels, sides, strict=True) if side == part}
        absent = sorted(str(label) for label in set(labels) - present)
        if absent:
            out.append(f"{part} lacks {', '.join(absent)}")
    return tuple(out)
