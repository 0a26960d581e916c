"""`evaluate generation`: generated captures against held-out real ones of the same classes, as numbers and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.studies import generation_sides as fidelity_sides
from trafficllm.lifecycle.studies.generation_sides import Side
from trafficllm.lifecycle.studies.results import CutShape, EvaluateGeneration, Validity

if TYPE_CHECKING:
    from trafficllm.evaluate.fidelity.results import ClassFidelity, LabelFidelity

PARTS = ("val", "test")


def evaluate(
    real: Path,
    synthetic: Path,
    *,
    train: Path | None = None,
    part: str = "test",
    captured: Path | None = None,
    labels: Sequence[str] = (),
    seed: int = 0,
    html: Path | None = None,
    progress: ProgressSink,
) -> EvaluateGeneration:
    """The fidelity report (contract: `evaluate generation`).

    `real` and `synthetic` are captures: one file, or a folder of one sub-folder a label; `real` may be a data set instead, of which
    `part` is compared and the training part is what was learnt from. `train`: the captures or the data set learnt from, where
    `real` does not say. Generated captures are cut as the real ones are, which are measured; those of a data set in `captured`,
    the folder it was built from. `labels`: only these. Raises UsageError for an unknown part, InputError for what cannot be compared.
    """
    from trafficllm.evaluate.fidelity.classes import of_classes
    from trafficllm.evaluate.fidelity.identifiers import overlap

    if part not in PARTS:
        raise UsageError("usage.part", f"no part '{part}' to compare with", input="--part", hint=f"one of {', '.join(PARTS)}")
    only = set(labels)
    files = fidelity_sides.labelled(synthetic, labels[0] if len(labels) == 1 else "")
    own = next(iter(files)) if len(files) == 1 else ""
    held, learnt, cuts = fidelity_sides.sides(real, train, part=part, captured=captured, label=own, progress=progress)
    wanted = {label: paths for label, paths in files.items() if not only or label in only}
    if not wanted:
        hint = f"labels are {', '.join(files)}"
        raise InputError("input.labels", f"no captures of {', '.join(sorted(only))}", input=str(synthetic), hint=hint)
    held, learnt = _only(held, wanted), _only(learnt, wanted)
    made = fidelity_sides.captures(wanted, cuts, progress)
    progress.update("comparing", 0, None)
    captures = (held.by_capture(), learnt.by_capture())
    fidelity = of_classes(held.shown(), made.shown(), learnt.shown(), captures=captures, seed=seed)
    result = EvaluateGeneration.of(
        fidelity,
        valid=_validity([path for paths in made.files.values() for path in paths]),
        overlap=overlap(learnt.all(), made.all()),
        cuts={label: CutShape(**asdict(cuts[label])) for label in sorted(set(cuts) & set(fidelity.labels))},
        part=part,
        seed=seed,
    )
    if html is not None:
        write_page(result, html)
    return result


def _only(side: Side, labels: Mapping[str, object]) -> Side:
    return Side({label: rows for label, rows in side.rows.items() if label in labels}, side.files)


def _validity(paths: Sequence[Path]) -> Validity:
    from trafficllm.capture.check.captures import check

    report = check(list(paths))
    return Validity(
        valid=bool(report.valid),
        packets=report.packets,
        malformed=sum(report.malformed.values()),
        bad_checksums=report.bad_checksums,
        bad_lengths=report.bad_lengths,
        tcp_violations=len(report.tcp_violations),
    )


def table(result: ClassFidelity) -> list[list[Any]]:
    """A row a label and one for the mean: JSD, floor, their ratio, both floors of captures, the baselines' JSD, discriminator, copies."""
    rows = [[label, *_cells(row)] for label, row in result.labels.items()]
    return rows if len(rows) == 1 else [*rows, ["mean", *_cells(result)]]


COLUMNS = (
    "label",
    "real",
    "synthetic",
    "JSD",
    "floor",
    "ratio",
    "within a capture",
    "between captures",
    "generated to a capture",
    "independent",
    "bayes",
    "resample",
    "discriminator",
    "of real",
    "copies",
    "of real",
)


def _cells(row: LabelFidelity) -> list[Any]:
    ratio = row.mean_jsd / row.mean_floor if row.mean_floor else float("nan")
    return [
        row.n.real,
        row.n.synthetic,
        row.mean_jsd,
        row.mean_floor,
        ratio,
        row.floors.within if row.floors else None,
        row.floors.between if row.floors else None,
        row.floors.generated if row.floors else None,
        row.mean.independent,
        row.mean.bayes,
        row.mean.resample,
        row.discriminator_f1,
        row.discriminator_real,
        row.copies.synthetic,
        row.copies.real,
    ]


def write_page(result: EvaluateGeneration, path: Path) -> Path:
    """Write the report as one self-contained HTML file: no script, no outside fetch, labels escaped."""
    from trafficllm.core.files import atomic_write
    from trafficllm.lifecycle.reports.page import environment, escape_names

    template = environment().get_template("fidelity.html.j2")
    atomic_write(path, template.render(body=escape_names(result), columns=COLUMNS, rows=escape_names(table(result))))
    return path
