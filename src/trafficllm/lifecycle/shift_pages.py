"""Pages of `evaluate robust`, `transfer` and `drift`: self-contained HTML, no script, captured names escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trafficllm.core.files import atomic_write
from trafficllm.lifecycle import plots
from trafficllm.lifecycle.report import environment, escape_names


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
    html = environment().get_template("sections.html.j2").render(
        title=escape_names(title), about=escape_names(about), leaky=escape_names(leaky), tiles=escape_names(tiles), sections=shown
    )  # fmt: skip
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
        [row["name"], row["level"], f"{row['changed']:.0%}", row["lost"],
         *(cell for n in names for cell in (_three(row["macro_f1"][n]), _span(row["ci95"][n]), _three(row["delta"][n], sign=True)))]
        for row in rows
    ]  # fmt: skip
    ratio = body["goal"]["ratio"]
    tiles = [(f"mean loss, {n}", _three(body["mean_loss"][n])) for n in names]
    tiles += [("loss against LightGBM's, at most 0.5 wanted", "-" if ratio is None else f"{ratio:.2f}")]
    tiles += [("forge test, change of macro-F1", _three(body["forge"]["delta"], sign=True))]
    note = "On the wire: packets are changed, written and read again by the real reader; flows are those of the outermost packets. "
    note += "read_again changes nothing and is not in the mean. Lost flows count as wrong."
    bars = plots.grouped({row["name"]: {n: row["macro_f1"][n] for n in names} for row in rows}, x="macro-F1")
    return page(
        path, title=f"{body['task']}: under shifts", about=about(body), leaky=body["leaky"], tiles=tiles,
        sections=[Section("Macro-F1 under each shift", bars, head, cells, note)],
    )  # fmt: skip
