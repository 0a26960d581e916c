"""Pages of `evaluate robust`, `transfer`, `drift` and `compare`: self-contained HTML, no script, captured names escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import atomic_write, read_json
from trafficllm.lifecycle.reports import plots
from trafficllm.lifecycle.reports.page import environment, escape_names


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
    html = (
        environment()
        .get_template("sections.html.j2")
        .render(title=escape_names(title), about=escape_names(about), leaky=escape_names(leaky), tiles=escape_names(tiles), sections=shown)
    )
    atomic_write(path, html)
    return path


def _three(value: float | None, *, sign: bool = False) -> str:
    return "-" if value is None else f"{value:+.3f}" if sign else f"{value:.3f}"


def _span(pair: Sequence[float]) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}"


def about(body: Mapping[str, Any]) -> str:
    """What a score was measured on, in a sentence."""
    return (
        f"{body['n_test']} flows ({body['n_test_unique']} unique masked contents) in {body['groups']} groups of the {body['part']} part, "
        f"split by {body['split']}, mask {body['mask']}, flows the base has seen: {body['seen_by_base']}."
    )


def robust_page(body: Mapping[str, Any], path: Path) -> Path:
    """The page of `evaluate robust`."""
    names = list(body["mean_loss"])
    rows = body["perturbations"]
    head = ["shift", "on", "flows changed", "lost", *(cell for n in names for cell in (f"{n} macro-F1", "95 %", "change"))]
    cells = [
        [
            row["name"],
            row["level"],
            f"{row['changed']:.0%}",
            row["lost"],
            *(cell for n in names for cell in (_three(row["macro_f1"][n]), _span(row["ci95"][n]), _three(row["delta"][n], sign=True))),
        ]
        for row in rows
    ]
    ratio = body["goal"]["ratio"]
    tiles = [(f"mean loss, {n}", _three(body["mean_loss"][n])) for n in names]
    tiles += [("loss against LightGBM's, at most 0.5 wanted", "-" if ratio is None else f"{ratio:.2f}")]
    tiles += [("forge test, change of macro-F1", _three(body["forge"]["delta"], sign=True))]
    note = "On the wire: packets are changed, written and read again by the real reader; flows are those of the outermost packets. "
    note += "read_again changes nothing and is not in the mean. Lost flows count as wrong."
    bars = plots.grouped({row["name"]: {n: row["macro_f1"][n] for n in names} for row in rows}, x="macro-F1")
    return page(
        path,
        title=f"{body['task']}: under shifts",
        about=about(body),
        leaky=body["leaky"],
        tiles=tiles,
        sections=[Section("Macro-F1 under each shift", bars, head, cells, note)],
    )


def transfer_page(body: Mapping[str, Any], path: Path) -> Path:
    """The page of `evaluate transfer`."""
    rows = body["shots"]
    names = list(rows[-1]["rows"])
    lines = {n: [(row["shots"], row["rows"][n]["macro_f1"]) for row in rows] for n in names}
    bands = {n: [row["rows"][n]["ci95"] for row in rows] for n in names[:1]}
    head = ["learnt by", *(f"{row['shots']} a class" for row in rows)]
    cells = [[n, *(f"{_three(row['rows'][n]['macro_f1'])} ({_span(row['rows'][n]['ci95'])})" for row in rows)] for n in names]
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
    if body["direct"]:
        table = [["adapter", _three(body["macro_f1"]), _span(body["ci95"])]]
        table += [[n, _three(row["macro_f1"]), _span(row["ci95"])] for n, row in body["baselines"].items()]
        note = "Both learnt from the training part of this very data set." if body["same_data"] else f"Learnt on {body['source']} alone."
        sections.insert(0, Section("As they are", "", ["", "macro-F1", "95 %"], table, note))
    tiles = [("macro-F1", _three(body["macro_f1"])), ("best of ours above LightGBM at 20 a class", _three(body["gain_at_20"], sign=True))]
    title = f"{body['source']} to {body['task']}"
    return page(path, title=title, about=about(body), leaky=body["leaky"], tiles=tiles, sections=sections)


def when(ns: int | None) -> str:
    """A time in ns as an ISO date, "" for none."""
    import datetime

    return "" if ns is None else datetime.datetime.fromtimestamp(ns / 1e9, tz=datetime.UTC).isoformat(timespec="seconds")


def _scored(row: Mapping[str, Any]) -> list[str]:
    return [_three(row["macro_f1"]), _span(row["ci95"])]


def drift_marks(body: Mapping[str, Any]) -> list[str]:
    """Leaky marks of either side."""
    return sorted({*body["leaky"], *(body["live"]["leaky"] if body["live"] else ())})


def drift_page(body: Mapping[str, Any], path: Path) -> Path:
    """The page of `evaluate drift`."""
    found = body["drift"]
    fields = {row["field"]: row["psi"] for row in found["fields"][:30]}
    tiles = [
        ("an update is due" if found["update_due"] else "no update is due", "yes" if found["update_due"] else "no"),
        (f"squared MMD, p {found['p']:.3f}", f"{found['score']:.4f}"),
        ("fields that moved", str(len(found["fields"]))),
        ("since", when(found["since"])[:10] or "-"),
    ]
    table = [[row["field"], _three(row["psi"]), when(row["since"]) or "not throughout"] for row in found["fields"]]
    live = body["live"]
    sides = [["where it was trained", "adapter", *(_three(found["before"].get(k)) for k in ("confidence", "unknown")), *_scored(body)]]
    sides += [["where it was trained", n, "-", "-", *_scored(row)] for n, row in body["baselines"].items()]
    known = _scored(live) if live else ["no labels", ""]
    sides += [["live", "adapter", *(_three(found["now"].get(k)) for k in ("confidence", "unknown")), *known]]
    sides += [["live", n, "-", "-", *_scored(row)] for n, row in (live["baselines"] if live else {}).items()]
    plot = plots.bars(fields, x="population stability index (below .1 stable, above .25 moved)") if fields else ""
    flows, cut = body["flows"], body["cut"]
    read = f"{flows['live']} live flows against {flows['trained_on']} training flows"
    read += f", cut at {cut['flow']} bytes a flow" if cut["flow"] else f", snap length {cut['snap']}" if cut["snap"] else ""
    return page(
        path,
        title=f"{body['task']}: drift",
        about=f"{about(body)} {read}.",
        leaky=drift_marks(body),
        tiles=tiles,
        sections=[
            Section("Fields that moved", plot, ["field", "PSI", "since"], table),
            Section("The adapter and baselines", "", ["flows", "row", "mean confidence", "called unknown", "macro-F1", "95 %"], sides),
        ],
    )


def report_of(path: Path) -> dict[str, Any]:
    """A report of `evaluate run --json`; ArtifactError for any other file, and for one that hides what a score needs."""
    from trafficllm.evaluate.quality import validate

    hint = "make one with `trafficllm evaluate run D --json > report.json`"
    try:
        body = read_json(path)
    except ValueError as error:
        raise ArtifactError("artifact.report", "no JSON", input=str(path), where=f"{error}"[:80], hint=hint) from error
    if not isinstance(body, dict) or not {"answers", "macro_f1"} <= set(body):
        raise ArtifactError("artifact.report", "no report with answers", input=str(path), hint=hint)
    validate(body)
    return body


def compare_page(body: Mapping[str, Any], path: Path) -> Path:
    """The page of `evaluate compare`."""
    low, high = body["ci95"]
    names = ("adapter", "macro_f1", "ci95", "split", "mask", "leaky", "seen_by_base", "seeds", "n_test")
    sides = [[f"{side.upper()}: {body[side]['adapter']}", *(_cell(body[side][name]) for name in names[1:])] for side in ("a", "b")]
    classes = [[r["label"], r["support"], _three(r["a"]), _three(r["b"]), _three(r["difference"], sign=True)] for r in body["per_class"]]
    tiles = [
        ("difference of macro-F1, B above A", _three(body["difference"], sign=True)),
        ("95 %", f"{low:+.3f} to {high:+.3f}"),
        ("p, two-sided", f"{body['p']:.3f}"),
        ("flows answered alike", f"{body['agreement']:.0%}"),
    ]
    about_both = f"{body['n']} flows that both judged, in {body['groups']} groups; {body['only_a']} only in A, {body['only_b']} only in B."
    return page(
        path,
        title=body["verdict"],
        about=about_both,
        leaky=sorted({*body["a"]["leaky"], *body["b"]["leaky"]}),
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
