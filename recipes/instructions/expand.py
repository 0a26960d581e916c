"""Expand the authors' hand-written patterns into the stage-1 instruction corpus.

Each file in `authors/` is one person: a TOML table whose `[say]` keys are task sets ("MTD", "MTD+BND",
"none") and whose values are patterns, one a line. In a pattern `[a|b]` picks one wording, `{slot}` takes the
next value of a slot (the author's own or `slots.toml`'s), and a leading `@style` or `@style:lang` overrides
the author's. The key "facts" holds questions for facts of a whole capture, which no task answers; `[pairs]` joins what is asked
of one task with what is asked of another. A pattern yields at most `MAX_PER_PATTERN` texts, so that people's wordings, not slot fillings,
make up the corpus.

    python recipes/instructions/expand.py            # writes src/trafficllm/data/instructions/{train,heldout}.jsonl
    python recipes/instructions/expand.py --out DIR  # elsewhere
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

from kinds import FACTS, act
from pasted import PASTED

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "src" / "trafficllm" / "data" / "instructions"
TASKS = ("MTD", "BND", "MDD", "WAD", "AAD", "EVD", "TBD", "EAC", "WF", "CD", "MTG", "BTG", "EVG", "EAG", "FIELD")
MAX_PER_PATTERN = 16
CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{([a-z_0-9]+)\}")
# What a routed request must carry on: the slot's name in a pattern -> its key in the line's "slots".
CARRIED = {
    "mal": "label",
    "malx": "label",
    "bot": "label",
    "botx": "label",
    "vpnapp": "label",
    "app": "label",
    "n": "count",
    "fmt": "format",
    "hour": "time",
    "field": "field",
    "tfield": "field",
}
CARRIED_BY = {"MTG": "generation", "BTG": "generation", "EVG": "generation", "EAG": "generation", "FIELD": "field"}
NEIGHBOUR = dict(zip("abcdefghijklmnopqrstuvwxyz", "svxsdghgujkkmnbipoeaydviecxz", strict=False))


@dataclass
class Author:
    """One person: who they are, how they open and close a line, and what they say for each task set."""

    name: str
    split: str
    lang: str
    style: str
    cap: int
    typos: float
    open_rate: float
    openers: list[str]
    closers: list[str]
    slots: dict[str, list[str]]
    say: dict[str, list[str]]
    cursor: dict[str, int] = field(default_factory=dict)

    def next_value(self, slot: str) -> str:
        """The slot's next value; every value is used once before any is used again."""
        values = self.slots[slot]
        position = self.cursor.get(slot, 0)
        order = list(range(len(values)))
        random.Random(f"{self.name}/{slot}/{position // len(values)}").shuffle(order)
        self.cursor[slot] = position + 1
        return values[order[position % len(values)]]


def read_author(name: str, split: str, shared: Mapping[str, list[str]]) -> Author:
    """Read `authors/<name>.toml`; the author's slots replace the shared ones of the same name."""
    raw: dict[str, Any] = tomllib.loads((HERE / "authors" / f"{name}.toml").read_text(encoding="utf-8"))
    say = {key: [line.strip() for line in text.splitlines() if line.strip()] for key, text in raw.get("say", {}).items()}
    say |= coupled(raw["pairs"]) if "pairs" in raw else {}
    return Author(
        name=name,
        split=split,
        lang=raw["lang"],
        style=raw["style"],
        cap=min(int(raw.get("cap", 4)), MAX_PER_PATTERN),
        typos=float(raw.get("typos", 0.0)),
        open_rate=float(raw.get("open_rate", 0.3)),
        openers=list(raw.get("openers", [])),
        closers=list(raw.get("closers", [])),
        slots={**shared, **raw.get("slots", {})},
        say=say,
    )


def coupled(pairs: Mapping[str, Any]) -> dict[str, list[str]]:
    """A pattern for each ordered pair of tasks: `joined` with one task's wordings at {a} and the other's at {b}."""
    ask, joined = pairs["ask"], pairs["joined"]
    order = list(permutations(ask, 2))
    choice = {task: f"[{'|'.join(wordings)}]" for task, wordings in ask.items()}
    return {
        f"{one}+{other}": [
            joined[(place + turn * 5) % len(joined)].replace("{a}", choice[one]).replace("{b}", choice[other]) for turn in (0, 1)
        ]
        for place, (one, other) in enumerate(order)
    }


def read_authors() -> list[Author]:
    """All authors in the order of `authors.toml`, which also names the held-out ones."""
    shared: dict[str, list[str]] = tomllib.loads((HERE / "slots.toml").read_text(encoding="utf-8"))["slots"]
    listed = tomllib.loads((HERE / "authors.toml").read_text(encoding="utf-8"))["author"]
    return [read_author(entry["name"], entry["split"], shared) for entry in listed]


def tasks_of(key: str) -> list[str]:
    """The task ids of a `[say]` key; `none` and `facts` have none of them."""
    if key in ("none", FACTS):
        return []
    tasks = key.split("+")
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise ValueError(f"unknown task in [say] key {key!r}: {unknown}")
    return tasks


