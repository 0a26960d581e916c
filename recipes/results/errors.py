"""Where the errors of the honest table lie: classes, what they are taken for, captures; and how often `labels_90` holds the label.

    python recipes/results/errors.py --runs runs/results --json docs/results/errors.json [--embedding]

The versions of three members that `results.py` made are scored on reserved flows once more, and nothing is fitted. A task's answer is kept
beside its reports (`errors.json`), where the table finds `labels_90`; with `--embedding` also the probes on the frozen base.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.files import read_json, write_json
from trafficllm.core.types import Scores, Silent

if TYPE_CHECKING:
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.records.dataset.dataset import Dataset

PROBED = ("macro_f1", "ci95", "setting")
CLASSES, CAPTURES, LEAST = 6, 8, 5
"""Worst classes and captures that are named; flows of a capture that is."""


def scored(place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer of `evaluate run` on reserved flows for a version's folder, without baselines, and what calling flows unknown is worth:
    every flow is scored once for both."""
    from trafficllm.lifecycle.studies.evaluation_set import EvalOptions
    from trafficllm.lifecycle.studies.run import evaluate
    from trafficllm.lifecycle.studies.scoring import score_rows
    from trafficllm.lifecycle.workspace import Workspace

    worth: dict[str, Any] = {}

    def scoring(scorer: LLMScorer, dataset: Dataset, rows: Sequence[int]) -> Scores:
        scores = score_rows(scorer, dataset, rows)
        worth.update(answered(scores, dataset.labels_of(rows), scorer.calibration))
        return scores

    body = evaluate(
        Workspace(),
        [place.parent.parent / "data"],
        adapters=[place],
        baselines=False,
        options=EvalOptions(part="test"),
        progress=Silent(),
        score=scoring,
    )
    return body.as_dict(), worth


def probed(place: Path) -> dict[str, Any]:
    """Scores of the probes on the frozen base for the same reserved flows."""
    from trafficllm.lifecycle.studies.embed import beside
    from trafficllm.lifecycle.studies.evaluation_set import EvalOptions, EvaluationSet
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.dataset.dataset import load

    workspace = Workspace()
    rows = EvaluationSet.of([load(place.parent.parent / "data")], EvalOptions(part="test"))
    answer = beside(workspace, rows, seen=rows.seen(workspace.served), seed=0).as_dict()
    return {name: {key: row[key] for key in PROBED} for name, row in answer["probes"].items()}


def answered(scores: Scores, truth: Sequence[str], fitted: Mapping[str, Any]) -> dict[str, Any]:
    """What calling flows unknown is worth: accuracy of all flows and of those that are answered, and how many wrong ones are not."""
    from trafficllm.infer import calibration

    right = [scores.labels[k] == own for k, own in zip(scores.probabilities.argmax(axis=1), truth, strict=True)]
    unknown = (calibration.unknown_score(fitted, scores) > calibration.threshold(fitted)).tolist()
    told = [good for good, strange in zip(right, unknown, strict=True) if not strange]
    return {
        "accuracy": sum(right) / len(right),
        "accuracy_of_answered": sum(told) / max(len(told), 1),
        "wrong": len(right) - sum(right),
        "wrong_called_unknown": sum(strange and not good for good, strange in zip(right, unknown, strict=True)),
    }


def classes(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The classes with the lowest F1 among those that can be measured, and what most of their missed flows are taken for."""
    truth, said, groups = body["answers"]["truth"], body["answers"]["runs"][0], body["answers"]["groups"]
    rows = []
    for label, score in body["per_class"].items():
        mine = [k for k, own in enumerate(truth) if own == label]
        if not mine:
            continue
        wrong = Counter(said[k] for k in mine if said[k] != label)
        taken = {name: round(count / len(mine), 3) for name, count in wrong.most_common(2)}
        f1, recall = round(score["f1"], 3), round(score["recall"], 3)
        captures = len({groups[k] for k in mine})
        rows.append({"label": label, "f1": f1, "recall": recall, "flows": len(mine), "captures": captures, "taken_for": taken})
    return sorted(rows, key=lambda row: row["f1"])[:CLASSES]


def captures(body: Mapping[str, Any]) -> dict[str, Any]:
    """Captures with the most wrong flows, and what share of all wrong flows they hold."""
    truth, said, groups = body["answers"]["truth"], body["answers"]["runs"][0], body["answers"]["groups"]
    flows, wrong = Counter(groups), Counter(group for group, own, given in zip(groups, truth, said, strict=True) if own != given)
    worst = [(group, count) for group, count in wrong.most_common() if flows[group] >= LEAST][:CAPTURES]
    labels = {
        group: Counter(own for own, where in zip(truth, groups, strict=True) if where == group).most_common(1)[0][0] for group, _ in worst
    }
    rows = [{"capture": Path(group).name, "label": labels[group], "flows": flows[group], "wrong": count} for group, count in worst]
    total = sum(wrong.values())
    return {
        "wrong": total,
        "captures": len(flows),
        "share_in_worst_three": sum(row["wrong"] for row in rows[:3]) / max(total, 1),
        "worst": rows,
    }


def summary(body: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a task's answer."""
    kept = ("macro_f1", "ece", "n_test", "groups", "labels_90", "base_sha256", "dataset_sha256")
    return {
        **{key: body[key] for key in kept},
        "called_unknown": body["cost"]["unknown_share"],
        "classes": classes(body),
        "captures": captures(body),
        "probes": {},
    }


def main(words: Sequence[str] | None = None) -> int:
    """Every task of the runs that has a version of members; what is there is not made again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="the --out of results.py")
    parser.add_argument("--tasks", nargs="+", default=["MTD", "EAC", "MDD", "EVD", "WAD", "WF"])
    parser.add_argument("--embedding", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(words)
    rows = {}
    for task in asked.tasks:
        for place in sorted((asked.runs / task).glob("test-*/together0")):
            path = place.parent / "errors.json"
            if not path.is_file() or "answered" not in read_json(path):
                body, worth = scored(place)
                write_json(path, {**summary(body), "answered": worth})
            rows[task] = read_json(path)
            if asked.embedding and not rows[task]["probes"]:
                rows[task]["probes"] = probed(place)
                write_json(path, rows[task])
            print(task, rows[task]["macro_f1"], rows[task]["labels_90"], file=sys.stderr, flush=True)
            if asked.json:
                write_json(asked.json, {"command": "python recipes/results/errors.py --runs RUNS", "tasks": rows})
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
