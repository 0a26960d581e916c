"""Pages of `evaluate robust`, `transfer`, `drift` and `compare`: self-contained HTML, no script, captured names escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import atomic_write, read_json
from trafficllm.lifecycle.reports import plots
from trafficllm.lifecycle.reports.page import MACRO_F1, environment, escape_names, in_words

if TYPE_CHECKING:
    from trafficllm.evaluate.results import EvaluateCompare, JudgedReport, Quality
    from trafficllm.lifecycle.studies.results import Evaluated, EvaluateDrift, EvaluateRobust, EvaluateTransfer


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with a plot, a table and a note, each of which may be empty."""

    heading: str
    svg: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    note: str = ""


def page(
    path: Path, *, title: str, about: str, leaky: Sequence[str] = (), tiles: Sequence[tuple[str, str]], sections: Sequence[Section]
) -> Path:
    """Write a page of sections and return its path; texts are escaped here, plots are ours."""
    shown = [{**escape_names({**asdict(part), "svg": ""}), "svg": part.svg} for part in sections]
    words = {"title": escape_names(title), "about": escape_names(about), "leaky": escape_names(leaky), "tiles": escape_names(tiles)}
    defined = MACRO_F1 if "macro-f1" in str(shown).lower() else ""
    html = environment().get_template("sections.html.j2").render(**words, sections=shown, macro_f1=defined)
    atomic_write(path, html)
    return path


def _three(value: float | None, *, sign: bool = False) -> str:
    return "-" if value is None else f"{value:+.3f}" if sign else f"{value:.3f}"


def _span(pair: Sequence[float]) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}"


def about(result: Evaluated) -> str:
    """What a score was measured on, in a sentence."""
    return (
        f"{result.n_test} flows ({result.n_test_unique} unique masked contents) in {result.groups} groups of the {result.part} part, "
        f"split by {result.split}, mask {result.mask}, flows the base has seen: {result.seen_by_base}."
    )


def robust_page(result: EvaluateRobust, path: Path) -> Path:
    """The page of `evaluate robust`."""
    names = list(result.mean_loss)
    rows = result.perturbations
    head = ["shift", "on", "flows changed", "lost", *(cell for n in names for cell in (f"{in_words(n)} macro-F1", "95 %", "change"))]
    cells = [
        [
            row.name,
            row.level,
            f"{row.changed:.0%}",
            row.lost,
            *(cell for n in names for cell in (_three(row.macro_f1[n]), _span(row.ci95[n]), _three(row.delta[n], sign=True))),
        ]
        for row in rows
    ]
    ratio = result.goal.ratio
    tiles = [(f"mean loss, {in_words(n)}", _three(result.mean_loss[n])) for n in names]
    tiles += [("loss against LightGBM's, at most 0.5 wanted", "-" if ratio is None else f"{ratio:.2f}")]
    tiles += [("forge test, change of macro-F1", _three(result.forge.delta, sign=True))]
    note = "On the wire: packets are changed, written and read again by the real reader; flows are those of the outermost packets. "
    note += "read_again changes nothing and is not in the mean. Lost flows count as wrong."
    bars = plots.grouped({row.name: {n: row.macro_f1[n] for n in names} for row in rows}, x="macro-F1")
    return page(
        path,
        title=f"{result.task}: under shifts",
        about=about(result),
        leaky=result.leaky,
        tiles=tiles,
        sections=[Section("Macro-F1 under each shift", bars, head, cells, note)],
    )


def transfer_page(result: EvaluateTransfer, path: Path) -> Path:
    """The page of `evaluate transfer`."""
    rows = result.shots
    names = list(rows[-1].rows)
    lines = {n: [(row.shots, row.rows[n].macro_f1) for row in rows] for n in names}
    bands = {n: [row.rows[n].ci95 for row in rows] for n in names[:1]}
    head = ["learnt by", *(f"{row.shots} a class" for row in rows)]
    cells = [[in_words(n), *(f"{_three(row.rows[n].macro_f1)} ({_span(row.rows[n].ci95)})" for row in rows)] for n in names]
    sections = [
        Section(
            "Few shots",
            plots.lines(lines, x="flows a class", y="macro-F1", highlight=names[0], bands=bands),
            head,
            cells,
            "Means over draws of unlike flows from the training part, the same for all; the interval resamples groups. "
            "frozen: probes on the base's vectors; adapter: on the states of the source's adapter; tuned: an adapter learnt on the shots.",
        )
    ]
    if result.direct:
        table = [["adapter", _three(result.macro_f1), _span(result.ci95)]]
        table += [[n, _three(row.macro_f1), _span(row.ci95)] for n, row in result.baselines.items()]
        note = "Both learnt from the training part of this very data set." if result.same_data else f"Learnt on {result.source} alone."
        sections.insert(0, Section("As they are", "", ["", "macro-F1", "95 %"], table, note))
    tiles = [("macro-F1", _three(result.macro_f1)), ("best of ours above LightGBM at 20 a class", _three(result.gain_at_20, sign=True))]
    title = f"{result.source} to {result.task}"
    return page(path, title=title, about=about(result), leaky=result.leaky, tiles=tiles, sections=sections)


