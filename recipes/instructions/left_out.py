"""How a router does on kinds of question that it has not been taught: whole kinds are left out, and questions kept apart are asked.

    python recipes/instructions/left_out.py --base src/trafficllm/data/base/traffic --out docs/results/routing_kinds.json
    python recipes/instructions/left_out.py --base ... --out ... --no-tfidf      # without the slow linear baseline

Held-out authors measure other people's wordings of the same kinds; outside, other kinds come. So the corpus is cut by kind, that is by
the style of a line and the act it asks for: each fold leaves out the styles in `FOLDS` (unrelated ones together), fits on all the rest
and is scored on them. The base has read the corpus of before: its rows are over authors in `UNREAD` alone, where words and the
baseline are given as well, so that the columns of a row are over the same lines. `exam.toml` is never trained on: its first part was
written before the corpus was widened by these kinds, the `later` part afterwards.
"""

from __future__ import annotations

import argparse
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kinds import act
from numpy.typing import NDArray
from wording import columns, wanted_of

from trafficllm.core.files import write_json
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.router.phrases import phrases
from trafficllm.infer.router.router import Route, Router
from trafficllm.infer.router.wording import FACTS, Wording, shipped
from trafficllm.lifecycle.adapters.learn_router import exact
from trafficllm.lifecycle.adapters.learn_wording import fit_phrases
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import load_tasks
from trafficllm.records.instructions import Instruction, load

EXAM = Path(__file__).with_name("exam.toml")
UNREAD = frozenset(
    {"roleplay", "hypothetical", "commission", "dissector", "apptimes", "tunnellers", "symptoms", "briefs"}
    | {"teatime", "elsewhere", "tally", "couples", "newcomers", "kitchen", "paraphrase"}
)
"""Authors written after the shipped base was trained."""
FOLDS = (
    ("roleplay", "telegraphic", "behaviour", "indirect"),
    ("hypothetical", "smalltalk", "tunnel", "curt"),
    ("instructed", "facts", "misspelt"),
    ("drift", "outside", "paraphrase", "negated"),
    ("colloquial", "multi", "nonnative"),
)
NOTHING = (np.zeros(0, np.uint32), np.zeros(0, np.int64))
WEIGHTS = (1.0, 2.0, 3.0, 4.0, 6.0)
Probabilities = NDArray[np.float64]


def questions(part: str) -> list[tuple[str, Instruction]]:
    """Kind and question of each line of one part of the exam."""
    tables = tomllib.loads(EXAM.read_text(encoding="utf-8"))[part]
    lines = [(table, line.strip()) for table in tables for line in table["say"].splitlines() if line.strip()]
    return [(table["name"], Instruction(line, tuple(table["tasks"]), facts=table["name"] == FACTS)) for table, line in lines]


def by_kind(kinds: Sequence[str], hits: Sequence[bool]) -> dict[str, list[float]]:
    """Accuracy and number of lines of each kind."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for kind, hit in zip(kinds, hits, strict=True):
        groups[kind].append(hit)
    return {kind: [round(sum(part) / len(part), 4), len(part)] for kind, part in sorted(groups.items())}


def _scored(hits: Sequence[bool], kinds: Sequence[str]) -> dict[str, Any]:
    return {"accuracy": round(float(np.mean(hits)), 4), "by_kind": by_kind(kinds, hits)}


class Ways:
    """The ways of routing that are compared, over one list of questions."""

    def __init__(self, engine: Engine, words: Wording) -> None:
        self.router = Router(engine, "", sorted(load_tasks()), wording=(words,))

    def routes(self, rows: Sequence[Instruction], p: Probabilities) -> dict[str, list[Route]]:
        """Routes of `rows` by the base alone, with words, and by words alone; `p` are the base's probabilities."""
        texts = [row.text for row in rows]
        choose = self.router._choose
        return {
            "base": [choose(row) for row in p.tolist()],
            "base and words": self.router.combined(p, texts),
            "words": self.router.combined(np.full_like(p, np.nan), texts),
        }


def figures(routes: Mapping[str, Sequence[Route]], rows: Sequence[Instruction], kinds: Sequence[str]) -> dict[str, Any]:
    """Accuracy of each way, whole and by kind, and how well facts of a capture are told."""
    told = {name: exact(rows, answer) for name, answer in routes.items()}
    body: dict[str, Any] = {name: _scored(hits, kinds) for name, hits in told.items()}
    facts = [(row.facts, (route.facts or 0) >= 0.5) for row, route in zip(rows, routes["words"], strict=True)]
    asked, said = sum(want for want, _ in facts), sum(got for _, got in facts)
    both = sum(want and got for want, got in facts)
    body["facts"] = {"asked": asked, "recall": round(both / max(asked, 1), 4), "precision": round(both / max(said, 1), 4)}
    return {"n": len(rows), **body}