def carried_keys(tasks: list[str]) -> set[str]:
    """The slot keys a line of these tasks keeps: a detection question carries nothing on."""
    kinds = {CARRIED_BY.get(task) for task in tasks}
    keys = {"label", "count", "format", "time"} if "generation" in kinds else set()
    return keys | ({"field"} if "field" in kinds else set())


def misspell(text: str, rate: float, rng: random.Random) -> str:
    """Slips of the finger in about `rate` of the longer plain words; names and numbers stay as they are."""

    def slip(match: re.Match[str]) -> str:
        word = match.group(0)
        if rng.random() >= rate:
            return word
        at = rng.randrange(1, len(word) - 1)
        kind = rng.randrange(4)
        if kind == 0:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        if kind == 1:
            return word[:at] + word[at + 1 :]
        if kind == 2:
            return word[:at] + word[at] + word[at:]
        return word[:at] + NEIGHBOUR.get(word[at], word[at]) + word[at + 1 :]

    return re.sub(r"(?<!\{)\b[a-z]{4,}\b(?!\})", slip, text)


def fill(pattern: str, author: Author, rng: random.Random) -> tuple[str, dict[str, str]]:
    """One wording of a pattern and the slot values it carries on."""
    carried: dict[str, str] = {}

    def value(match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot in PASTED:
            return PASTED[slot](rng)
        surface, _, canonical = author.next_value(slot).partition("=>")
        if slot in CARRIED:
            carried[CARRIED[slot]] = canonical or surface
        return surface

    chosen = CHOICE.sub(lambda match: rng.choice(match.group(1).split("|")), pattern)
    chosen = re.sub(r" +([?.!,;])(?=\s|$)", r"\1", re.sub(r"  +", " ", chosen)).strip()
    if author.typos:
        chosen = misspell(chosen, author.typos, rng)
    return SLOT.sub(value, chosen).strip(), carried


def dress(text: str, author: Author, rng: random.Random) -> str:
    """Put the author's usual opening or closing around a text, now and then."""
    if author.openers and rng.random() < author.open_rate:
        opener = rng.choice(author.openers)
        second_small = len(text) > 1 and not text[1].isupper() and text[:2] not in ("I ", "I'")
        text = opener + (text[0].lower() + text[1:] if opener.endswith((", ", "... ")) and second_small else text)
    if author.closers and rng.random() < author.open_rate:
        text += rng.choice(author.closers)
    return text


def room(pattern: str, author: Author) -> int:
    """How many texts a pattern may yield: its own wordings first, two where only the slots differ."""
    wordings = 1
    for group in CHOICE.findall(pattern):
        wordings *= group.count("|") + 1
    slots = len(SLOT.findall(pattern))
    return min(author.cap, wordings + min(slots, 3) + bool(author.openers) + bool(author.typos))


def lines_of(author: Author, taken: set[str]) -> Iterator[dict[str, Any]]:
    """All lines of one author; texts already taken (casefolded) are skipped."""
    for key, patterns in author.say.items():
        tasks = tasks_of(key)
        keys = carried_keys(tasks)
        for number, raw in enumerate(patterns):
            style, lang, pattern = author.style, author.lang, raw
            if raw.startswith("@"):
                mark, pattern = raw[1:].split(" ", 1)
                style, _, other = mark.partition(":")
                lang, style = other or lang, style or author.style
            rng = random.Random(f"{author.name}/{key}/{number}/{raw}")
            left = room(pattern, author)
            for _ in range(3 * left):
                text, slots = fill(pattern, author, rng)
                text = dress(text, author, rng)
                if text.casefold() in taken:
                    continue
                taken.add(text.casefold())
                yield {
                    "text": text,
                    "tasks": tasks,
                    "author": author.name,
                    "style": style,
                    "lang": lang,
                    "slots": {name: value for name, value in slots.items() if name in keys},
                    **({FACTS: True} if act(tasks, text, told=key) == FACTS else {}),
                }
                left -= 1
                if not left:
                    break


def kept_apart() -> set[str]:
    """The questions of `exam.toml` (casefolded), which no author may say."""
    exam = tomllib.loads((HERE / "exam.toml").read_text(encoding="utf-8"))
    lines = [line.strip() for part in ("kind", "later") for table in exam[part] for line in table["say"].splitlines()]
    return {line.casefold() for line in lines if line}


def corpus() -> dict[str, str]:
    """The corpus as `{file name: text}`; the same bytes every time."""
    taken = kept_apart()
    files: dict[str, list[str]] = {"train": [], "heldout": []}
    for author in read_authors():
        for line in lines_of(author, taken):
            files[author.split].append(json.dumps(line, ensure_ascii=False, separators=(",", ":")))
    return {f"{split}.jsonl": "".join(f"{line}\n" for line in lines) for split, lines in files.items()}


def main() -> None:
    """Write the corpus files."""
    parser = argparse.ArgumentParser(description="Expand the authors' patterns into the instruction corpus.")
    parser.add_argument("--out", type=Path, default=TARGET)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, text in corpus().items():
        (out / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"{out / name}: {text.count(chr(10))} lines, {len(text.encode())} bytes")


if __name__ == "__main__":
    main()
