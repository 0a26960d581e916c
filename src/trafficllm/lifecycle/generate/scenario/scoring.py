"""An exercise solved by an adapter: how many of its answers the live adapter of a task finds."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.lifecycle.generate.scenario.results import ScenarioScore

if TYPE_CHECKING:
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.analysis import Analysis
    from trafficllm.lifecycle.workspace import Workspace


def score(workspace: Workspace, folder: Path, task: str) -> ScenarioScore:
    """Verdicts of `analyze` on the scenario in `folder`, compared with its answers.

    A flow of an event is found where the verdict names its label, or where its label is none of the task's and the verdict raises an
    event; a flow of everyday traffic that raises one is a false alarm. Raises ArtifactError where no adapter of the task is live.
    """
    from trafficllm.lifecycle.analyze.verdicts import start

    with (folder / "labels.csv").open(encoding="utf-8", newline="") as stream:
        labels = {row["community_id"]: (row["label"], row["event"]) for row in csv.DictReader(stream)}
    analysis = start(workspace, [folder / "capture.pcapng"], task=task)
    judged, found, asked, alarms, everyday = 0, Counter[str](), Counter[str](), 0, 0
    for batch in analysis.batches:
        for row in batch:
            if row["community_id"] not in labels:
                continue
            label, event = labels[row["community_id"]]
            judged += 1
            if event:
                asked[event] += 1
                found[event] += _found(analysis, row, label)
            else:
                everyday += 1
                alarms += analysis.severity(row) == 1
    live = workspace.registry.live(analysis.tasks[0])
    return ScenarioScore(
        task=live.task,
        version=live.version,
        flows=judged,
        correct=sum(found.values()) / max(sum(asked.values()), 1),
        events={event: found[event] / count for event, count in sorted(asked.items())},
        false_alarms=alarms,
        background=everyday,
    )


def _found(analysis: Analysis, row: VerdictRow, label: str) -> bool:
    return label in analysis.names(row) if label in analysis.labels else analysis.severity(row) == 1
