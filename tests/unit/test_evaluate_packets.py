"""Single packets for the audit: drawn as from a list of all of them, without ever making that list."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from evaluate_samples import LABELS, masked, record

from trafficllm.core.types import FlowMeta, Record
from trafficllm.evaluate.audit import packets
from trafficllm.evaluate.audit.leaks import AuditRows


def _rows(raw: Sequence[Record]) -> AuditRows:
    n = len(raw)
    meta = [
        FlowMeta(capture="a", origin="a", ts=10**18 + i, link=1, proto=6, orig_h=f"10.0.0.{i % 9}", orig_p=5000 + i, resp_h="", resp_p=443)
        for i in range(n)
    ]
    return AuditRows(
        y=[LABELS[i % 3] for i in range(n)],
        part=["train" if i % 2 else "test" for i in range(n)],
        raw=raw,
        masked=[masked(r) for r in raw],
        meta=meta,
        groups=[str(i % 6) for i in range(n)],
        content=list(range(n)),
        umbrella=lambda _: None,
        marks={"seq": np.where(np.arange(n) % 4, np.arange(n, dtype=float), np.nan)},
    )


def _flows(n: int = 60) -> list[Record]:
    rng = np.random.default_rng(3)
    return [record(rng, i % 3) for i in range(n)]


@pytest.mark.parametrize("most", [7, 50, 10_000])
def test_packets_are_drawn_as_from_the_list_of_all_packets(most: int) -> None:
    counts = np.array([3, 0, 5, 1, 0, 8], dtype=np.int64)
    flows = np.array([0, 1, 2, 5], dtype=np.int64)
    every = [(i, k) for i in flows.tolist() for k in range(counts[i])]
    wanted = [every[j] for j in np.random.default_rng(5).permutation(len(every))[:most]]
    got = packets.drawn(counts, flows, most, np.random.default_rng(5))
    assert list(zip(got.flow.tolist(), got.place.tolist(), strict=True)) == wanted
    assert len(packets.drawn(counts, flows[:0], most, np.random.default_rng(5)).flow) == 0


def test_a_packet_has_its_own_columns_and_raw_ones_what_names_the_flow() -> None:
    raw = _flows()
    raw[4] = dataclasses.replace(raw[4], sizes=(), flags=raw[4].flags[:1])
    rows = _rows(raw)
    which = packets.Drawn(np.array([9, 4, 9, 5]), np.array([0, 1, 2, 0]))
    shown, known = (packets.packet_rows(rows, which, raw=side) for side in (False, True))
    nine = raw[9]
    assert known[2, :6].tolist() == [nine.dirs[2], nine.sizes[2], nine.iats[2], nine.flags[2], nine.windows[2], nine.ttls[2]]
    assert known[1, [1, 3]].tolist() == [-1, -1]
    assert shown.shape == (4, 6)
    assert shown[2, 5] == -1  # the TTL is masked
    assert known[0, 6:].tolist() == known[2, 6:].tolist() != known[3, 6:].tolist()
    assert known[[0, 1, 3], -1].tolist() == [9, -1, 5]


def test_millions_of_cells_take_no_more_memory_than_the_drawn_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "MOST", 500)
    monkeypatch.setattr(packets, "_answers", lambda X, y, asked, **_: np.zeros(len(asked), dtype=np.int64))
    dirs = tuple(i % 3 % 2 for i in range(20_000))
    one = Record(kind="cells", ip_version=0, proto=-1, dirs=dirs, iats=tuple(range(len(dirs))))
    rows = dataclasses.replace(_rows(_flows()), raw=[one] * 60, masked=[one] * 60)
    asked: list[int] = []

    def judge(idx: Sequence[int], *_: object) -> dict[str, Any]:
        asked.append(len(idx))
        return {}

    tracemalloc.start()
    packets.side_by_side(rows, LABELS, judge, split="capture", profile="strict")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert asked == [300, 500, 300, 500]
    assert peak < 40e6  # 1.2 million cells: their numbers take 10 MB, their raw columns would take 700 MB
