"""The router on the held-out authors, beside the linear baseline; one scoring is one line in LOG.md.

    python recipes/instructions/routed.py --base src/trafficllm/data/base/traffic --adapter ADAPTER --out docs/results/routing.json

Accuracy asks for the exact task set. The interval resamples whole authors: other people's wordings are what is uncertain.
Without `--adapter` the bare base answers. Two rows: the model alone under `--name`, and with the wording model, which is what users get,
under the same name with ", with wording"; a third, `wording alone`, says what the words would answer without any LLM.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.core.files import read_json, write_json
from trafficllm.core.metrics import auroc
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.router.router import Route, Router
from trafficllm.infer.router.wording import shipped
from trafficllm.lifecycle.adapters.learn_router import exact
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import load_tasks
from trafficllm.records.instructions import Instruction, load

DRAWS = 1000
SPLIT = "by author, held-out authors never trained on; 19 authors, eleven of them those of earlier figures"
LATER = frozenset({"certdesk", "professor", "gameadmin", "easterners", "courtexpert", "telecomcore", "corrections", "queries"})
"""Held-out authors of one hand with many training authors: a milder exam where the language is English, a harder one in Asian languages."""


def by(rows: Sequence[Instruction], right: Sequence[bool], key: Callable[[Instruction], str]) -> dict[str, float]:
    """Accuracy of each group of rows."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for row, hit in zip(rows, right, strict=True):
        groups[key(row)].append(hit)
    return {name: round(sum(hits) / len(hits), 4) for name, hits in sorted(groups.items())}


def interval(rows: Sequence[Instruction], right: Sequence[bool]) -> list[float]:
    """95 % interval of the accuracy over draws of authors."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for row, hit in zip(rows, right, strict=True):
        groups[row.author].append(hit)
    sums = np.array([(sum(hits), len(hits)) for hits in groups.values()], dtype=np.float64)
    picks = np.random.default_rng(0).integers(0, len(sums), size=(DRAWS, len(sums)))
    drawn = sums[picks].sum(axis=1)
    return [round(float(value), 4) for value in np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])]


def figures(routes: Sequence[Route], rows: Sequence[Instruction]) -> dict[str, Any]:
    """Everything reported of one way of routing."""
    right = exact(rows, routes)
    none, foreign = np.array([route.none for route in routes]), np.array([not row.tasks for row in rows], dtype=bool)
    parts = {"authors_of_before": [row.author not in LATER for row in rows], "authors_of_now": [row.author in LATER for row in rows]}
    return {
        "n": len(rows),
        "accuracy": round(sum(right) / len(right), 4),
        "ci95": interval(rows, right),
        "none_auroc": round(auroc(none[foreign], none[~foreign]), 4),
        "by_task": by(rows, right, lambda row: "+".join(row.tasks) if len(row.tasks) == 1 else "several" if row.tasks else "none"),
        "by_style": by(rows, right, lambda row: row.style),
        "by_language": by(rows, right, lambda row: row.lang),
        "by_author": by(rows, right, lambda row: row.author),
        **{name: {"n": sum(part), "accuracy": round(float(np.mean(np.array(right)[np.array(part)])), 4)} for name, part in parts.items()},
    }


def main() -> None:
    """Score, add to the results file under a name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--name", default="router")
    parser.add_argument("--baseline", action="store_true", help="fit and score the linear baseline too")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    engine = Engine(load_base(options.base, dtype="float32"))
    if options.adapter:
        engine.add_adapter("router", options.adapter)
    rows, tasks = load("heldout"), sorted(load_tasks())
    texts = [row.text for row in rows]
    router = Router(engine, "router" if options.adapter else "", tasks, wording=(shipped(),))
    alone, heard = zip(*router.both(texts), strict=True)
    undecided = np.full((len(rows), len(tasks) + 1), np.nan)
    body: dict[str, Any] = dict(read_json(options.out)) if options.out.is_file() else {}
    ways = {options.name: alone, f"{options.name}, with wording": heard, "wording alone": router.combined(undecided, texts)}
    body |= {"split": SPLIT, **{name: figures(found, rows) for name, found in ways.items()}}
    if options.baseline:
        import baseline

        body["tfidf_logistic_regression"] = baseline.evaluate()[0]
    write_json(options.out, body)
    shown = {name: row["accuracy"] for name, row in body.items() if isinstance(row, dict)}
    print(shown, {name: body[name]["none_auroc"] for name in ways})


if __name__ == "__main__":
    main()
