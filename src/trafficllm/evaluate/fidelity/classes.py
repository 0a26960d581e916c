"""Fidelity class by class, and over all of them: what a detector trained on generated flows is worth on real ones."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trafficllm.core.errors import InputError
from trafficllm.core.types import Record
from trafficllm.evaluate.fidelity.compare import MIN_FLOWS, cross_scores, fidelity, halved
from trafficllm.evaluate.fidelity.floors import floors
from trafficllm.evaluate.fidelity.results import ClassFidelity, LabelFidelity
from trafficllm.records.codec.canonical import canonical

Flows = Mapping[str, Sequence[Record]]
ByCapture = Mapping[str, Flows]
"""Flows by class, then by capture."""
_MEANS = ("mean_jsd", "mean_floor", "discriminator_f1", "discriminator_real")


def of_classes(
    real: Flows, synthetic: Flows, train: Flows, *, captures: tuple[ByCapture, ByCapture] | None = None, seed: int = 0
) -> ClassFidelity:
    """The report of `evaluate generation`: each class by itself under `labels`, their unweighted means, and `tstr trts trtr` over all.

    Labels that only one side has are listed in `not_compared`, with those that have too few flows. A class without training
    flows is compared with half of its real ones. `captures` are the held-out and the training flows by class and capture:
    they give a class its two floors. Raises InputError where no class can be compared.
    """
    sides = {label: (real[label], synthetic[label]) for label in sorted(set(real) & set(synthetic))}
    able = {label: pair for label, pair in sides.items() if len(pair[0]) >= MIN_FLOWS and len(pair[1]) >= 2}
    if not able:
        raise InputError(
            "input.too_few",
            "no class has real and synthetic flows enough to compare",
            hint=f"at least {MIN_FLOWS} real and 2 synthetic flows under the same label; real: {', '.join(sorted(real))}",
        )
    parts = {label: _parts(*pair, train.get(label, ()), seed) for label, pair in able.items()}
    rows = {label: fidelity(held, made, train=learnt, seed=seed) for label, (held, made, learnt) in parts.items()}
    for label, row in rows.items() if captures else ():
        held, learnt = ({name: list(map(canonical, flows)) for name, flows in side.get(label, {}).items()} for side in captures or ())
        both = floors(held, learnt, parts[label][1], most=row.n.compared, seed=seed)
        rows[label] = row.model_copy(update={"floors": both})
    pooled = [[record for part in parts.values() for record in part[k]] for k in range(3)]
    names = tuple([label for label, part in parts.items() for _ in part[k]] for k in range(3))
    return ClassFidelity(
        **_averaged([row.as_dict() for row in rows.values()]),
        **cross_scores(pooled[0], pooled[1], pooled[2], names, seed),
        labels={label: LabelFidelity.of(row) for label, row in rows.items()},
        not_compared=sorted((set(real) | set(synthetic)) - set(able)),
    )


def _parts(real: Sequence[Record], synthetic: Sequence[Record], train: Sequence[Record], seed: int) -> tuple[list[Record], ...]:
    held, made, learnt = (list(map(canonical, records)) for records in (real, synthetic, train))
    if not learnt:
        held, learnt, _ = halved(held, ([], [], []), seed)
    return held, made, learnt


def _averaged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every number of the classes' reports as its mean over the classes that have it; numbers of flows are added up."""
    out: dict[str, Any] = {key: statistics.fmean(row[key] for row in rows) for key in _MEANS}
    for key in ("fields", "emd"):
        names = dict.fromkeys(name for row in rows for name in row[key])
        out[key] = {name: _mean([row[key][name] for row in rows if name in row[key]]) for name in names}
    out |= {key: _mean([row[key] for row in rows]) for key in ("mean", "copies", "nearest")}
    both = [row["floors"] for row in rows if row.get("floors")]
    out["floors"] = _floors(both) if both else None
    out["n"] = {key: sum(row["n"][key] for row in rows) for key in rows[0]["n"]}
    return out


def _floors(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The floors as means over the classes that have them; captures are added up, `compared` is the smallest sample."""
    means = {}
    for key in ("within", "between", "generated"):
        given = [row[key] for row in rows if row[key] is not None]
        means[key] = statistics.fmean(given) if given else None
    return {**means, "captures": sum(row["captures"] for row in rows), "compared": min(row["compared"] for row in rows)}


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
