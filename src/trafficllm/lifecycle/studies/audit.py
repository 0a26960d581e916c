"""`data check` and `data audit` of a data set, or of the labelled captures that one would be built from; the audit as a page."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trafficllm.core.errors import UsageError
from trafficllm.lifecycle.datasets import is_data_set
from trafficllm.records.results import DataCheck, DataFinding

if TYPE_CHECKING:
    from trafficllm.core.types import ProgressSink
    from trafficllm.evaluate.audit.results import DataAudit
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import BuildOptions

_FIELDS_SHOWN = 30
_STATES = {True: "kept from the model", False: "open to the model"}


def check(folder: Path, task: Task, *, options: BuildOptions | None = None) -> DataCheck:
    """What is wrong with labelled captures, or with a data set built from them: `ready` when nothing stands in the way.

    `options`: how flows of captures are cut and shown, as for `data build`.
    """
    from trafficllm.records.lint import check_data

    shape = options.shape() if options is not None else None
    return _check_data_set(folder) if is_data_set(folder) else check_data(folder, task=task, shape=shape)


def _check_data_set(folder: Path) -> DataCheck:
    """Hash and codec (an ArtifactError), shared groups and contents, classes that cannot be learnt or measured."""
    from trafficllm.records.dataset.dataset import PARTS, load

    opened = load(folder)
    rows = {part: opened.indices(part) for part in PARTS}
    findings = [_finding("leaky", reason, "loosened when it was built") for reason in opened.manifest["leaky"]]
    for kind, of in (("shared_group", opened.groups), ("shared_content", opened.hashes)):
        values = {part: set(of(rows[part])) for part in PARTS}
        shared = sum(len(values[a] & values[b]) for a, b in (("train", "val"), ("train", "test"), ("val", "test")))
        if shared:
            findings.append(_finding(kind, "parts", f"{shared} lie in more than one part", level="error"))
    for label, counts in sorted(opened.manifest["classes"].items()):
        for part, why in (("train", "cannot be learnt"), ("test", "cannot be measured")):
            if not counts[part]:
                findings.append(_finding("label_small", label, f"no {part} records: it {why}"))
    classes = opened.manifest["classes"]
    return DataCheck(
        ready=all(row.level != "error" for row in findings),
        findings=findings,
        classes=classes,
        duplicates=opened.manifest["duplicates"],
        samples=[],
        parts={p: len(rows[p]) for p in PARTS},
    )


def _finding(kind: str, where: str, message: str, *, level: Literal["error", "warning"] = "warning") -> DataFinding:
    return DataFinding(kind=kind, level=level, where=where, message=message)


def audit(
    data: Path,
    task: Task,
    *,
    captures: Path | None = None,
    judged: str = "auto",
    options: BuildOptions | None = None,
    seed: int = 0,
    budget_s: float = 20.0,
    html: Path | None = None,
    progress: ProgressSink,
) -> DataAudit:
    """Shortcuts in a data set (contract: `data audit`), or in a folder of labelled captures, which is built as `options` say and
    thrown away."""
    from trafficllm.evaluate.audit.report import audit as audit_data_set
    from trafficllm.records.dataset.dataset import BuildOptions, build_dataset, load

    if judged not in {"auto", "test", "rest"}:
        raise UsageError("usage.part", f"no part '{judged}' to judge", input="--judged", hint="auto, test or rest")

    def judge(folder: Path) -> DataAudit:
        progress.update("auditing", 0, None)
        return audit_data_set(load(folder), captures=captures, judged=judged, seed=seed, budget_s=budget_s)

    if is_data_set(data):
        result = judge(data)
    else:
        with tempfile.TemporaryDirectory(prefix="trafficllm-audit-") as place:
            build_dataset(data, task=task, out=Path(place) / "data", options=options or BuildOptions(seed=seed), progress=progress)
            result = judge(Path(place) / "data")
    if html is not None:
        write_page(result, html, title=f"Audit of {data.resolve().name}")
    return result


def _baseline_rows(result: DataAudit) -> list[dict[str, Any]]:
    from trafficllm.lifecycle.reports.page import APART, in_words, last_apart

    rows = []
    for key, row in result.baselines.items():
        params = row.params or {}
        best = key.startswith("lightgbm_") and row == result.baselines.get("lightgbm")
        if key != "lightgbm":
            name = f"{in_words(key)} (best by validation)" if best else in_words(key)
            what = str(params.get("features") or params.get("field") or "").replace("_", " ")
            rows.append({"name": name, "apart": key == APART, "what": what, **row.given()})
    return last_apart(rows)


def write_page(result: DataAudit, path: Path, *, title: str) -> Path:
    """Write the audit as one self-contained HTML file: no script, no outside fetch, captured names escaped."""
    from trafficllm.core.files import atomic_write
    from trafficllm.evaluate.audit.words import finding_line
    from trafficllm.lifecycle.reports import plots
    from trafficllm.lifecycle.reports.page import APART, MACRO_F1, NAMES, NO_RIVAL, environment, escape_names

    safe: DataAudit = escape_names(result)
    rows = _baseline_rows(safe)
    html = (
        environment()
        .get_template("audit.html.j2")
        .render(
            title=escape_names(title),
            audit=safe,
            rows=rows,
            macro_f1=MACRO_F1,
            no_rival=NO_RIVAL,
            fields=safe.fields[:_FIELDS_SHOWN],
            states=_STATES,
            lines={f.kind: finding_line(f) for f in safe.findings},
            sentences=[part if part.endswith(".") else f"{part}." for part in safe.verdict.split(". ")],
            bars=plots.score_bars([(row["name"], row["macro_f1"], tuple(row["ci95"])) for row in rows], highlight="", apart=NAMES[APART]),
        )
    )
    atomic_write(path, html)
    return path
