"""What malware of other sources is worth in an adapter's first step: each of its sources left out in turn, and judged.

    python recipes/results/positives.py --registry REGISTRY --dataset DATA --own FOLDER... [--positives FOLDER...] --out FILE

The live adapter stays as it is, only its first step is fitted anew: without positives of other sources, with all of them, and without each.
Beside the source's own flows (those of kinds that may be positive) stand the families' validation flows that are found, and harmless
flows of `--own`, a network that is in no background. No capture in a RESERVED.csv takes part.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.core.files import write_json
from trafficllm.core.types import F64, Silent
from trafficllm.core.umbrella import Umbrella
from trafficllm.infer.detector import TaskModel
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.lifecycle.adapters import umbrella
from trafficllm.lifecycle.adapters.background import POSITIVES
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.records.coverage import Coverage, kind_of
from trafficllm.records.dataset.dataset import Dataset, load
from trafficllm.records.sources.background import Background, packaged, read_background


@dataclass(frozen=True)
class Study:
    """One adapter, its data set, the package's background, what is left out in turn, and a network's harmless flows."""

    scorer: LLMScorer
    dataset: Dataset
    background: Background
    positives: Background
    own: Background

    @property
    def coverage(self) -> Coverage:
        """Which kinds are answered: what is left out takes no part in it."""
        return Coverage.of_data(self.dataset, self.background)

    def able(self, rows: Background) -> Background:
        """The flows of kinds that may be positive."""
        kinds = [kind_of(raw, meta.resp_h) for raw, meta in zip(rows.raw, rows.meta, strict=True)]
        return rows.rows([k for k, kind in enumerate(kinds) if self.coverage.may_be_positive(kind)])

    def fitted(self, positives: Background | None) -> Answers:
        """The first step with these positives."""
        background = replace(self.background, positive=positives if positives else None)
        made = umbrella.fit(self.scorer, self.dataset, background, self.coverage, rate=0.01, progress=Silent())
        assert made is not None
        return Answers(self, made)

    def without(self, source: str) -> Background:
        """All positives but those of one source."""
        return self.positives.where(lambda file: file.source != source)


@dataclass(frozen=True)
class Answers:
    """A fitted first step's answers."""

    study: Study
    step: umbrella.Fitted

    def shares(self, rows: Background) -> dict[str, Any]:
        """Flows of kinds that may be positive: how many they and all flows are, and the shares of them called positive and unknown."""
        some = self.study.able(rows)
        cut = Umbrella.of({"umbrella": self.step.facts})
        assert cut is not None
        odds = self._odds([self.study.dataset.mask(record) for record in some.raw])
        found, between = odds > cut.flow.threshold, (odds > cut.flow.clear) & (odds <= cut.flow.threshold)
        return {"all": len(rows), "flows": len(odds), "positive": _mean(found), "unknown": _mean(between)}

    def known(self) -> float:
        """Share of the families' validation flows that is found."""
        data, scorer = self.study.dataset, self.study.scorer
        rows, y = scoring.rows(data, "val", scorer.labels)
        mine = [row for row, label in zip(rows, y, strict=True) if scorer.task.is_positive(label)]
        cut = Umbrella.of({"umbrella": self.step.facts})
        assert cut is not None
        able = np.array(umbrella.may_be_positive(data, mine, self.study.coverage))
        return _mean((self._odds(data.records(mine)) > cut.flow.threshold) & able)

    def _odds(self, records: list[Any]) -> F64:
        return umbrella.odds_of(self.study.scorer, self.step, records)

    def whole(self) -> dict[str, Any]:
        """What this step does to the families and to the harmless network."""
        return {"known_found": self.known(), "harmless": self.shares(self.study.own)}

    def of(self, source: str) -> dict[str, Any]:
        """What this step does to one source's flows."""
        return self.shares(self.study.positives.where(lambda file: file.source == source))


def _mean(flags: Any) -> float:
    return round(float(np.mean(flags)), 4) if len(flags) else 0.0


def opened(registry: str, task: str, dataset: Path, own: Sequence[Path], positives: Sequence[Path]) -> Study:
    """The live adapter of a registry, and all captures."""
    workspace, data = Workspace(registry=registry), load(dataset)
    scorer = TaskModel.of(workspace.engine, workspace.task(task), workspace.registry.live(task)).scorer
    assert isinstance(scorer, LLMScorer)
    shape = data.shape.capture
    return Study(
        scorer,
        data,
        read_background([packaged()], options=shape),
        read_background(positives or [packaged("malware")], options=shape, per_capture=POSITIVES),
        read_background(own, options=shape, per_source=600),
    )


def main() -> None:
    """A line a source."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--registry", required=True)
    parser.add_argument("--dataset", type=Path, required=True, help="the data set that the adapter was made from")
    parser.add_argument("--own", type=Path, nargs="+", required=True, help="folders of harmless captures of a network in no background")
    parser.add_argument("--positives", type=Path, nargs="*", default=[], help="instead of the package's")
    parser.add_argument("--task", default="MTD")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    study = opened(args.registry, args.task, args.dataset, args.own, args.positives)
    none, every = study.fitted(None), study.fitted(study.positives)
    body: dict[str, Any] = {"without": none.whole(), "with": every.whole()}
    print(body, flush=True)
    rows = {}
    for source in sorted(set(study.positives.sources)):
        rows[source] = {"without": none.of(source), "left_out": study.fitted(study.without(source)).of(source)}
        print(source, rows[source], flush=True)
    write_json(args.out, {"task": args.task, "own": [folder.name for folder in args.own], **body, "sources": rows})


if __name__ == "__main__":
    main()
