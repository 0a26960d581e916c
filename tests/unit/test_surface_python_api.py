"""`import trafficllm as tl`: flows as rows, Arrow and data frames; errors before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

import trafficllm as tl
from trafficllm.core.errors import ArtifactError, InputError, ResourceError
from trafficllm.lifecycle.analyze.analysis import Analysis
from trafficllm.surface.python.flows import Verdicts

ROW = {
    "uid": "C1",
    "ts": 1.0,
    "duration": 0.5,
    "community_id": "1:x",
    "orig_h": "192.0.2.1",
    "orig_p": 1,
    "resp_h": "192.0.2.2",
    "resp_p": 53,
    "proto": "udp",
    "packets": 2,
    "task": "EAC",
    "label": "DNS",
    "confidence": 0.9,
    "probabilities": {"DNS": 0.9, "QUIC": 0.1},
    "unknown_score": 0.0,
    "evidence": [],
    "file": "a.pcap",
    "frames": [1, 2],
    "adapter": "EAC",
    "version": "v0001",
    "umbrella": None,
    "source": "registry",
}


def test_flows_as_rows_arrow_and_frames(captures: Path) -> None:
    path = sorted((captures / "EAC" / "DNS").glob("*.pcap"))[0]
    flows = tl.read(path)
    rows = list(flows)
    assert rows == list(flows), "it can be iterated again"
    table = flows.to_arrow()
    assert table.num_rows == len(rows)
    assert table["orig_h"].to_pylist() == [row["orig_h"] for row in rows]
    frame = flows.to_pandas()
    assert frame["ts"].tolist() == [row["ts"] for row in rows]
    assert f"{len(rows):,} rows" in repr(flows)
    assert "<table>" in flows._repr_html_()


def test_names_of_files_do_not_act_in_a_notebook(tmp_path: Path, captures: Path) -> None:
    bad = tmp_path / "<script>alert(1)\x1b[31m.pcap"
    bad.write_bytes(sorted((captures / "EAC" / "DNS").glob("*.pcap"))[0].read_bytes())
    flows = tl.read(bad)
    assert "\x1b" not in repr(flows)
    assert "<script" not in flows._repr_html_()


def _verdicts(opened: list[int]) -> Verdicts:
    def start() -> Analysis:
        opened.append(1)
        return Analysis(("EAC",), None, iter([[ROW], [{**ROW, "label": "unknown"}]]))

    return Verdicts("x.pcap", start)


def test_verdicts_are_read_once_for_a_table_and_anew_for_iteration() -> None:
    opened: list[int] = []
    verdicts = _verdicts(opened)
    assert len(opened) == 1
    assert verdicts.counts() == {"DNS": 1, "unknown": 1}
    assert verdicts.to_pandas()["probabilities"][0] == {"DNS": 0.9, "QUIC": 0.1}
    assert len(opened) == 1
    assert [row["label"] for row in verdicts] == ["DNS", "unknown"]
    assert len(opened) == 2
    assert "DNS 1" in repr(verdicts)


def test_without_pandas_the_remedy_is_said(captures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    flows = tl.read(captures / "EAC" / "DNS")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ResourceError, match="pandas is not installed") as caught:
        flows.to_pandas()
    assert "trafficllm[pandas]" in caught.value.hint


def test_a_notebook_shows_a_summary_that_does_not_act() -> None:
    def start() -> Analysis:
        return Analysis(("MTD",), None, iter([[ROW, {**ROW, "label": "<b>x</b>"}]]), asks={"MTD": "Is it malware?"})

    verdicts = Verdicts("x.pcap", start)
    html = verdicts._repr_html_()
    assert html.count("<table>") == 2
    assert "<b>" not in html
    assert "Is it malware? (MTD)" in html
    assert verdicts.summary().startswith("Is it malware? (MTD)")


def test_what_is_wrong_is_wrong_at_once(tmp_path: Path, captures: Path) -> None:
    with pytest.raises(InputError):
        tl.read(tmp_path / "no.pcap")
    with pytest.raises(ArtifactError, match="no detection adapter"):
        tl.analyze(captures / "EAC" / "DNS", registry=tmp_path)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tl.nonsense  # type: ignore[attr-defined]


def test_type_checkers_see_every_public_name() -> None:
    """Names are opened when first used; without a stub they would all be Any to a type checker."""
    import ast

    tree = ast.parse(Path(tl.__file__).with_suffix(".pyi").read_text())
    named = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert named == set(tl.__all__) - {"__version__"}
    assert Path(tl.__file__).with_name("py.typed").is_file()
