"""The instruction corpus: complete, balanced, free of repetition, and exactly what its generator writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "src" / "trafficllm" / "data" / "instructions"
RECIPE = ROOT / "recipes" / "instructions"
TASKS = {"MTD", "BND", "MDD", "WAD", "AAD", "EVD", "TBD", "EAC", "WF", "CD", "MTG", "BTG", "EVG", "EAG", "FIELD"}
SPLITS = ("train", "heldout")
MIN_TASK = {"train": 120, "heldout": 25}
MIN_NONE = {"train": 500, "heldout": 100}
MAX_BYTES = 5_500_000


def read(split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[dict[str, Any]]]:
    return {split: read(split) for split in SPLITS}


def test_files_are_what_the_recipe_writes(tmp_path: Path) -> None:
    command = [sys.executable, str(RECIPE / "expand.py"), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (DATA / f"{split}.jsonl").read_bytes()


def test_lines_have_the_agreed_form(corpus: dict[str, list[dict[str, Any]]]) -> None:
    for line in corpus["train"] + corpus["heldout"]:
        assert set(line) - {"facts"} == {"text", "tasks", "author", "style", "lang", "slots"}
        assert line.get("facts", True) is True
        assert not ("facts" in line and line["tasks"]), "facts of a capture are no task's"
        assert set(line["tasks"]) <= TASKS
        assert len(set(line["tasks"])) == len(line["tasks"]) <= 3
        assert line["text"] == line["text"].strip()
        assert line["text"]
        assert not re.search(r"\{[a-z_]+\}|\[[^\]]*\|", line["text"]), "an unfilled slot or choice"
        assert all(isinstance(value, str) for value in line["slots"].values())


def test_no_text_is_there_twice(corpus: dict[str, list[dict[str, Any]]]) -> None:
    counts = Counter(line["text"].casefold() for line in corpus["train"] + corpus["heldout"])
    assert not [text for text, count in counts.items() if count > 1]


@pytest.mark.parametrize("split", SPLITS)
def test_every_task_and_none_are_well_represented(corpus: dict[str, list[dict[str, Any]]], split: str) -> None:
    counts = Counter(line["tasks"][0] if line["tasks"] else "none" for line in corpus[split] if len(line["tasks"]) < 2)
    assert counts["none"] >= MIN_NONE[split]
    assert min(counts[task] for task in TASKS) >= MIN_TASK[split]


def test_size_and_share_held_out(corpus: dict[str, list[dict[str, Any]]]) -> None:
    train, heldout = corpus["train"], corpus["heldout"]
    assert len(train) >= 10_000
    assert len(heldout) >= 1_900, "the held-out part does not shrink when training authors are added"
    people = {split: {line["author"] for line in corpus[split]} for split in SPLITS}
    assert 0.2 <= len(people["heldout"]) / len(people["train"] | people["heldout"]) <= 0.3
    assert 0.14 <= len(heldout) / len(train + heldout) <= 0.3, "training grew by kinds, the held-out part stays"
    assert sum(len(line["tasks"]) > 1 for line in train + heldout) >= 200
    assert {"negated", "indirect", "misspelt", "pasted", "multi"} <= {line["style"] for line in heldout}
    assert {"en", "de", "fr", "es", "pt", "ru", "zh", "ja"} <= {line["lang"] for line in heldout}
    assert sum((DATA / f"{split}.jsonl").stat().st_size for split in SPLITS) <= MAX_BYTES


def test_authors_are_held_out_whole(corpus: dict[str, list[dict[str, Any]]]) -> None:
    listed = tomllib.loads((RECIPE / "authors.toml").read_text(encoding="utf-8"))["author"]
    for split in SPLITS:
        assert {line["author"] for line in corpus[split]} == {a["name"] for a in listed if a["split"] == split}


def test_generation_requests_carry_what_they_name(corpus: dict[str, list[dict[str, Any]]]) -> None:
    single = [line for line in corpus["train"] if line["tasks"] and set(line["tasks"]) <= {"MTG", "BTG", "EVG", "EAG"}]
    assert sum("label" in line["slots"] for line in single) / len(single) > 0.95
    assert sum("count" in line["slots"] for line in single) / len(single) > 0.6, "who is asked to play a part is seldom told how often"
    other = [line for line in corpus["train"] if not line["tasks"]]
    assert not any(line["slots"] for line in other)


def test_questions_of_the_exam_are_in_no_split(corpus: dict[str, list[dict[str, Any]]]) -> None:
    exam = tomllib.loads((RECIPE / "exam.toml").read_text(encoding="utf-8"))
    tables = exam["kind"] + exam["later"]
    asked = [line.strip().casefold() for table in tables for line in table["say"].splitlines() if line.strip()]
    assert len(asked) == len(set(asked)) > 350
    assert {task for table in tables for task in table["tasks"]} == TASKS
    assert not set(asked) & {line["text"].casefold() for line in corpus["train"] + corpus["heldout"]}


def test_facts_of_a_capture_are_told_apart(corpus: dict[str, list[dict[str, Any]]]) -> None:
    facts = [line for line in corpus["train"] if line.get("facts")]
    assert len(facts) > 250
    assert {"en", "de", "fr", "zh", "ja"} <= {line["lang"] for line in facts}
    assert not any(re.search(r"malware|botnet", line["text"], re.IGNORECASE) for line in facts)
