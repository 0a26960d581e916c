"""Fit the router's wording model on the training authors, and say what it is worth on authors it has not read.

    python recipes/instructions/wording.py                # writes src/trafficllm/data/routing/wording.{safetensors,json}
    python recipes/instructions/wording.py --folds        # five folds over the training authors first; the JSON keeps the figures
    python recipes/instructions/wording.py --out DIR      # elsewhere

Held-out authors are not read here: `routed.py` scores them, once. Same corpus and glossary, same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficllm.core.types import NONE
from trafficllm.infer.router.phrases import phrases
from trafficllm.infer.router.router import FURTHER, SEVERAL_FROM
from trafficllm.infer.router.wording import FACTS, SEVERAL, Wording, write
from trafficllm.lifecycle.adapters.learn_wording import QuestionPhrases, fit_phrases, targets
from trafficllm.records.catalog import load_tasks
from trafficllm.records.instructions import Instruction, load

OUT = Path(__file__).resolve().parents[2] / "src" / "trafficllm" / "data" / "routing"
FOLDS = 5
Scores = NDArray[np.float64]


def columns() -> tuple[str, ...]:
    """The catalogue's tasks, "none", whether there are several, and whether facts of a capture are asked for."""
    return (*sorted(load_tasks()), NONE, SEVERAL, FACTS)


def wanted_of(rows: Sequence[Instruction]) -> NDArray[np.float32]:
    """What each row's columns should say [rows, columns]."""
    return targets([row.tasks for row in rows], columns(), [row.facts for row in rows])


def exact(
    scores: Scores, rows: Sequence[Instruction], *, several_from: float = SEVERAL_FROM, further: float = FURTHER
) -> NDArray[np.bool_]:
    """Whether the wording alone, by the router's rule, finds each row's task set."""
    names, z, several = columns()[:-2], scores[:, :-2], scores[:, -2]
    out = np.zeros(len(rows), bool)
    for k, row in enumerate(rows):
        best = int(z[k].argmax())
        may = several[k] >= several_from
        more = {name for name, value in zip(names, z[k], strict=True) if may and value >= further}
        found = set() if names[best] == NONE else {names[best], *more} - {NONE}
        out[k] = found == set(row.tasks)
    return out


def out_of_fold(rows: Sequence[Instruction], found: QuestionPhrases) -> Scores:
    """Scores of each row by a model that has not read its author [rows, columns]."""
    wanted, authors = wanted_of(rows), sorted({row.author for row in rows})
    order = np.random.default_rng(0).permutation(len(authors)) % FOLDS
    fold = np.array([order[authors.index(row.author)] for row in rows])
    scores = np.zeros(wanted.shape)
    for k in range(FOLDS):
        train, rest = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        model = fit_phrases([found[i] for i in train], wanted[train], columns())
        scores[rest] = model.log_odds([rows[i].text for i in rest])
    return scores


def figures(rows: Sequence[Instruction], scores: Scores) -> dict[str, Any]:
    """Out-of-fold accuracy, by language too, and what other settings of the rule for several tasks would give."""
    several = np.array([len(row.tasks) > 1 for row in rows])
    right = exact(scores, rows)
    grid = {}
    for begin in (-99.0, -3.0, -2.0, -1.0, 0.0):
        for further in (-1.5, -1.0, -0.5, 0.0):
            hits = exact(scores, rows, several_from=begin, further=further)
            grid[f"several from {begin:g}, further {further:g}"] = [round(float(hits.mean()), 4), round(float(hits[several].mean()), 4)]
    return {
        "authors": len({row.author for row in rows}),
        "accuracy": round(float(right.mean()), 4),
        "several_accuracy": round(float(right[several].mean()), 4),
        "by_language": {
            lang: round(float(right[[row.lang == lang for row in rows]].mean()), 3) for lang in sorted({row.lang for row in rows})
        },
        "rule": grid,
    }


def make(rows: Sequence[Instruction], *, folds: bool = False) -> Wording:
    """The model of all `rows`, with its out-of-fold figures where asked for."""
    found = [phrases(row.text) for row in rows]
    told = {"out_of_fold": figures(rows, out_of_fold(rows, found))} if folds else {}
    model = fit_phrases(found, wanted_of(rows), columns())
    return Wording(model.columns, model.tables, model.bias, {**model.facts, **told})


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--folds", action="store_true", help="score authors that are left out, five times, and keep the figures")
    options = parser.parse_args()
    model = make(load("train"), folds=options.folds)
    write(model, options.out)
    told = model.facts.get("out_of_fold", {})
    print({**{key: value for key, value in model.facts.items() if key != "out_of_fold"}, **told})


if __name__ == "__main__":
    main()
