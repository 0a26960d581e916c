"""The report of `evaluate run` as one self-contained HTML file: no script, no outside fetch, captured names escaped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.files import atomic_write
from trafficllm.lifecycle.reports import plots
from trafficllm.lifecycle.reports.page import (
    APART,
    MACRO_F1,
    NAMES,
    NO_RIVAL,
    OURS,
    environment,
    escape_names,
    in_words,
    last_apart,
    verdict_of,
)

if TYPE_CHECKING:
    from trafficllm.evaluate.results import Quality
    from trafficllm.lifecycle.studies.results import EvaluateRun

_NOT_DRAWN = {"majority", APART, "artefact_probe"}
"""Rows that the curves leave out: they would hide the others."""
_CHOICES = ("features", "field", "k", "trees", "num_leaves")


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _choice(key: str, value: Any) -> str:
    return str(value).replace("_", " ") if key in {"features", "field"} else f"{key.replace('_', ' ')} {value}"


def _row(name: str, row: Quality, *, seconds: float | None, speed: float | None, choice: str = "") -> dict[str, Any]:
    low, high = row.ci95
    return {
        "name": in_words(name),
        "ours": name == OURS,
        "apart": name == APART,
        "macro_f1": _three(row.macro_f1),
        "interval": f"{low:.3f} to {high:.3f}",
        "unique": _three(row.unique.macro_f1),
        "measurable": _three(row.macro_f1_measurable),
        "accuracy": _three(row.accuracy),
        "ece": _three(row.ece),
        "brier": _three(row.brier),
        "seconds": "" if seconds is None else f"{seconds:,.1f}",
        "speed": "" if speed is None else f"{speed:,.0f}",
        "choice": choice,
        "value": row.macro_f1,
        "ci95": (low, high),
    }


def rows_of(result: EvaluateRun) -> list[dict[str, Any]]:
    """The lines of the table: the adapter, probes on the frozen base, the baselines."""
    cost = result.cost
    out = [_row(OURS, result, seconds=cost.get("train_seconds"), speed=cost["flows_per_second"])]
    probes = result.embedding.probes if result.embedding else {}
    out += [_row(name, row, seconds=None, speed=None, choice=f"setting {row.setting:g}") for name, row in probes.items()]
    for name, row in result.baselines.items():
        choice = ", ".join(_choice(key, row.params[key]) for key in _CHOICES if key in row.params)
        out.append(_row(name, row, seconds=row.seconds, speed=row.flows_per_s, choice=choice))
    if joint := result.cascade:
        choice = f"{in_words(joint.first)} answers {joint.share:.0%}, {joint.first_error:.1%} of them wrong"
        out.append(_row("cascade", joint, seconds=None, speed=joint.flows_per_s, choice=choice))
    return last_apart(out)


def _tiles(result: EvaluateRun) -> list[dict[str, str]]:
    low, high = result.ci95
    cost = result.cost
    tiles = [
        {"name": f"macro-F1, 95 % {low:.3f} to {high:.3f}", "value": _three(result.macro_f1)},
        {"name": "macro-F1 on unique contents", "value": _three(result.unique.macro_f1)},
        {"name": "flows a second", "value": f"{cost['flows_per_second']:,.0f}"},
        {"name": "MB, most memory held", "value": f"{max(cost['peak_bytes'], cost.get('train_peak_bytes', 0)) / 1e6:,.0f}"},
    ]
    if "train_seconds" in cost:
        tiles.insert(2, {"name": f"seconds of training, {cost['train_steps']:,.0f} steps", "value": f"{cost['train_seconds']:,.0f}"})
    return tiles


def write_page(result: EvaluateRun, path: Path) -> Path:
    """Write the report and return its path."""
    safe: EvaluateRun = escape_names(result)
    rows = rows_of(safe)
    named = {OURS if name == "adapter" else name: row for name, row in safe.curves.items() if name not in _NOT_DRAWN}
    vectors = safe.embedding
    html = (
        environment()
        .get_template("evaluation.html.j2")
        .render(
            title=f"{safe.task}: {safe.title}",
            q=safe,
            macro_f1=MACRO_F1,
            no_rival=NO_RIVAL,
            rows=rows,
            tiles=_tiles(safe),
            verdict=verdict_of(safe, safe.baselines),
            bars=plots.score_bars([(row["name"], row["value"], row["ci95"]) for row in rows], highlight=OURS, apart=NAMES[APART]),
            reliability=plots.reliability({n: row.reliability for n, row in named.items()}, highlight=OURS),
            risk=plots.risk({n: row.risk_coverage for n, row in named.items()}, highlight=OURS),
            map=plots.scatter(vectors.map.points, vectors.map.labels) if vectors else "",
            confusion=plots.confusion(safe.confusion.labels[:-1], safe.confusion.matrix),
        )
    )
    atomic_write(path, html)
    return path
