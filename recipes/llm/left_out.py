"""Sources left out: is a flow harmless, judged by a linear probe that has learnt from every other repository and laboratory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import comparison as compared
import numpy as np
import probing

from trafficllm.core.files import read_json, write_json
from trafficllm.core.sampling import every_nth
from trafficllm.evaluate.baselines import shots as few
from trafficllm.lifecycle.studies import scoring

if TYPE_CHECKING:
    from trafficllm.records.dataset.dataset import Dataset

SIDES = ("harmless", "attack")
FOUND, SPARED, BOTH = "attacks found", "harmless left alone", "mean of both"


class Sources:
    """The rows of a study, each of a source and of a side; neither reserved rows nor any that are only tested."""

    def __init__(self, dataset: Dataset, plan: dict[str, Any]) -> None:
        self.dataset, self.plan = dataset, plan
        labels = scoring.labels_of(dataset)
        candidates = [row for part in ("train", "val") for row in scoring.rows(dataset, part, labels)[0]]
        sources = [dataset.sources[meta.capture] for meta in dataset.meta(candidates)]
        by_source: dict[str, list[int]] = {}
        for row, source in zip(candidates, sources, strict=True):
            by_source.setdefault(source, []).append(row)
        self.rows = [row for source in sorted(by_source) for row in every_nth(by_source[source], plan["most"])]

    @cached_property
    def source(self) -> list[str]:
        """Where each row was recorded."""
        return [self.dataset.sources[meta.capture] for meta in self.dataset.meta(self.rows)]

    @cached_property
    def y(self) -> np.ndarray:
        """0 where harmless, 1 where not."""
        return np.array([int(label not in self.plan["harmless"]) for label in self.dataset.labels_of(self.rows)])

    def folds(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """(source, places learnt from, places judged) of every source with enough flows, where both sides are left to learn from."""
        out = []
        for source in sorted(set(self.source)):
            judged = np.array([own == source for own in self.source])
            if judged.sum() >= self.plan["least"] and len(set(self.y[~judged].tolist())) == len(SIDES):
                out.append((source, np.flatnonzero(~judged), np.flatnonzero(judged)))
        return out

    def judged_by(self, learn: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> dict[str, Any]:
        """Shares of right answers: of every source and side, and means over sources. ValueError where a side has no source to leave out."""
        right: dict[str, dict[str, float]] = {side: {} for side in SIDES}
        for source, shown, judged in self.folds():
            answers = np.asarray(learn(shown, judged))
            for number, side in enumerate(SIDES):
                own = self.y[judged] == number
                if own.sum() >= self.plan["least"]:
                    right[side][source] = round(float((answers[own] == number).mean()), 4)
        if not all(right.values()):
            raise ValueError(f"no source of {' or '.join(side for side in SIDES if not right[side])} flows can be left out")
        spared, found = (float(np.mean(list(right[side].values()))) for side in SIDES)
        return {FOUND: round(found, 4), SPARED: round(spared, 4), BOTH: round((found + spared) / 2, 4), "sources": right}


def study(comparison: compared.Comparison, name: str, arms: Sequence[str]) -> None:
    """Figures of every arm and of trees, one file an arm, and the study's file with all that are there."""
    from trafficllm.records.dataset.dataset import load

    plan, place = compared.PLAN["sources"][name], comparison.out / "data" / comparison.profile / name
    if not place.is_dir():
        comparison.build(comparison.data / name, plan["task"], place)
    rows = Sources(load(place), plan)
    for arm in [*arms, *compared.TREES]:
        path = comparison.file("answers-of-sources", name, arm)
        if not path.is_file():
            write_json(path, rows.judged_by(_trees(arm, rows) if arm in compared.TREES else _probe(comparison, arm, name, rows)))
            print(name, arm, {key: read_json(path)[key] for key in (FOUND, SPARED)}, flush=True)
    files = sorted((comparison.out / "answers-of-sources").glob(f"{comparison.profile}-{name}-*.json"))
    figures = {path.stem.rsplit("-", 1)[1]: read_json(path) for path in files}
    sides = {side: len(next(iter(figures.values()))["sources"][side]) for side in SIDES}
    says = (
        f"Linear probe of frozen states, masks {comparison.profile}; {sides['harmless']} harmless and {sides['attack']} malicious sources "
        f"left out in turn, {len(rows.rows)} flows, none of them reserved. Means over sources; no interval: so few sources give none."
    )
    body = {"title": plan["title"], "says": says, "measures": [FOUND, SPARED, BOTH], "arms": figures}
    write_json(comparison.file("sources", name), body)


def _probe(comparison: compared.Comparison, arm: str, name: str, rows: Sources) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    vectors = compared.vectors_of(comparison, arm, name, rows.dataset, rows.rows)
    strengths = compared.PLAN["readout"]["strengths"]
    return lambda shown, judged: probing.linear(vectors[shown], rows.y[shown], vectors[judged], strengths)


def _trees(name: str, rows: Sources) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    from trafficllm.evaluate.baselines.learners import Part

    def part(places: np.ndarray) -> Part:
        own = Part.of(rows.dataset, [rows.rows[k] for k in places])
        return dataclasses.replace(own, y=[SIDES[rows.y[k]] for k in places])

    return lambda shown, judged: few.trees(name, part(shown), part(judged), SIDES).argmax(axis=1)