def tfidf(train: Sequence[Instruction], test: Sequence[Instruction]) -> list[bool]:
    """Whether the linear baseline finds each line's task set."""
    import baseline

    lines = [[{"text": row.text, "tasks": list(row.tasks)} for row in part] for part in (train, test)]
    answers = baseline.answers(baseline.fit_and_score(*lines), 0.4)
    return [set(row.tasks) == set(answer) for row, answer in zip(test, answers, strict=True)]


def left_out(engine: Engine, rows: Sequence[Instruction], *, slow: bool) -> dict[str, Any]:
    """Each fold's styles left out; of the weight of words beside the base, what others would give."""
    said = [phrases(row.text) for row in rows]
    wanted, out = wanted_of(rows), {}
    weighed: dict[float, list[bool]] = {weight: [] for weight in WEIGHTS}
    for styles in FOLDS:
        rest = [k for k, row in enumerate(rows) if row.style in styles]
        train = [k for k, row in enumerate(rows) if row.style not in styles]
        words = fit_phrases([said[k] for k in train], wanted[train], columns())
        ways, old = Ways(engine, words), [rows[k] for k in rest if rows[k].author not in UNREAD]
        new = [rows[k] for k in rest if rows[k].author in UNREAD]
        kinds = [f"{row.style}, {act(row.tasks, row.text, told=FACTS if row.facts else '')}" for row in new]
        p = ways.router.probabilities([row.text for row in new])
        found = figures(ways.routes(new, p), new, kinds)
        bare = fit_phrases([{**said[k], "concepts": NOTHING} for k in train], wanted[train], columns())
        found["words without concepts"] = _scored(exact(new, Ways(engine, bare).routes(new, p)["words"]), kinds)
        if slow:
            found["tfidf"] = _scored(tfidf([rows[k] for k in train], new), kinds)
        none = np.full((len(old), len(ways.router.tasks) + 1), np.nan)
        hits = exact(old, ways.router.combined(none, [row.text for row in old]))
        found["words, authors the base has read"] = by_kind([row.style for row in old], hits)
        _weigh(ways, new, p, weighed)
        out[", ".join(styles)] = found
        print(styles, {name: row["accuracy"] for name, row in found.items() if isinstance(row, dict) and "accuracy" in row}, flush=True)
    total = {
        name: _whole(out, name) for name in ("base", "base and words", "words", "words without concepts", *(("tfidf",) if slow else ()))
    }
    return {"all": total, "folds": out, "weight": {f"{weight:g}": round(float(np.mean(hits)), 4) for weight, hits in weighed.items()}}


def _weigh(ways: Ways, rows: Sequence[Instruction], p: Probabilities, weighed: dict[float, list[bool]]) -> None:
    """Hits of other weights of the words beside the base."""
    router = ways.router
    for weight, hits in weighed.items():
        other = Router(router.engine, "", router.tasks, wording=router.wording, weight=weight)
        hits += exact(rows, other.combined(p, [row.text for row in rows]))


def _whole(folds: Mapping[str, Any], way: str) -> float:
    return round(sum(fold[way]["accuracy"] * fold["n"] for fold in folds.values()) / sum(fold["n"] for fold in folds.values()), 4)


def main() -> None:
    """Score and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take every n-th training line")
    parser.add_argument("--no-tfidf", action="store_true")
    options = parser.parse_args()
    engine, rows = Engine(load_base(options.base, dtype="float32")), load("train")[:: options.every]
    body: dict[str, Any] = {"lines": len(rows)}
    for part in ("kind", "later"):
        kinds, asked = zip(*questions(part), strict=True)
        ways = Ways(engine, shipped())
        found = figures(ways.routes(asked, ways.router.probabilities([row.text for row in asked])), asked, kinds)
        if not options.no_tfidf:
            hits = tfidf(rows, asked)
            found["tfidf"] = _scored(hits, kinds)
        body["exam" if part == "kind" else "exam, later part"] = found
    body["left_out"] = left_out(engine, rows, slow=not options.no_tfidf)
    write_json(options.out, body)
    print(body["left_out"]["all"], body["left_out"]["weight"])


if __name__ == "__main__":
    main()
