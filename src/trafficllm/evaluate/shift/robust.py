"""How much a scorer loses when traffic is shifted: any Scorer, the model and a tree alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trafficllm.core import metrics
from trafficllm.core.types import Record, Scorer
from trafficllm.evaluate import bootstrap
from trafficllm.evaluate.results import ForgeTest, PayloadTest, Perturbation, Shifted
from trafficllm.evaluate.shift.records import Shift, forge, perturbations, random_payload
from trafficllm.evaluate.shift.wire import Flow, read_again, shifted
from trafficllm.evaluate.shift.wire_shifts import WIRE

FORGE_LIMIT = 0.02
"""A larger change of macro-F1 in the forge test means: relies on identifiers."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Test rows to shift: UNMASKED `raw` records, the data set's `mask`, truths `y` and the task's `labels`."""

    raw: Sequence[Record]
    y: Sequence[str]
    labels: Sequence[str]
    mask: Callable[[Record], Record]

    def macro_f1(self, scorer: Scorer, shift: Shift | None = None) -> float:
        """Macro-F1 of the scorer on the rows, shifted and then masked."""
        records = [self.mask(shift(r) if shift else r) for r in self.raw]
        best = scorer.score(records).probabilities.argmax(axis=1) if records else []
        return metrics.macro_f1(self.labels, self.y, [scorer.labels[i] for i in best])


LOST = "(lost)"
"""The answer to a flow that the reader no longer finds: wrong."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The rows as they look after one shift: UNMASKED `records` (None: lost), `level` "wire" (packets, read again) or "record"."""

    name: str
    level: str
    records: Sequence[Record | None]


def variants(raw: Sequence[Record], flows: Sequence[Flow] | None = None, *, seed: int = 0) -> Iterator[Variant]:
    """The rows under every shift of `evaluate robust`: on the wire where their packets are at hand, on records otherwise.

    What has no meaning on packets (fields missing, payload randomised) acts on records. The forged packets' records are forged too:
    names and ids in payload.
    """
    if flows is not None:
        for name, (change, frame) in WIRE.items():
            reread = read_again(shifted(flows, change, frame, seed=seed))
            also = forge(seed) if name == "forge" else None
            yield Variant(name, "wire", [record if record is None or also is None else also(record) for record in reread])
    done = WIRE if flows is not None else {}
    for name, shift in perturbations(seed).items():
        if name not in done:
            yield Variant(name, "record", [shift(record) for record in raw])
    shift = random_payload(seed, everything=True)
    yield Variant("random_all_payload", "record", [shift(record) for record in raw])


@dataclass(frozen=True, slots=True)
class ShiftStudy:
    """Scorers to compare on the rows of `bench`, whose bootstrap `groups` they are in: `predict` gives each MASKED record's label."""

    bench: Bench
    groups: Sequence[str]
    predict: Mapping[str, Callable[[Sequence[Record]], Sequence[str]]]

    def predicted(self, name: str, records: Sequence[Record | None]) -> list[str]:
        """One scorer's predictions, `LOST` for what the reader lost."""
        there = [k for k, record in enumerate(records) if record is not None]
        out = [LOST] * len(records)
        for k, label in zip(there, self.predict[name]([self.bench.mask(r) for r in records if r is not None]), strict=True):
            out[k] = label
        return out


def under_shifts(study: ShiftStudy, rows: Iterable[Variant], *, n_boot: int = 500) -> Shifted:
    """Macro-F1 of each scorer under each shift, with its interval and the share of rows whose masked record changed.

    The mean loss is over all shifts but "read_again", which only shows what reading the packets again does by itself; gains count as
    they are.
    """
    bench = study.bench
    before = {name: study.predicted(name, bench.raw) for name in study.predict}
    start = {name: metrics.macro_f1(bench.labels, bench.y, labels) for name, labels in before.items()}
    shown = [bench.mask(record) for record in bench.raw]
    out = [_row(("none", "record"), _scored(study, before, n_boot), start)]
    for variant in rows:
        changed = [new is None or bench.mask(new) != old for new, old in zip(variant.records, shown, strict=True)]
        after = {name: study.predicted(name, variant.records) for name in study.predict}
        lost = sum(record is None for record in variant.records)
        share = float(np.mean(changed)) if changed else 0.0
        scored = _scored(study, after, n_boot)
        out.append(_row((variant.name, variant.level), scored, start, changed=share, lost=lost))
    counted = [row for row in out if row.name not in {"none", "read_again"}]
    loss = {n: -sum(row.delta[n] for row in counted) / max(len(counted), 1) for n in study.predict}
    return Shifted(perturbations=out, mean_loss=loss)


def _scored(study: ShiftStudy, predicted: Mapping[str, Sequence[str]], n_boot: int) -> dict[str, tuple[float, list[float]]]:
    bench, present = study.bench, set(study.bench.y)
    scored = [label for label in bench.labels if label in present]
    out = {}
    for name, labels in predicted.items():
        counts = bootstrap.count_groups(scored, bench.y, labels, study.groups)
        out[name] = (metrics.macro_f1(bench.labels, bench.y, labels), list(bootstrap.interval([counts], n_boot=n_boot)))
    return out


def _row(
    what: tuple[str, str],
    scored: Mapping[str, tuple[float, list[float]]],
    start: Mapping[str, float],
    *,
    changed: float = 0.0,
    lost: int = 0,
) -> Perturbation:
    return Perturbation(
        name=what[0],
        level=what[1],
        changed=changed,
        lost=lost,
        macro_f1={n: f1 for n, (f1, _) in scored.items()},
        ci95={n: ci for n, (_, ci) in scored.items()},
        delta={n: f1 - start[n] for n, (f1, _) in scored.items()},
    )


def forge_test(bench: Bench, scorer: Scorer, *, seed: int = 0) -> ForgeTest:
    """Identifiers rewritten in the test rows."""
    before, after = bench.macro_f1(scorer), bench.macro_f1(scorer, forge(seed))
    delta = after - before
    return ForgeTest(before=before, after=after, delta=delta, relies_on_identifiers=abs(delta) > FORGE_LIMIT)


def payload_test(bench: Bench, scorer: Scorer, *, seed: int = 0) -> PayloadTest:
    """Encrypted payload, and then all payload, replaced by random bytes."""
    before = bench.macro_f1(scorer)
    after = bench.macro_f1(scorer, random_payload(seed))
    all_after = bench.macro_f1(scorer, random_payload(seed, everything=True))
    return PayloadTest(before=before, after=after, delta=after - before, all_delta=all_after - before)
