"""The timeline of a scenario as SVG: a lane a class, darker where more flows begin; events in another colour."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from trafficllm.lifecycle.generate.scenario.file import Background, Event
from trafficllm.lifecycle.generate.scenario.output.tally import BINS, Lane, Tally

_INK, _EVERYDAY, _EVENT, _PALE = "#1f2933", "#0b7285", "#c92a2a", "#f1f3f5"
_LEFT, _TOP, _HEIGHT, _BIN = 190, 46, 26, 5
_TICKS = 6


def timeline(title: str, kinds: Sequence[Background | Event], tally: Tally) -> str:
    """An SVG document of one lane a class that was written; equal counts give equal bytes."""
    rows = [(kind, lane) for kind, lane in zip(kinds, tally.lanes, strict=True) if lane.flows]
    width, height = _LEFT + BINS * _BIN + 90, _TOP + len(rows) * _HEIGHT + 40
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}" role="img" aria-label="Timeline of {escape(title, quote=True)}">'
    )
    parts = [
        picture,
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="12" y="24" font-size="16">{escape(title)}</text>',
    ]
    for row, (kind, lane) in enumerate(rows):
        parts += _lane(kind, lane, _TOP + row * _HEIGHT)
    parts += _axis(tally, _TOP + len(rows) * _HEIGHT)
    return "\n".join([*parts, "</svg>\n"])


def _lane(kind: Background | Event, lane: Lane, y: int) -> list[str]:
    event = isinstance(kind, Event)
    name = f"{kind.name} ({kind.label})" if isinstance(kind, Event) else kind.label
    most = max(lane.bins.values())
    colour = _EVENT if event else _EVERYDAY
    weight = ' font-weight="bold"' if event else ""
    parts = [
        f'<text x="{_LEFT - 10}" y="{y + 16}" text-anchor="end"{weight}>{escape(name[:30])}</text>',
        f'<rect x="{_LEFT}" y="{y + 3}" width="{BINS * _BIN}" height="{_HEIGHT - 6}" fill="{_PALE}"/>',
    ]
    parts += [
        f'<rect x="{_LEFT + place * _BIN}" y="{y + 3}" width="{_BIN}" height="{_HEIGHT - 6}" fill="{colour}" '
        f'fill-opacity="{0.3 + 0.7 * count / most:.2f}"/>'
        for place, count in sorted(lane.bins.items())
    ]
    return [*parts, f'<text x="{_LEFT + BINS * _BIN + 10}" y="{y + 16}">{lane.flows:,} flows</text>']


def _axis(tally: Tally, y: int) -> list[str]:
    parts = []
    for tick in range(_TICKS + 1):
        x = _LEFT + tick * BINS * _BIN // _TICKS
        moment = datetime.fromtimestamp((tally.start + tick * tally.span // _TICKS) // 1_000_000_000, tz=UTC)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x}" y2="{y + 6}" stroke="{_INK}"/>')
        parts.append(f'<text x="{x}" y="{y + 22}" text-anchor="middle">{moment:%H:%M:%S}</text>')
    return parts