def when(ns: int | None) -> str:
    """A time in ns as an ISO date, "" for none."""
    import datetime

    return "" if ns is None else datetime.datetime.fromtimestamp(ns / 1e9, tz=datetime.UTC).isoformat(timespec="seconds")


def _scored(row: Quality) -> list[str]:
    return [_three(row.macro_f1), _span(row.ci95)]


def drift_marks(result: EvaluateDrift) -> list[str]:
    """Leaky marks of either side."""
    return sorted({*result.leaky, *(result.live.leaky if result.live else ())})


def drift_page(result: EvaluateDrift, path: Path) -> Path:
    """The page of `evaluate drift`."""
    moved = result.drift
    fields = {row.field: row.psi for row in moved.fields[:30]}
    tiles = [
        ("an update is due" if moved.update_due else "no update is due", "yes" if moved.update_due else "no"),
        (f"squared MMD, p {moved.p:.3f}", f"{moved.score:.4f}"),
        ("fields that moved", str(len(moved.fields))),
        ("since", when(moved.since)[:10] or "-"),
    ]
    table = [[row.field, _three(row.psi), when(row.since) or "not throughout"] for row in moved.fields]
    live = result.live
    sides = [["where it was trained", "adapter", *(_three(moved.before.get(k)) for k in ("confidence", "unknown")), *_scored(result)]]
    sides += [["where it was trained", n, "-", "-", *_scored(row)] for n, row in result.baselines.items()]
    score = _scored(live) if live else ["no labels", ""]
    sides += [["live", "adapter", *(_three(moved.now.get(k)) for k in ("confidence", "unknown")), *score]]
    sides += [["live", n, "-", "-", *_scored(row)] for n, row in (live.baselines if live else {}).items()]
    plot = plots.bars(fields, x="population stability index (below .1 stable, above .25 moved)") if fields else ""
    flows, cut = result.flows, result.cut
    read = f"{flows['live']} live flows against {flows['trained_on']} training flows"
    read += f", cut at {cut['flow']} bytes a flow" if cut["flow"] else f", snap length {cut['snap']}" if cut["snap"] else ""
    return page(
        path,
        title=f"{result.task}: drift",
        about=f"{about(result)} {read}.",
        leaky=drift_marks(result),
        tiles=tiles,
        sections=[
            Section("Fields that moved", plot, ["field", "PSI", "since"], table),
            Section("The adapter and baselines", "", ["flows", "row", "mean confidence", "called unknown", "macro-F1", "95 %"], sides),
        ],
    )


def report_of(path: Path) -> JudgedReport:
    """A report of `evaluate run --json`; ArtifactError for any other file, and for one that hides what a score needs."""
    from pydantic import ValidationError

    from trafficllm.evaluate.quality import validate
    from trafficllm.evaluate.results import JudgedReport

    hint = "make one with `trafficllm evaluate run D --json > report.json`"
    try:
        report = read_json(path)
    except ValueError as error:
        raise ArtifactError("artifact.report", "no JSON", input=str(path), where=f"{error}"[:80], hint=hint) from error
    if not isinstance(report, dict) or not {"answers", "macro_f1"} <= set(report):
        raise ArtifactError("artifact.report", "no report with answers", input=str(path), hint=hint)
    validate(report)
    try:
        return JudgedReport.model_validate(report)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ArtifactError("artifact.report", "no report of `evaluate run`", input=str(path), where=where, hint=hint) from error


def compare_page(result: EvaluateCompare, path: Path) -> Path:
    """The page of `evaluate compare`."""
    low, high = result.ci95
    names = ("adapter", "macro_f1", "ci95", "split", "mask", "leaky", "seen_by_base", "seeds", "n_test")
    sides = [
        [f"{side}: {report.adapter}", *(_cell(getattr(report, name)) for name in names[1:])]
        for side, report in (("A", result.a), ("B", result.b))
    ]
    classes = [[r.label, r.support, _three(r.a), _three(r.b), _three(r.difference, sign=True)] for r in result.per_class]
    tiles = [
        ("difference of macro-F1, B above A", _three(result.difference, sign=True)),
        ("95 %", f"{low:+.3f} to {high:+.3f}"),
        ("p, two-sided", f"{result.p:.3f}"),
        ("flows answered alike", f"{result.agreement:.0%}"),
    ]
    about_both = f"{result.n} flows that both judged, in {result.groups} groups; {result.only_a} only in A, {result.only_b} only in B."
    return page(
        path,
        title=result.verdict,
        about=about_both,
        leaky=sorted({*result.a.leaky, *result.b.leaky}),
        tiles=tiles,
        sections=[
            Section("Side by side", "", names, sides),
            Section("Classes, most changed first", "", ("class", "flows", "A", "B", "difference"), classes),
        ],
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return _three(value)
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value) or "-"
    return str(value)
