"""What both ablations share: their data, a tuning run kept once done, the score on validation, baselines, the table."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trafficllm.core.files import read_json, write_json
from trafficllm.core.settings import TuneOptions
from trafficllm.evaluate import quality
from trafficllm.evaluate.baselines import table as judged
from trafficllm.evaluate.baselines.learners import Part
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.lifecycle.studies import scoring
from trafficllm.model.base.extend import load_seen
from trafficllm.model.base.load import Base
from trafficllm.model.tuning.job import TuneData
from trafficllm.records import prompts
from trafficllm.records.dataset.dataset import Dataset, load

PLAN = tomllib.loads(Path(__file__).with_name("ablations.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """A data set whose validation part is the test of this ablation: reserved flows are never read."""

    data: Dataset
    labels: tuple[str, ...]
    rows: list[int]
    truth: list[str]

    @classmethod
    def of(cls, data: Dataset) -> EvaluationSet:
        """The validation rows of a data set."""
        labels = scoring.labels_of(data)
        return cls(data, labels, *scoring.rows(data, "val", labels))

    def lesson(self) -> TuneData:
        """The training part; nothing is looked at while training."""
        rows, answers = scoring.rows(self.data, "train", self.labels)
        asked = [prompts.traffic_prompt(self.data.task, units) for units in self.data.units(rows)]
        return TuneData(asked, answers, self.labels)

    def answers(self, base: Base, adapter: Path) -> list[str]:
        """The label an adapter names for each row."""
        engine = Engine(base)
        engine.add_adapter("ablation", adapter)
        scorer = LLMScorer(engine, "ablation", self.data.task, self.labels, codec=self.data.codec)
        scores = scoring.score_rows(scorer, self.data, self.rows)
        return [self.labels[k] for k in scores.probabilities.argmax(axis=1)]

    def quality(self, runs: Sequence[Sequence[str]], seeds: Sequence[int], base: Path) -> dict[str, Any]:
        """The quality object of several runs; the confusion matrix is left out."""
        hashes = self.data.hashes(self.rows)
        seen = set(load_seen(base).tolist())
        manifest = self.data.manifest
        result = quality.quality_of_seeds(
            self.labels,
            self.truth,
            runs,
            self.data.groups(self.rows),
            unique_hashes=hashes,
            split=manifest["split"]["unit"],
            mask=self.data.profile,
            leaky=manifest["leaky"],
            seen_by_base=quality.seen_by_base(hashes, seen),
            seeds=seeds,
        )
        return {key: value for key, value in result.as_dict().items() if key not in {"confusion", "per_class"}}

    def baselines(self, base: Path, seed: int = 0) -> dict[str, Any]:
        """Trees on the same rows and masks; their settings are chosen on a fifth of the training rows."""
        rows, y = scoring.rows(self.data, "train", self.labels)
        held_out = set(range(0, len(rows), PLAN["selection_every"]))
        fit = [k for k in range(len(rows)) if k not in held_out]
        parts = [self._part([rows[k] for k in place], [y[k] for k in place]) for place in (fit, sorted(held_out))]
        outcomes = judged.run(
            *parts,
            self._part(self.rows, self.truth),
            labels=self.labels,
            seed=seed,
            threads=scoring.threads(),
            budget_s=PLAN["baseline_seconds"],
            names=PLAN["baselines"],
        )
        return {name: {**self.quality([row.predicted], [seed], base), "seconds": row.seconds} for name, row in outcomes.items()}

    def _part(self, rows: list[int], y: list[str]) -> Part:
        return Part(self.data.records(rows), y, self.data.raw_records(rows), self.data.meta(rows), codec=self.data.codec)


def options(seconds: float, seed: int, **changes: Any) -> TuneOptions:
    """The defaults of `tune`, without looks: the last weights are kept and validation stays unseen. Seconds are the processor's."""
    return TuneOptions(max_seconds=seconds, clock="processor", epochs=1000, looks=0, seed=seed, **changes)


def once(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in `path`, made by `work` where there is none: an interrupted ablation goes on where it stopped."""
    if not path.is_file():
        write_json(path, work())
    return dict(read_json(path))


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of an ablation: `name` in the table, `key` in file names, the `base` whose seen records count, and `run`, called
    with evaluation_set, seconds, seed and folder."""

    name: str
    key: str
    base: Path
    run: Callable[[EvaluationSet, float, int, Path], dict[str, Any]]


def main(doc: str | None, kind: str, arms: Callable[[Path], Sequence[Arm]], columns: Sequence[str]) -> None:
    """The command of an ablation: all runs, each kept once done, then one table a task. `arms` are those of a `--runs` folder."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=PLAN["seconds"])
    parser.add_argument("--tasks", nargs="+", default=list(PLAN["tasks"]))
    asked = parser.parse_args()
    body: dict[str, Any] = {"seconds_a_run": asked.seconds, "seeds": PLAN["seeds"], "scored": "validation part", "tasks": {}}
    for task in asked.tasks:
        evaluation_set = EvaluationSet.of(load(asked.runs / "traffic" / PLAN["tasks"][task]))
        rows: dict[str, Any] = {}
        for arm in arms(asked.runs):
            rows[arm.name] = _row(evaluation_set, arm, asked.out / kind / f"{task}-{arm.key}", asked.seconds, columns)
        rows |= once(asked.out / "bases" / f"{task}-baselines.json", lambda: evaluation_set.baselines(arm.base))  # noqa: B023 - called at once
        body["tasks"][task] = rows
        write_json(asked.results, body)
        print(f"{task}\n{table(rows)}", flush=True)


def _row(evaluation_set: EvaluationSet, arm: Arm, place: Path, seconds: float, columns: Sequence[str]) -> dict[str, Any]:
    """An arm over all seeds: the quality object of its answers, and its other columns a seed."""
    done = []
    for seed in PLAN["seeds"]:
        where = place.with_name(f"{place.name}-{seed}-{seconds:g}s")
        done.append(once(where.with_suffix(".json"), lambda: arm.run(evaluation_set, seconds, seed, where)))  # noqa: B023 - called at once
        print(place.name, seed, {key: done[-1][key] for key in columns}, flush=True)
    found = evaluation_set.quality([each["answers"] for each in done], PLAN["seeds"], arm.base)
    return {**found, **{key: [each[key] for each in done] for key in columns}}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A markdown table of quality objects."""
    lines = ["| | macro-F1 | 95 % interval | per seed |", "|---|--:|---|---|"]
    for name, row in rows.items():
        low, high = row["ci95"]
        seeds = ", ".join(f"{value:.3f}" for value in row["per_seed"])
        lines.append(f"| {name} | {row['macro_f1']:.3f} | {low:.3f}-{high:.3f} | {seeds} |")
    return "\n".join(lines)
