"""How many harmless captures of one's own network bring the false alarms down: 0, 5, 20, 100 of them as background beside the package's.

    python recipes/results/own_captures.py --registry REGISTRY --dataset DATA --own ../shared/data/EVD_iscxvpn2016/Chat --out FILE

The live adapter of the task stays as it is, only its first step is fitted anew, as `adapter update --background` does. Captures of `--own`
are parted by name: every second one may be learnt, the others are judged. No capture in a RESERVED.csv takes part.
`--without` leaves sources of the package's background away, so that two runs say what these sources are worth.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.core.files import write_json
from trafficllm.core.settings import Config
from trafficllm.core.types import Silent
from trafficllm.core.umbrella import Umbrella
from trafficllm.infer.detector import TaskModel
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.lifecycle.adapters import umbrella
from trafficllm.lifecycle.adapters.background import chosen, read_for
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.records.coverage import Coverage, kind_of
from trafficllm.records.dataset.dataset import Dataset, load
from trafficllm.records.sources.background import Background, read_background

COUNTS = (0, 5, 20, 100)


def own_flows(folders: list[Path], dataset: Dataset) -> tuple[list[str], Background]:
    """Capture names, and the flows of all of them as one source."""
    read = read_background(folders, options=dataset.shape.capture, per_source=100_000, per_capture=60)
    return sorted(file.name for file in read.files), read


def judged(scorer: LLMScorer, fitted: umbrella.Fitted, dataset: Dataset, rows: Background, coverage: Coverage) -> dict[str, Any]:
    """Shares of flows called positive and unknown (or not covered), and of captures with any positive flow."""
    step = Umbrella.of({"umbrella": fitted.facts})
    own = scorer.engine.readout(scorer.adapter, scorer.labels)
    assert step is not None
    assert own is not None
    odds = umbrella.odds_of(scorer, fitted, [dataset.mask(record) for record in rows.raw])
    kinds = [kind_of(raw, meta.resp_h) for raw, meta in zip(rows.raw, rows.meta, strict=True)]
    above = odds > step.flow.threshold
    positive = above & np.array([coverage.may_be_positive(kind) for kind in kinds])
    covered = np.array([coverage.covers_kind(kind) for kind in kinds])
    captures = {meta.capture for meta in rows.meta}
    flagged = {meta.capture for meta, hit in zip(rows.meta, positive, strict=True) if hit}
    unknown = ((odds > step.flow.clear) & ~positive) | ~covered
    return {
        "flows": len(odds),
        "captures": len(captures),
        "flagged": round(float(positive.mean()), 4),
        "unknown": round(float(unknown.mean()), 4),
        "captures_flagged": round(len(flagged) / len(captures), 4),
    }


def recall(scorer: LLMScorer, fitted: umbrella.Fitted, dataset: Dataset, coverage: Coverage) -> float:
    """Share of the data set's positive test flows that are called positive."""
    test, y = scoring.rows(dataset, "test", scorer.labels)
    step = Umbrella.of({"umbrella": fitted.facts})
    assert step is not None
    odds = umbrella.odds_of(scorer, fitted, dataset.records(test))
    side = np.array([bool(scorer.task.is_positive(label)) for label in y])
    able = np.array(umbrella.may_be_positive(dataset, test, coverage))
    return round(float(((odds > step.flow.threshold) & able)[side].mean()), 4)


def main() -> None:
    """Fit the first step with more and more captures of one's own, and judge the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--registry", required=True)
    parser.add_argument("--dataset", type=Path, required=True, help="the data set that the adapter was made from")
    parser.add_argument("--own", type=Path, nargs="+", required=True, help="folders of harmless captures of one network")
    parser.add_argument("--task", default="MTD")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--without", nargs="*", default=[], help="sources of the package's background that take no part")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    workspace, dataset = Workspace(registry=args.registry), load(args.dataset)
    model = TaskModel.of(workspace.engine, workspace.task(args.task), workspace.registry.live(args.task))
    scorer = model.scorer
    assert isinstance(scorer, LLMScorer)
    names, own = own_flows(args.own, dataset)
    learnable, rest = set(names[::2]), set(names[1::2])
    others = own.where(lambda file: file.name in rest)
    read = read_for(dataset, (), chosen(workspace.task(args.task), Config(), None), progress=Silent())
    assert read is not None
    base = read.where(lambda file: file.source not in args.without)
    rows = []
    for count in args.counts:
        taken = set(sorted(learnable)[:count])
        mine = own.where(lambda file, taken=taken: file.name in taken)  # type: ignore[misc]
        beside = base.plus(mine) if count else base
        coverage = Coverage.of_data(dataset, beside)
        fitted = umbrella.fit(scorer, dataset, beside, coverage, rate=0.01, progress=Silent())
        assert fitted is not None
        row = {"own_captures": len(taken), "own_flows": len(mine), **judged(scorer, fitted, dataset, others, coverage)}
        rows.append(row | {"known_found": recall(scorer, fitted, dataset, coverage)})
        print(rows[-1], flush=True)
    write_json(args.out, {"task": args.task, "own": [folder.name for folder in args.own], "without": args.without, "rows": rows})


if __name__ == "__main__":
    main()
