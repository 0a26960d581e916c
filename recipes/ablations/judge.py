"""What both ablations share: their data, a tuning run kept once done, the score on validation, baselines, the table."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trafficllm.core.files import read_json, write_json
from trafficllm.evaluate import baselines as judged
from trafficllm.evaluate import quality
from trafficllm.evaluate.learners import Part
from trafficllm.infer.engine import Engine
from trafficllm.infer.scorer import LLMScorer
from trafficllm.lifecycle import scoring
from trafficllm.model.base import load_seen
from trafficllm.model.load import Base
from trafficllm.model.tune import TuneData, TuneOptions
from trafficllm.records import prompts
from trafficllm.records.dataset import Dataset

PLAN = tomllib.loads(Path(__file__).with_name("ablations.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Exam:
    """A data set whose validation part is the test of this ablation: reserved flows are never read."""

    data: Dataset
    labels: tuple[str, ...]
    rows: list[int]
    truth: list[str]

    @classmethod
    def of(cls, data: Dataset) -> Exam:
        """The exam of a data set."""
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
        found = quality.quality_of_seeds(
            self.labels, self.truth, runs, self.data.groups(self.rows), unique_hashes=hashes,
            split=manifest["split"]["unit"], mask=self.data.profile, leaky=manifest["leaky"],
            seen_by_base=quality.seen_by_base(hashes, seen), seeds=seeds,
        )  # fmt: skip
        return {key: value for key, value in found.items() if key not in {"confusion", "per_class"}}

    def baselines(self, base: Path, seed: int = 0) -> dict[str, Any]:
        """Trees on the same rows and masks; their settings are chosen on a fifth of the training rows."""
        rows, y = scoring.rows(self.data, "train", self.labels)
        chosen = set(range(0, len(rows), PLAN["selection_every"]))
        fit = [k for k in range(len(rows)) if k not in chosen]
        parts = [self._part([rows[k] for k in place], [y[k] for k in place]) for place in (fit, sorted(chosen))]
        found = judged.run(
            *parts, self._part(self.rows, self.truth), labels=self.labels, seed=seed, threads=scoring.threads(),
            budget_s=PLAN["baseline_seconds"], names=PLAN["baselines"],
        )  # fmt: skip
        return {name: {**self.quality([row["y_pred"]], [seed], base), "seconds": row["seconds"]} for name, row in found.items()}

    def _part(self, rows: list[int], y: list[str]) -> Part:
        return Part(self.data.records(rows), y, self.data.raw_records(rows), self.data.meta(rows), codec=self.data.codec)


def options(seconds: float, seed: int) -> TuneOptions:
    """The defaults of `tune`, without looks: the last weights are kept and validation stays unseen."""
    return TuneOptions(max_seconds=seconds, epochs=1000, looks=0, seed=seed)


def once(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in `path`, made by `work` where there is none: an interrupted ablation goes on where it stopped."""
    if not path.is_file():
        write_json(path, work())
    return dict(read_json(path))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A markdown table of quality objects."""
    lines = ["| | macro-F1 | 95 % interval | per seed |", "|---|--:|---|---|"]
    for name, row in rows.items():
        low, high = row["ci95"]
        seeds = ", ".join(f"{value:.3f}" for value in row["per_seed"])
        lines.append(f"| {name} | {row['macro_f1']:.3f} | {low:.3f}-{high:.3f} | {seeds} |")
    return "\n".join(lines)
