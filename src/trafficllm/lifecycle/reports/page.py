"""Results -> one self-contained HTML file: no script, no outside fetch, captured names escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.escape import visible
from trafficllm.core.files import atomic_write
from trafficllm.core.results import Result
from trafficllm.evaluate.results import Baseline, Quality
from trafficllm.lifecycle.reports import plots

if TYPE_CHECKING:
    import jinja2

OURS = "LLM (this adapter)"
NAMES = {
    "majority": "most frequent class",
    "identifier_probe": "identifier probe (not a rival)",
    "artefact_probe": "artefact probe: one field alone",
    "knn": "k-nearest neighbours",
    "lightgbm": "LightGBM",
    "random_forest": "random forest",
    "lightgbm_all": "LightGBM, all fields",
    "lightgbm_headers": "LightGBM, headers",
    "lightgbm_payload": "LightGBM, payload",
    "frozen_knn": "frozen base: k-NN",
    "frozen_linear": "frozen base: linear probe",
    "cascade": "cascade: LightGBM first, this adapter for the rest",
}
"""Rows of tables by their keys, in words."""
APART = "identifier_probe"
"""The row that is no rival: it sees what the masks hide from the others."""
NO_RIVAL = "No rival: the identifier probe sees addresses, ports and names, which the masks hide from all others."
MACRO_F1 = (
    "Macro-F1: the mean over classes of F1 (harmonic mean of precision and recall); 1 is perfect, rare classes count like common ones."
)
"""The score in one line, on every report that shows it."""
STYLE = Path(__file__).with_name("templates") / "report.css"
"""The style that reports carry inside and the server's page loads."""


def escape_names(value: Any) -> Any:
    """Every string of a result made visible: control, bidi and zero-width characters become codes."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Result):
        escaped = {name: escape_names(item) for name, item in value.given().items()}
        return type(value).model_construct(value.model_fields_set, **escaped)
    if isinstance(value, Mapping):
        return {visible(str(key)): escape_names(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [escape_names(item) for item in value]
    return value


def environment() -> jinja2.Environment:
    """The pages' templates: everything is escaped, and a name that is not given is an error."""
    import jinja2

    folder = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    return jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined)


def in_words(name: str) -> str:
    """A row's name for people; names that are none of the baselines' keys stay."""
    return NAMES.get(name, name)


def _row(name: str, quality: Quality) -> dict[str, Any]:
    low, high = quality.ci95
    return {
        "name": in_words(name),
        "ours": name == OURS,
        "apart": name == APART,
        "macro_f1": quality.macro_f1,
        "accuracy": quality.accuracy,
        "interval": f"{low:.3f} to {high:.3f}",
        "unique": f"{quality.unique.macro_f1:.3f}",
        "ci95": (low, high),
    }


def last_apart(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table's rows in their order, the one that is no rival last."""
    return sorted(rows, key=lambda row: bool(row["apart"]))


def verdict_of(quality: Quality, baselines: Mapping[str, Baseline]) -> str:
    """Where the score stands against the best honest baseline, on all flows and on unique contents."""
    honest = {name: row for name, row in baselines.items() if name != APART}
    if not honest:
        return ""
    unique = {name: row.unique.macro_f1 for name, row in honest.items()}
    every = {name: row.macro_f1 for name, row in honest.items()}
    return f"{_gap('All flows', quality.macro_f1, every)}; {_gap('unique contents', quality.unique.macro_f1, unique)}."


def _gap(what: str, ours: float, others: Mapping[str, float]) -> str:
    best = max(others, key=lambda name: others[name])
    gap = ours - others[best]
    return (
        f"{what}: {abs(gap):.3f} macro-F1 {'above' if gap > 0 else 'below'} the best baseline on the same masked input ({in_words(best)})"
    )


def _task_view(task: Mapping[str, Any]) -> dict[str, Any]:
    quality = Quality.model_validate(task["quality"])
    baselines = {name: Baseline.model_validate(row) for name, row in task["baselines"].items()}
    rows = last_apart([_row(OURS, quality), *(_row(name, row) for name, row in baselines.items())])
    return {
        **task,
        "rows": rows,
        "no_rival": NO_RIVAL,
        "verdict": verdict_of(quality, baselines),
        "not_measurable": quality.not_measurable,
        "bars": plots.score_bars([(row["name"], row["macro_f1"], row["ci95"]) for row in rows], highlight=OURS, apart=NAMES[APART]),
        "confusion": plots.confusion(task["labels"], quality.confusion.matrix),
    }


def _tiles(result: Mapping[str, Any]) -> list[dict[str, str]]:
    tiles = [
        {"name": f"macro-F1 on {task['task']}, reserved flows", "value": f"{task['quality']['macro_f1']:.3f}"} for task in result["tasks"]
    ]
    tiles.append({"name": "times fewer tokens a flow", "value": f"{result['tokens_per_flow']['ratio']:.2f}"})
    tiles.append({"name": "questions routed right", "value": f"{result['routing']['accuracy']:.3f}"})
    tiles.append({"name": "minutes", "value": f"{sum(result['seconds'].values()) / 60:.1f}"})
    return tiles


def write_report(result: Mapping[str, Any], path: Path, *, title: str, next_steps: Sequence[Mapping[str, str]]) -> Path:
    """Write the HTML report of a quickstart result (CONTRACTS.md keys) and return its path."""
    safe = escape_names(result)
    tokens = safe["tokens_per_flow"]
    html = (
        environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            macro_f1=MACRO_F1,
            tiles=_tiles(safe),
            tasks=[_task_view(task) for task in safe["tasks"]],
            tokens=tokens,
            tokens_plot=plots.bars({"plain tokenizer": tokens["plain"], "extended tokenizer": tokens["extended"]}, x="mean tokens a flow"),
            family=safe.get("family"),
            routing=safe["routing"],
            unseen=safe["unseen"],
            generated=safe["generated"],
            curves=plots.curves(safe["curves"], x="seconds", y="loss"),
            seconds_plot=plots.bars(safe["seconds"], x="seconds"),
            reused=safe["reused"],
            next_steps=next_steps,
        )
    )
    atomic_write(path, html)
    return path
