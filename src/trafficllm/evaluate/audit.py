"""`data audit`: what a labelled data set leaks, what trees reach on it honestly, and a verdict in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trafficllm.core.types import F64, Record
from trafficllm.evaluate import baselines, quality, robust
from trafficllm.evaluate.leaks import AuditRows, Finding, find
from trafficllm.evaluate.marks import marks_of
from trafficllm.evaluate.packets import leaky_and_honest
from trafficllm.records.dataset import Dataset
from trafficllm.records.duplicates import duplicates
from trafficllm.records.probe import artefact_probe

_WORDS = {
    "same_flow": "packets of one flow are on both sides of the split",
    "same_session": "flows between the same two hosts are on both sides of the split",
    "duplicate": "equal masked contents are on both sides of the split",
    "address": "addresses alone tell the answer",
    "time": "the time of capture alone tells the answer",
    "sequence": "initial sequence numbers alone tell the answer",
    "ttl": "the TTL alone tells the answer",
    "link_type": "the link type alone tells the answer",
    "padding": "padding behind the IP packet alone tells the answer",
    "truncation": "whether frames were cut alone tells the answer",
}


def rows_of(dataset: Dataset, captures: str | Path | None = None) -> AuditRows:
    """The audit's view of a built data set; `captures` is the folder it was built from, for marks that no record carries."""
    everything = list(range(len(dataset)))
    meta = dataset.meta(everything)
    parts = {i: part for part in ("train", "val", "test") for i in dataset.indices(part)}
    raw = dataset.raw_records(everything)
    return AuditRows(
        y=dataset.labels_of(everything),
        part=[parts.get(i, "dropped") for i in everything],
        raw=raw,
        masked=[dataset.mask(record) for record in raw],
        meta=meta,
        groups=dataset.groups(everything),
        content=dataset.hashes(everything),
        umbrella=dataset.task.umbrella_of,
        marks=marks_of(captures, meta) if captures else {},
        masked_fields=frozenset(dataset.masked_fields),
        codec=dataset.codec,
    )


def shared_groups(rows: AuditRows) -> int:
    """Groups with flows in more than one part."""
    parts: dict[str, set[str]] = {}
    for group, part in zip(rows.groups, rows.part, strict=True):
        parts.setdefault(group, set()).add(part)
    return sum(len(sides - {"dropped"}) > 1 for sides in parts.values())


def _part(rows: AuditRows, idx: Sequence[int]) -> baselines.Part:
    return baselines.Part(
        records=[rows.masked[i] for i in idx],
        y=[rows.y[i] for i in idx],
        raw=[rows.raw[i] for i in idx],
        meta=[rows.meta[i] for i in idx],
        codec=rows.codec,
    )


def _scorer(
    rows: AuditRows, labels: Sequence[str], judged: Sequence[int], context: Mapping[str, Any]
) -> Callable[..., dict[str, Any]]:
    y, groups = [rows.y[i] for i in judged], [rows.groups[i] for i in judged]
    hashes = [rows.content[i] for i in judged]

    def score(y_pred: Sequence[str], proba: F64) -> dict[str, Any]:
        full = quality.quality(
            labels, y, y_pred, groups, unique_hashes=hashes, probabilities=proba, seeds=[0], **context
        )
        return {key: full[key] for key in ("macro_f1", "accuracy", "ci95", "ece", "n_test", "not_measurable")}

    return score


def _stress(
    rows: AuditRows,
    labels: Sequence[str],
    judged: Sequence[int],
    mask: Callable[[Record], Record],
    outcomes: Mapping[str, Any],
) -> dict[str, Any]:
    """Forge and payload tests of the best tree, as chosen on validation."""
    trees = [name for name in ("lightgbm", "random_forest") if name in outcomes]
    best = max(trees, key=lambda name: outcomes[name]["params"].get("validation", 0.0))
    bench = robust.Bench([rows.raw[i] for i in judged], [rows.y[i] for i in judged], labels, mask)
    fitted = outcomes[best]["fitted"]
    return {
        "forge": {"by": best, **robust.forge_test(bench, fitted)},
        "payload": {"by": best, **robust.payload_test(bench, fitted)},
    }


