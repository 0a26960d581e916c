"""Synthetic records for the tests of `evaluate`: three classes that sizes tell apart, noisily."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from trafficllm.core.types import Facts, FlowMeta, Record, Span
from trafficllm.evaluate.baselines import learners, shots
from trafficllm.evaluate.baselines import table as baselines
from trafficllm.evaluate.baselines.learners import Data, Model, Part

LABELS = ("alpha", "beta", "gamma")


def record(rng: np.random.Generator, label: int, *, noise: float = 0.2) -> Record:
    """A TLS-like flow whose second size and payload start follow the label, except for a share of noise."""
    shown = label if rng.random() > noise else int(rng.integers(len(LABELS)))
    n = int(rng.integers(6, 12))
    sizes = [0, 0, 200 + 150 * shown + int(rng.integers(40)), *rng.integers(0, 1400, n).tolist()]
    dirs = tuple(int(d) for d in [0, 1, 0, *rng.integers(0, 2, n).tolist()])
    orig = bytes([22, 3, shown]) + rng.bytes(40)
    return Record(
        proto=6,
        port_class="ew",
        dirs=dirs,
        sizes=tuple(sizes),
        flags=(2, 18, *([24] * (n + 1))),
        iats=(0, *rng.integers(1000, 10**8, n + 2).tolist()),
        windows=(64240,) * (n + 3),
        ttls=(64,) * (n + 3),
        payload=(orig, rng.bytes(30)),
        ports=(50000, 443),
        facts=Facts("tls", {"tls.handshake.version": 771}, (Span(0, 10, 20, "tls.sni"), Span(1, 5, 30, "encrypted"))),
    )


def masked(raw: Record) -> Record:
    """What a strict mask leaves of `raw`."""
    return dataclasses.replace(
        raw,
        ports=None,
        ttls=(-1,) * len(raw.dirs),
        windows=(2,) * len(raw.dirs),
        hidden=raw.facts.spans[:1],
        masked=frozenset({"ttl", "port"}),
    )


def meta(rng: np.random.Generator, label: int, i: int) -> FlowMeta:
    """Metadata whose address gives the label away."""
    return FlowMeta(
        uid=f"C{i}",
        capture=f"{label}-{i % 4}.pcap",
        origin=f"{label}-{i % 4}",
        ts=10**18 + i * 10**9,
        link=1,
        orig_h=f"10.0.{label}.{i % 7}",
        resp_h="192.0.2.1",
        orig_p=int(rng.integers(1024, 60000)),
        resp_p=443,
        proto=6,
    )


def part(n: int, seed: int, *, noise: float = 0.2) -> Part:
    """`n` rows of the three classes in turn."""
    rng = np.random.default_rng(seed)
    codes = [i % len(LABELS) for i in range(n)]
    raw = [record(rng, code, noise=noise) for code in codes]
    places = [meta(rng, code, i) for i, code in enumerate(codes)]
    return Part([masked(r) for r in raw], [LABELS[code] for code in codes], raw, places)


_FEW = 20


@contextmanager
def few_trees() -> Iterator[None]:
    """Forests and boosters of 20 trees, for tests of the way to a report; how well baselines do is tested elsewhere."""

    def forest(data: Data, view: str, params: Mapping[str, Any]) -> Model:
        return learners.fit_forest(data, view, {**params, "trees": _FEW})

    def booster(data: Data, view: str, params: Mapping[str, Any]) -> Model:
        return learners.fit_booster(data, view, {**params, "rounds": _FEW})

    with pytest.MonkeyPatch.context() as patch:
        for module in (baselines, shots):
            patch.setattr(module, "fit_forest", forest)
            patch.setattr(module, "fit_booster", booster)
        yield
