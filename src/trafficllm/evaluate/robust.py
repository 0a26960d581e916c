"""How much a scorer loses when traffic is shifted: any Scorer, the model and a tree alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trafficllm.core.types import Record, Scorer
from trafficllm.evaluate import metrics
from trafficllm.evaluate.shift import Shift, forge, perturbations, random_payload

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


def robustness(
    bench: Bench, scorers: Mapping[str, Scorer], shifts: Mapping[str, Shift] | None = None, *, seed: int = 0
) -> dict[str, Any]:
    """Macro-F1 of each scorer under each shift.

    Returns {"perturbations": [{name, macro_f1: {scorer: value}, delta: {scorer: value}}], "mean_loss": {scorer: value}};
    the mean is over all shifts, gains count as they are.
    """
    chosen = shifts if shifts is not None else perturbations(seed)
    before = {name: bench.macro_f1(scorer) for name, scorer in scorers.items()}
    rows: list[dict[str, Any]] = [{"name": "none", "macro_f1": before, "delta": dict.fromkeys(before, 0.0)}]
    for shift_name, shift in chosen.items():
        after = {name: bench.macro_f1(scorer, shift) for name, scorer in scorers.items()}
        delta = {name: after[name] - before[name] for name in after}
        rows.append({"name": shift_name, "macro_f1": after, "delta": delta})
    count = max(len(rows) - 1, 1)
    return {
        "perturbations": rows,
        "mean_loss": {n: -sum(row["delta"][n] for row in rows) / count for n in scorers},
    }


def forge_test(bench: Bench, scorer: Scorer, *, seed: int = 0) -> dict[str, Any]:
    """Identifiers rewritten in the test rows: {"before", "after", "delta", "relies_on_identifiers"}."""
    before, after = bench.macro_f1(scorer), bench.macro_f1(scorer, forge(seed))
    delta = after - before
    return {
        "before": before,
        "after": after,
        "delta": delta,
        "relies_on_identifiers": abs(delta) > FORGE_LIMIT,
    }


def payload_test(bench: Bench, scorer: Scorer, *, seed: int = 0) -> dict[str, Any]:
    """Encrypted payload, and then all payload, replaced by random bytes: {"before", "after", "delta", "all_delta"}."""
    before = bench.macro_f1(scorer)
    after = bench.macro_f1(scorer, random_payload(seed))
    all_after = bench.macro_f1(scorer, random_payload(seed, everything=True))
    return {"before": before, "after": after, "delta": after - before, "all_delta": all_after - before}
