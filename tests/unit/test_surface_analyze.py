"""`analyze` on its way out: filters, the summary, Ctrl-C, `--fail-on`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from test_surface_formats import ROW

from trafficllm.lifecycle.application import Analysis
from trafficllm.surface.cmd_analyze import _kept, _pump
from trafficllm.surface.summary import Summary

UMBRELLA = {"Zeus": "malicious", "FTP": "benign"}


def _row(label: str, confidence: float, uid: int) -> dict[str, Any]:
    return {**ROW, "label": label, "confidence": confidence, "uid": f"C{uid}"}


def _analysis(batches: Iterator[list[dict[str, Any]]]) -> Analysis:
    return Analysis(
        ("MTD",),
        None,
        batches,
        {"MTD": UMBRELLA.get},
        frozenset({"Zeus", "FTP", "unknown", "malicious", "benign"}),
    )


def _batches(stop: bool) -> Iterator[list[dict[str, Any]]]:
    yield [_row("FTP", 0.9, 1), _row("Zeus", 0.6, 2), _row("Zeus", 0.8, 3)]
    if stop:
        raise KeyboardInterrupt
    yield [_row("unknown", 0.3, 4), *(_row("FTP", 0.5, n) for n in range(5, 65))]


def _run(
    tmp_path: Path, *, stop: bool = False, least: float = 0.0, only: tuple[str, ...] = (), form: str = "jsonl"
) -> tuple[bool, Summary, list[str]]:
    analysis = _analysis(_batches(stop))
    summary = Summary(analysis)
    out = tmp_path / "v.jsonl"
    stopped = _pump(
        _kept(analysis, summary, least, only), summary, form, str(out) if form != "table" else "-"
    )
    return stopped, summary, out.read_text().splitlines() if out.exists() else []


def test_every_flow_has_a_line(tmp_path: Path) -> None:
    stopped, summary, lines = _run(tmp_path)
    assert (stopped, summary.flows, len(lines)) == (False, 64, 64)
    assert summary.found["malicious"] == summary.found["Zeus"] == 2
    assert summary.body()["verdicts"] == {"MTD": {"FTP": 61, "Zeus": 2, "unknown": 1}}


def test_filters_leave_lines_out_but_count_all(tmp_path: Path) -> None:
    assert len(_run(tmp_path, only=("malicious",))[2]) == 2
    _, summary, lines = _run(tmp_path, least=0.6)
    assert (summary.flows, len(lines)) == (64, 3)


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    stopped, summary, lines = _run(tmp_path, stop=True)
    assert (stopped, summary.flows, len(lines)) == (True, 3, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["v.jsonl"]


def test_notable_first_and_bounded(tmp_path: Path) -> None:
    _, summary, _ = _run(tmp_path, form="table")
    notable = summary.notable()
    assert [row["uid"] for row in notable[:4]] == ["C3", "C2", "C4", "C1"]
    assert len(notable) == 20
