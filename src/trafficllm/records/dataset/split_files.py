"""Split files: which record is in which part, small enough to publish beside a paper, exact enough to build from.

A record is named by the SHA-256 of its file and its place in it (first frame of a flow, number of a request or a
sequence): no address, no Community ID, no path is needed to find it again.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import json_text, read_json, sha256_bytes
from trafficllm.core.types import FlowMeta
from trafficllm.records.dataset.manifest import PARTS
from trafficllm.records.dataset.splits import SplitResult, notes

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
        found = sum(side != "dropped" for side in sides)
        if not found:
            hint = "the split file belongs to other captures: hashes of files must be equal"
            raise InputError("input.split", "the split file names none of these records", input=self.source, hint=hint)
        learnt = [key for key, side, held in zip(keys, sides, reserved, strict=True) if held and side in ("train", "val")]
        if learnt:
            where = f"{learnt[0][1]} row {learnt[0][2]}"
            hint = "these are scored, never learnt from: use a split file made with the same reserved list"
            message = f"{len(learnt)} reserved records in training or validation"
            raise InputError("input.reserved", message, input=self.source, where=where, hint=hint)
        absent = len(self.exact) - found
        why = f"as listed in {Path(self.source).name}"
        said = (f"{absent} listed records are not in these captures",) if absent > 0 else ()
        dropped = {"not in the split file": len(sides) - found} if found < len(sides) else {}
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
        crossing = sum(len(found) > 1 for found in parts.values())
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


def known_labels(asked: Collection[str], labels: Sequence[str]) -> None:
    """Raise UsageError for an unknown-class label that no record has."""
    names = sorted(set(labels))
    for label in asked:
        if label not in names:
            near = difflib.get_close_matches(label, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"labels are {', '.join(names)}"
            raise UsageError("usage.label", f"no label {label!r} to hold out", input="--unknown", where=label, hint=hint)
    if len(names) - len(set(asked)) < 2:
        hint = "hold out fewer"
        raise UsageError("usage.label", "two labels at least must be left to learn", input="--unknown", hint=hint)
