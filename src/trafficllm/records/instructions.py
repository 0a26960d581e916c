"""Stage-1 instructions: what people ask, and which tasks answer it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

from trafficllm.core.errors import InputError

Split = Literal["train", "heldout", "all"]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One request. `tasks` are the ids that answer it, empty where none does; `author` says how it was written.

    `facts`: it asks for facts of a whole capture, which no task answers.
    """

    text: str
    tasks: tuple[str, ...] = ()
    author: str = ""
    style: str = ""
    lang: str = "en"
    split: str = "train"
    facts: bool = False


@lru_cache(maxsize=1)
def _all() -> tuple[Instruction, ...]:
    folder = resources.files("trafficllm").joinpath("data", "instructions")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".jsonl")), key=lambda f: f.name) if folder.is_dir() else []
    out = []
    for file in files:
        default = "heldout" if "heldout" in file.name else "train"
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                out.append(_row(line, f"{file.name}:{number}", default))
    return tuple(out)


def _row(line: str, where: str, split: str) -> Instruction:
    try:
        row = json.loads(line)
        return Instruction(
            text=row["text"],
            tasks=tuple(row.get("tasks", ())),
            author=row.get("author", ""),
            style=row.get("style", ""),
            lang=row.get("lang", "en"),
            split=row.get("split", split),
            facts=bool(row.get("facts", False)),
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError("input.instructions", "not an instruction row", where=where, hint="a row is {text, tasks, ...}") from error


def load(split: Split = "train") -> list[Instruction]:
    """The shipped instructions of a split, in file order; the held-out ones come from other authors."""
    return [row for row in _all() if split in ("all", row.split)]
