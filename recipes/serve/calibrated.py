"""How answers without a readout are calibrated: an adapter in process beside its label tree, which is what a server computes.

    python recipes/serve/calibrated.py MTD=runs/shipped/MTD/data EAC=runs/shipped/EAC/data [--registry REGISTRY] [--json FILE]

Each data set is the one that the task's live version has learnt; its test part is scored and nothing is fitted on it. Rows: the adapter's
own verdicts with its readout; the label tree uncalibrated; calibrated as `adapter export --for vllm` does it without `--data`, and with it.
That a server computes the same log-probabilities is what `check.py` shows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.core import metrics
from trafficllm.core.types import F64, Scores
from trafficllm.infer import calibration as cal
from trafficllm.infer.detector import TaskModel
from trafficllm.lifecycle.serving.export import answers_alone, tree_scores, without_states
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.records.dataset.dataset import load

COLUMNS = ("macro_f1", "ece", "unknown", "unknown_of_right", "unknown_of_wrong", "temperature")


def row(labels: tuple[str, ...], y: list[str], probabilities: F64, unknown: Any, temperature: float) -> dict[str, float]:
    """Figures of one way: macro-F1 and ECE of all test rows, and the shares called unknown of all, of the right and of the wrong ones."""
    right = probabilities.argmax(axis=1) == metrics.indices(labels, y)
    shares = [float(unknown[some].mean()) if some.any() else 0.0 for some in (np.ones_like(right), right, ~right)]
    predicted = [labels[k] for k in probabilities.argmax(axis=1)]
    figures = (metrics.macro_f1(labels, y, predicted), metrics.ece(probabilities, metrics.indices(labels, y)), *shares, temperature)
    return dict(zip(COLUMNS, (round(float(figure), 4) for figure in figures), strict=True))


def study(workspace: Workspace, task: str, path: Path) -> dict[str, Any]:
    """The four ways of one task."""
    version, dataset = workspace.registry.live(task), load(path)
    own = dict(version.manifest["calibration"])
    scorer = TaskModel.of(workspace.engine, workspace.task(task), version).scorer
    rows, y = scoring.rows(dataset, "test", scorer.labels)
    scores, tree = scoring.score_rows(scorer, dataset, rows), tree_scores(scorer, dataset, rows)

    def judged(params: dict[str, Any], by: Scores) -> dict[str, float]:
        calibrated = Scores(by.labels, cal.apply(params, by.logits), by.logits, by.hidden, by.pooled, by.readout)
        unknown = cal.unknown_score(params, calibrated) > cal.threshold(params)
        return row(scorer.labels, y, calibrated.probabilities, unknown, float(params.get("temperature", 1.0)))

    bare = Scores(tree.labels, tree.probabilities, tree.logits)  # a server gives no states
    ways = {
        "readout, in process": judged(own, scores),
        "label tree, uncalibrated": judged({}, bare),
        "label tree, the version's own temperature": judged(without_states(own), bare),
        "label tree, calibrated on validation captures": judged(answers_alone(scorer, dataset, own), bare),
    }
    captures = len(set(dataset.groups(rows)))
    validation = scoring.rows(dataset, "val", scorer.labels)[0]
    return {
        "test_flows": len(rows),
        "test_captures": captures,
        "validation_flows": len(validation),
        "validation_captures": len(set(dataset.groups(validation))),
        "ways": ways,
    }


def main() -> None:
    """Score, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", metavar="TASK=DATASET")
    parser.add_argument("--registry", default="")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    workspace = Workspace(registry=options.registry)
    pairs = [pair.partition("=") for pair in options.tasks]
    body = {task: study(workspace, task, Path(path)) for task, _, path in pairs}
    print(f"| task | answers | {' | '.join(COLUMNS)} |\n|---|---|{'--:|' * len(COLUMNS)}")
    for task, study_ in body.items():
        for way, figures in study_["ways"].items():
            print(f"| {task} | {way} | {' | '.join(f'{figures[key]:.3f}' for key in COLUMNS)} |")
    if options.json:
        command = "python recipes/serve/calibrated.py TASK=DATASET..."
        options.json.write_text(json.dumps({"command": command, "tasks": body}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
