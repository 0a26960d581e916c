"""Split files, cross-validation folds and caps: which record is used in which part, by content and seed alone.

A split file is small enough to publish beside a paper and exact enough to build from: a record is named by the SHA-256 of its file
and its place in it (first frame of a flow, number of a request or a sequence), so no address, no Community ID and no path is needed
to find it again.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import hash64, json_text, read_json, sha256_bytes
from trafficllm.core.types import FlowMeta
from trafficllm.records.dataset.manifest import PARTS
from trafficllm.records.dataset.splits import FRACTIONS, SplitResult, notes, settle, take

SCHEMA = "trafficllm.split/1"
Key: TypeAlias = tuple[str, object, int]
"""SHA-256 of the file, its path in the folder, the record's place in it. The path only parts files of equal bytes."""


def write(folder: Path, name: str, keys: Sequence[Key], sides: Sequence[str], said: Mapping[str, Any]) -> str:
    """Write a split file; returns its name. `said` tells where it came from: unit, seed, task."""
    files: dict[tuple[str, object], dict[str, list[int]]] = {}
    for (sha, path, row), side in zip(keys, sides, strict=True):
        if side in PARTS:
            files.setdefault((sha, path), {part: [] for part in PARTS})[side].append(row)
    counts = {part: sum(side == part for side in sides) for part in PARTS}
    listed = [{"file": path, "sha256": sha, **{p: sorted(rows) for p, rows in parts.items()}} for (sha, path), parts in files.items()]
    target = folder / name
    target.parent.mkdir(exist_ok=True)
    target.write_text(json_text({"schema": SCHEMA, **said, "records": counts, "files": listed}), encoding="utf-8")
    return name


@dataclass(frozen=True, slots=True)
class Fixed:
    """A split file that was read: part by (hash, place), and by (hash, path, place) where equal files stand apart."""

    source: str
    key: str
    exact: dict[Key, str]
    loose: dict[tuple[str, int], str]

    def apply(
        self, keys: Sequence[Key], meta: Sequence[FlowMeta], labels: Sequence[str], hashes: Sequence[int], reserved: Sequence[bool]
    ) -> SplitResult:
        """The parts as listed; records that are not listed are left out.

        Raises InputError where no record is listed, or a reserved one is to be learnt from.
        """
        sides = [self.exact.get(key) or self.loose.get((key[0], key[2])) or "dropped" for key in keys]
        matched = sum(side != "dropped" for side in sides)
        if not matched:
            hint = "the split file belongs to other captures: hashes of files must be equal"
            raise InputError("input.split", "the split file names none of these records", input=self.source, hint=hint)
        learnt = [key for key, side, held in zip(keys, sides, reserved, strict=True) if held and side in ("train", "val")]
        if learnt:
            where = f"{learnt[0][1]} row {learnt[0][2]}"
            hint = "these are scored, never learnt from: use a split file made with the same reserved list"
            message = f"{len(learnt)} reserved records in training or validation"
            raise InputError("input.reserved", message, input=self.source, where=where, hint=hint)
        absent = len(self.exact) - matched
        why = f"as listed in {Path(self.source).name}"
        said = (f"{absent} listed records are not in these captures",) if absent > 0 else ()
        dropped = {"not in the split file": len(sides) - matched} if matched < len(sides) else {}
        groups = tuple(f"{m.origin} {m.community_id}" for m in meta)
        leaky = tuple(_crossing(sides, groups, hashes))
        return SplitResult(tuple(sides), groups, "fixed", why, dropped, (*said, *notes(sides, labels)), leaky)


def _crossing(sides: Sequence[str], groups: Sequence[str], hashes: Sequence[int]) -> list[str]:
    """What of a listed split is in more than one part under these masks."""
    out = []
    for what, values in (("flows", groups), ("contents", hashes)):
        parts: dict[object, set[str]] = defaultdict(set)
        for value, side in zip(values, sides, strict=True):
            if side != "dropped":
                parts[value].add(side)
        crossing = sum(len(sides_of) > 1 for sides_of in parts.values())
        if crossing:
            out.append(f"{crossing} {what} in more than one part of the split file")
    return out


def load(path: str | Path) -> Fixed:
    """Read a split file. Raises InputError where it is none."""
    place = Path(path)
    if not place.is_file():
        raise InputError("input.missing", "no such file", input=str(path), hint="a split file is split.json of a data set")
    body = read_json(place)
    try:
        if body["schema"] != SCHEMA:
            raise ValueError(body["schema"])
        exact = {(str(f["sha256"]), f["file"], int(row)): part for f in body["files"] for part in PARTS for row in f[part]}
    except (KeyError, TypeError, ValueError) as error:
        hint = f'a split file is {{"schema": "{SCHEMA}", "files": [{{"sha256", "file", "train": [row], ...}}]}}'
        raise InputError("input.split", "not a split file", input=str(path), where=f"{error}"[:80], hint=hint) from error
    loose: dict[tuple[str, int], str] = {}
    twice = Counter((sha, row) for sha, _, row in exact)
    for (sha, _, row), part in exact.items():
        if twice[sha, row] == 1:
            loose[sha, row] = part
    return Fixed(str(path), sha256_bytes(json_text(body["files"]).encode()), exact, loose)


def require_labels(unknown: Collection[str], labels: Sequence[str]) -> None:
    """Raise UsageError for an unknown-class label that no record has."""
    names = sorted(set(labels))
    for label in unknown:
        if label not in names:
            near = difflib.get_close_matches(label, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"labels are {', '.join(names)}"
            raise UsageError("usage.label", f"no label {label!r} to hold out", input="--unknown", where=label, hint=hint)
    if len(names) - len(set(unknown)) < 2:
        hint = "hold out fewer"
        raise UsageError("usage.label", "two labels at least must be left to learn", input="--unknown", hint=hint)


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