def _mark_lines(findings: Sequence[Finding]) -> list[str]:
    shown = [f for f in findings if f.question != "split"]
    loud = [f for f in shown if not f.hidden]
    lines = [
        f"{_WORDS[f.kind]} ({f.field}, {f.question}, macro-F1 {f.score:.2f})"
        + (", hidden by the masks" if f.hidden else "")
        for f in shown
    ]
    if loud:
        lines.append("a model can see " + ", ".join(sorted({f.kind for f in loud})))
    return lines


def verdict(report: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """The report in sentences: what is wrong with the data, and what score may be believed."""
    lines = [f"{_WORDS[f.kind]} ({f.score:.0%} of test flows)" for f in findings if f.question == "split"]
    lines += _mark_lines(findings)
    if report["duplicates"]["conflicting"] > 0:
        lines.append(
            f"equal contents carry different labels: no model can pass accuracy {report['duplicates']['ceiling']:.3f}"
        )
    gap = report["leaky"] - report["honest"]
    lines.append(
        f"single packets score {report['leaky']:.2f} split at random and {report['honest']:.2f} split by flow and masked"
        + (": published per-packet figures on such data mean little" if gap > 0.1 else "")
    )
    if report["forge"]["relies_on_identifiers"]:
        lines.append(f"the best tree relies on identifiers (forge test {report['forge']['delta']:+.2f})")
    best = max(report["baselines"].items(), key=lambda item: item[1]["macro_f1"])
    lines.append(f"honest score to beat: {best[0]} {best[1]['macro_f1']:.3f}")
    return ". ".join(line[0].upper() + line[1:] for line in lines) + "."


def audit_rows(
    rows: AuditRows, mask: Callable[[Record], Record], *,
    split: str = "given", profile: str = "strict", judged: str = "test", seed: int = 0, threads: int = 1, budget_s: float = 60.0,
) -> dict[str, Any]:  # fmt: skip
    """Audit rows that need not come from a data set on disk; `mask` is what turns a raw record into a masked one."""
    labels = sorted(set(rows.y))
    train, val, mine = rows.rows("train"), rows.rows("val"), rows.rows(judged)
    outcomes = baselines.run(
        _part(rows, train),
        _part(rows, val),
        _part(rows, mine),
        labels=labels,
        seed=seed,
        threads=threads,
        budget_s=budget_s,
    )
    context = {"split": split, "mask": profile, "leaky": [], "seen_by_base": "0/0"}
    table = baselines.table(outcomes, _scorer(rows, labels, mine, context))
    findings, unchecked = find(rows, judged=judged)
    leaky, honest = leaky_and_honest(rows, labels, judged=judged, seed=seed, threads=threads)
    probe = artefact_probe(rows.masked, rows.y, rows.umbrella, train, val or mine)
    report: dict[str, Any] = {
        "findings": [finding.as_dict() for finding in findings],
        "not_checked": unchecked,
        "duplicates": duplicates(rows.content, rows.y),
        "shared_groups": shared_groups(rows),
        "identifier_probe": table.get("identifier_probe", {}).get("macro_f1"),
        "artefact_probe": {
            name: {"label": round(s.label, 4), "umbrella": s.umbrella} for name, s in probe.items()
        },
        "baselines": table,
        "honest": honest,
        "leaky": leaky,
        "judged": judged,
        "split": split,
        "mask": profile,
        **_stress(rows, labels, mine, mask, outcomes),
    }
    return report | {"verdict": verdict(report, findings)}


def audit(
    dataset: Dataset, *, captures: str | Path | None = None, judged: str = "test", seed: int = 0, threads: int = 1,
    budget_s: float = 60.0,
) -> dict[str, Any]:  # fmt: skip
    """The `data audit --json` object of a data set.

    `captures`: the folder it was built from; without it padding, sequence numbers and snap lengths are listed under
    `not_checked`. `judged` is the part scored: "val" leaves a reserved test part untouched.
    """
    return audit_rows(
        rows_of(dataset, captures), dataset.mask, split=str(dataset.manifest["split"]["unit"]), profile=dataset.profile,
        judged=judged, seed=seed, threads=threads, budget_s=budget_s,
    )  # fmt: skip
