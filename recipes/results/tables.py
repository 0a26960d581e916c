"""Reports of `evaluate run` -> one table: JSON, Markdown, and rows of the leaderboard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trafficllm.core.files import read_json
from trafficllm.evaluate.quality import validate

HONEST = ("majority", "artefact_probe", "knn", "lightgbm", "random_forest")
KEPT = (
    "macro_f1",
    "macro_f1_measurable",
    "accuracy",
    "ci95",
    "n_test",
    "n_test_unique",
    "unique",
    "groups",
    "not_measurable",
    "split",
    "mask",
    "leaky",
    "seen_by_base",
    "seeds",
    "per_seed",
    "ece",
    "brier",
)
ABOUT = """Written by `recipes/results/results.py`: macro-F1, means over seeds, 95 % intervals by bootstrap over groups. The same flows and
masks for all but the identifier column, which sees only what the masks hide. `packets`: a random forest on single packets, raw and split at
random as the literature does, against masked and split by group; on flows outside the reserved part. An interval of 0 to 1: the test part
is one group, which says nothing of how groups differ. `three members`: three seeds as one version, log-probabilities averaged and
calibrated together; with six seeds the mean of two such versions. `labels_90`: share of reserved flows whose label is among the likely ones
of that version (promised .9 for captures like those calibrated on), and how many labels it names on average (`errors.py`).
"""
_COST = ("params", "seconds", "flows_per_s", "share", "first_error", "setting")


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """A quality object without its tables, with its cost."""
    return {key: row[key] for key in (*KEPT, *_COST) if key in row}


def learning(adapter: Path) -> list[dict[str, float]]:
    """Looks at validation while an adapter learnt: step, seconds and score, from its metrics."""
    path = adapter / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return [{k: v for k, v in row.items() if isinstance(v, int | float)} for row in rows if any(k.startswith(("val", "eval")) for k in row)]


def row(report: Path, packets: Path, together: Path | None = None) -> dict[str, Any]:
    """One task's row, with the adapters as members of one version where there is such a report (`together`); ArtifactError for a report
    that hides what a score needs."""
    body = read_json(report)
    validate(body)
    beside = read_json(packets) if packets.is_file() else {"leaky": None, "honest": None}
    errors = report.with_name("errors.json")
    told = read_json(errors) if errors.is_file() else {"probes": {}, "labels_90": None}
    baselines = {name: _short(found) for name, found in body["baselines"].items()}
    best = max((name for name in HONEST if name in baselines), key=lambda name: baselines[name]["macro_f1"])
    gap = body["macro_f1"] - baselines[best]["macro_f1"]
    return {
        "llm": _short(body),
        "members": _members(together, baselines[best]["macro_f1"]),
        "labels_90": told["labels_90"],
        "cascade": _short(body["cascade"]) if body["cascade"] else None,
        "baselines": baselines,
        "probes": {name: _short(found) for name, found in (body["embedding"] or {"probes": {}})["probes"].items()} or told["probes"],
        "best_baseline": best,
        "gap": gap,
        "packets": beside,
        "cost": body["cost"],
        "part": body["part"],
        "made": body["made"],
        "base_sha256": body["base_sha256"],
        "dataset_sha256": body["dataset_sha256"],
        "artefact_masked": body["artefact_masked"],
        "classes": len(body["scored_labels"]),
        "learning": body["curves_of_learning"],
    }


def _members(report: Path | None, best: float) -> dict[str, Any] | None:
    """The score of versions of several members, which seeds they are of, and how far it lies above the best baseline; None without one."""
    if report is None or not report.is_file():
        return None
    body = read_json(report)
    validate(body)
    facts = {"members": body["members"], "gap": body["macro_f1"] - best, "cost": body["cost"], "made": body["made"]}
    return {**_short(body), **facts}


def table(rows: Mapping[str, Mapping[str, Any]], plan: Mapping[str, Any], *, part: str) -> dict[str, Any]:
    """All rows and what they say of the goal."""
    gaps = {task: row["gap"] for task, row in rows.items()}
    return {
        "schema": "trafficllm.results.table/1",
        "part": part,
        "tasks": dict(rows),
        "goal": {
            "within": plan["within"],
            "above_wanted": plan["above"],
            "tasks_wanted": len(plan["task"]),
            "within_reached": sorted(task for task, gap in gaps.items() if gap >= -plan["within"]),
            "above_reached": sorted(task for task, gap in gaps.items() if gap > 0),
            "members_above": sorted(task for task, row in rows.items() if row.get("members") and row["members"]["gap"] > 0),
            "missed": {task: round(gap, 4) for task, gap in gaps.items() if gap < -plan["within"]},
        },
    }


def _score(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "-"
    low, high = found["ci95"]
    return f"{found['macro_f1']:.3f} [{low:.3f}, {high:.3f}]"


def _plain(found: Mapping[str, Any] | None) -> str:
    return f"{found['macro_f1']:.3f}" if found else "-"


def _line(task: str, row: Mapping[str, Any]) -> list[str]:
    llm, cost = row["llm"], row["cost"]
    seeds = ", ".join(f"{value:.3f}" for value in llm["per_seed"])
    masked = " + ".join([llm["mask"], *row["artefact_masked"]])
    trees = (row["baselines"].get(name) for name in ("lightgbm", "random_forest", "knn", "artefact_probe", "majority", "identifier_probe"))
    return [
        task,
        f"{llm['n_test']:,} ({llm['n_test_unique']:,})",
        str(row["classes"]),
        llm["split"],
        masked,
        _score(llm),
        seeds,
        f"{_score(together)} ({together['gap']:+.3f})" if (together := row.get("members")) else "-",
        f"{sets['coverage']:.3f}, {sets['mean_size']:.1f}" if (sets := row.get("labels_90")) else "-",
        f"{llm['unique']['macro_f1']:.3f}",
        _plain(row["probes"].get("frozen_linear")),
        _score(row["cascade"]),
        *(_plain(found) for found in trees),
        f"{row['gap']:+.3f} ({row['best_baseline']})",
        f"{_plain(row['packets']['leaky'])} / {_plain(row['packets']['honest'])}",
        llm["seen_by_base"],
        f"{cost.get('train_seconds', 0):,.0f}",
        f"{cost['flows_per_second']:,.0f}",
        f"{max(cost['peak_bytes'], cost.get('train_peak_bytes', 0)) / 1e6:,.0f}",
    ]


HEAD = (
    "task",
    "flows (unique)",
    "classes",
    "split",
    "masks",
    "LLM alone [95 %]",
    "each seed",
    "three members [95 %] (above best baseline)",
    "`labels_90`: holds the label, labels named",
    "LLM, unique",
    "frozen base, linear probe",
    "cascade [95 %]",
    "LightGBM",
    "random forest",
    "k-NN",
    "one masked field",
    "majority",
    "identifiers only",
    "LLM above best baseline",
    "packets: leaky / honest",
    "seen by base",
    "training s a seed",
    "flows/s",
    "peak MB",
)


def markdown(body: Mapping[str, Any]) -> str:
    """The table as a page."""
    part = "the reserved part" if body["part"] == "test" else "VALIDATION (a trial, no result)"
    rows = [_line(task, row) for task, row in body["tasks"].items()]
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    goal = body["goal"]
    missed = ", ".join(f"{task} {gap:+.3f}" for task, gap in goal["missed"].items()) or "none"
    reached = len(goal["within_reached"]), len(goal["above_reached"])
    told = f"Within {goal['within']} of the best baseline: {reached[0]} of {goal['tasks_wanted']} tasks (wanted: all); above it: "
    told += f"{reached[1]} (wanted: {goal['above_wanted']}). Missed: {missed}."
    cells = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n".join([f"# The honest table, on {part}\n", ABOUT, *cells, f"\n{told}\n"])


def enter(path: Path, body: Mapping[str, Any]) -> None:
    """Append a row for each task's scoring that the leaderboard does not have yet (by commit and data)."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for task, row in body["tasks"].items():
        llm, made, found = row["llm"], row["made"], row["baselines"]
        data = f"{task}, {row['classes']} labels, {llm['n_test']:,} reserved flows"
        cells = [
            made["date"],
            made["commit"],
            data,
            f"{llm['split']}, {' + '.join([llm['mask'], *row['artefact_masked']])}",
            _score(llm),
            f"{llm['unique']['macro_f1']:.3f}",
            *(_plain(found.get(name)) for name in ("lightgbm", "random_forest", "knn", "artefact_probe", "identifier_probe")),
            str(len(llm["seeds"])),
            f"{row['cost'].get('train_seconds', 0):.0f} s",
            f"{made['threads']} threads",
        ]
        line = "| " + " | ".join(cells) + " |"
        if f"| {made['commit']} | {data} |" not in text:
            before, last = _split(text)
            text = f"{before}{line}\n{last}"
    path.write_text(text, encoding="utf-8")


def _split(text: str) -> tuple[str, str]:
    """The text up to the end of its first table, and the rest."""
    lines = text.splitlines(keepends=True)
    ends = [k for k, line in enumerate(lines) if line.startswith("|") and not (k + 1 < len(lines) and lines[k + 1].startswith("|"))]
    at = ends[0] + 1 if ends else len(lines)
    return "".join(lines[:at]), "".join(lines[at:])
