"""Plots of a report as inline SVG: no file, no outside fetch, equal bytes for equal figures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from trafficllm.core.escape import visible

INK, ACCENT, PALE = "#1f2933", "#0b7285", "#adb5bd"


def _svg(figure: Any) -> str:
    """The figure's SVG without XML prologue, date or random ids."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "trafficllm", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    return figure, axes


def _plain(text: str) -> str:
    """A captured name as plain plot text: escaped, and no mathtext."""
    return visible(text, limit=40).replace("$", r"\$")


def score_bars(rows: Sequence[tuple[str, float, tuple[float, float] | None]], *, highlight: str, apart: str = "") -> str:
    """Horizontal bars of macro-F1 with 95 % intervals; `highlight` names our row, `apart` one that is no rival: an outline."""
    figure, axes = _axes(6.4, 0.36 * len(rows) + 0.6)
    names = [_plain(name) for name, _, _ in rows]
    for place, (name, score, interval) in enumerate(rows):
        if name == apart:
            axes.barh(place, score, facecolor="none", edgecolor=PALE, linestyle="--", height=0.7)
        else:
            axes.barh(place, score, color=ACCENT if name == highlight else PALE, height=0.7)
        if interval:
            axes.plot(interval, [place, place], color=INK, linewidth=1.4)
        axes.text(0.01, place, f"{score:.3f}", va="center", fontsize=8, color="white" if score > 0.12 and name != apart else INK)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("macro-F1 (line: 95 % interval, bootstrap over groups)", fontsize=8)
    return _svg(figure)


def confusion(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """Row-normalised confusion matrix; rows are the truth, right answers blue, wrong ones red."""
    import numpy as np

    counts = np.asarray(matrix, dtype=float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _axes(0.3 * counts.shape[1] + 2, 0.3 * counts.shape[0] + 1.6)
    right = np.equal.outer(np.arange(counts.shape[0]), np.arange(counts.shape[1]))
    for wanted, colours in ((right, "Blues"), (~right, "Reds")):
        axes.imshow(np.ma.masked_where(~wanted, share), cmap=colours, vmin=0, vmax=1, aspect="auto")
    names = [_plain(label) for label in labels]
    columns = [*names, "(other)"][: counts.shape[1]]
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axes.set_yticks(range(counts.shape[0]), names[: counts.shape[0]], fontsize=7)
    for row, column in zip(*np.nonzero(counts), strict=True):
        axes.text(
            column,
            row,
            f"{int(counts[row, column])}",
            ha="center",
            va="center",
            fontsize=6,
            color="white" if share[row, column] > 0.6 else INK,
        )
    axes.set_xlabel("answered", fontsize=8)
    axes.set_ylabel("truth", fontsize=8)
    return _svg(figure)


def curves(named: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str) -> str:
    """Lines of (x, y) points, one a name."""
    figure, axes = _axes(6.4, 2.6)
    for name, points in named.items():
        if points:
            axes.plot([p[0] for p in points], [p[1] for p in points], label=_plain(name), linewidth=1.4)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    if any(named.values()):
        axes.legend(fontsize=8, frameon=False)
    return _svg(figure)


def bars(named: Mapping[str, float], *, x: str) -> str:
    """Horizontal bars of named amounts."""
    figure, axes = _axes(6.4, 0.34 * len(named) + 0.6)
    names = [_plain(name) for name in named]
    axes.barh(range(len(named)), list(named.values()), color=ACCENT, height=0.65)
    for place, value in enumerate(named.values()):
        axes.text(value, place, f" {value:,.1f}", va="center", fontsize=8)
    axes.set_yticks(range(len(named)), names)
    axes.invert_yaxis()
    axes.set_xlabel(x, fontsize=8)
    return _svg(figure)


def reliability(named: Mapping[str, Sequence[Mapping[str, float]]], *, highlight: str) -> str:
    """Accuracy against confidence, a line a row of the table; the diagonal is perfect calibration, dots are as large as their share."""
    figure, axes = _axes(4.4, 3.4)
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1, linestyle="--")
    for name, bins in named.items():
        x, y = [row["confidence"] for row in bins], [row["accuracy"] for row in bins]
        colour = ACCENT if name == highlight else None
        (line,) = axes.plot(x, y, label=_plain(name), linewidth=1.6 if name == highlight else 1, color=colour)
        axes.scatter(x, y, s=[8 + 160 * row["share"] for row in bins], color=line.get_color(), alpha=0.6)
    axes.set_xlabel("confidence", fontsize=8)
    axes.set_ylabel("accuracy", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    return _svg(figure)


def risk(named: Mapping[str, Sequence[Mapping[str, float]]], *, highlight: str) -> str:
    """Share of wrong answers among the most confident share of flows, a line a row of the table."""
    figure, axes = _axes(4.4, 3.4)
    for name, points in named.items():
        axes.plot(
            [row["coverage"] for row in points],
            [row["risk"] for row in points],
            label=_plain(name),
            linewidth=1.8 if name == highlight else 1,
            color=ACCENT if name == highlight else None,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of flows answered, most confident first", fontsize=8)
    axes.set_ylabel("wrong among them", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    return _svg(figure)


def scatter(points: Sequence[Sequence[float]], labels: Sequence[str]) -> str:
    """A map: one dot a flow, one colour and mark a label."""
    import matplotlib as mpl

    figure, axes = _axes(7.6, 4.6)
    names = sorted(set(labels))
    colours = mpl.colormaps["tab20"]
    for k, name in enumerate(names):
        own = [point for point, label in zip(points, labels, strict=True) if label == name]
        marker = "osv^DPX"[k // 20 % 7]
        axes.scatter([p[0] for p in own], [p[1] for p in own], s=12, marker=marker, color=colours(k % 20), label=_plain(name), alpha=0.75)
    axes.set_xticks([])
    axes.set_yticks([])
    if len(names) <= 60:
        axes.legend(fontsize=6, frameon=False, ncols=1 + len(names) // 21, loc="center left", bbox_to_anchor=(1, 0.5))
    return _svg(figure)


def lines(
    named: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, highlight: str, bands: Mapping[str, Any] | None = None
) -> str:
    """Lines with dots, one a name; `bands` are (low, high) a point."""
    figure, axes = _axes(5.6, 3.2)
    for name, points in named.items():
        at, value = [p[0] for p in points], [p[1] for p in points]
        (line,) = axes.plot(at, value, marker="o", markersize=4, label=_plain(name), color=ACCENT if name == highlight else None)
        if bands and name in bands:
            axes.fill_between(at, [b[0] for b in bands[name]], [b[1] for b in bands[name]], color=line.get_color(), alpha=0.15)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    return _svg(figure)


def grouped(rows: Mapping[str, Mapping[str, float]], *, x: str) -> str:
    """Horizontal bars side by side: a group a row, a colour a name, the first ours."""
    names = list(next(iter(rows.values()), {}))
    figure, axes = _axes(6.8, 0.22 * len(rows) * max(len(names), 1) + 0.9)
    height = 0.8 / max(len(names), 1)
    for k, name in enumerate(names):
        places = [place + k * height for place in range(len(rows))]
        axes.barh(places, [row[name] for row in rows.values()], height=height, color=(ACCENT, PALE, INK)[k % 3], label=_plain(name))
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(rows))], [_plain(name) for name in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(x, fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    return _svg(figure)
