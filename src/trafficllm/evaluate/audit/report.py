"""`data audit`: what a labelled data set leaks, what trees reach on it honestly, and a verdict in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from trafficllm.core.types import F64, Record
from trafficllm.evaluate import quality
from trafficllm.evaluate.audit.leaks import AuditRows, codes, find, mark_columns, questions
from trafficllm.evaluate.audit.packets import side_by_side
from trafficllm.evaluate.audit.results import (
    AuditedRows,
    AuditFacts,
    AuditField,
    AuditScore,
    DataAudit,
    FieldProbe,
    ForgeOfBest,
    PayloadOfBest,
)
from trafficllm.evaluate.audit.rows import capped, class_table, rows_of, shared_groups, shared_units
from trafficllm.evaluate.audit.words import verdict
from trafficllm.evaluate.baselines import probes
from trafficllm.evaluate.baselines import table as baselines
from trafficllm.evaluate.baselines.features import identifier_names, identifiers
from trafficllm.evaluate.results import Quality
from trafficllm.evaluate.shift import robust
from trafficllm.records.dataset.dataset import Dataset
from trafficllm.records.dataset.duplicates import duplicates
from trafficllm.records.probe import FIELD_OF, artefact_probe

Outcomes: TypeAlias = Mapping[str, baselines.Outcome]
_BOOT = 300


@dataclass(frozen=True, slots=True)
class Options:
    """How an audit is run: what split and masks its rows come from, which part is judged, and how much work is spent.

    `most` training flows at most (capped a class), half as many judged ones; `budget_s` of estimated work a learner.
    """

    split: str = "given"
    profile: str = "strict"
    leaky: tuple[str, ...] = ()
    judged: str = "test"
    seed: int = 0
    threads: int = 1
    budget_s: float = 20.0
    most: int = 6000


def _part(rows: AuditRows, idx: Sequence[int]) -> baselines.Part:
    return baselines.Part(
        records=[rows.masked[i] for i in idx],
        y=[rows.y[i] for i in idx],
        raw=[rows.raw[i] for i in idx],
        meta=[rows.meta[i] for i in idx],
        codec=rows.codec,
    )


def _judge(
    rows: AuditRows,
    labels: Sequence[str],
    idx: Sequence[int],
    answers: Sequence[str],
    *,
    split: str,
    mask: str,
    options: Options,
    proba: F64 | None = None,
    contents: Sequence[object] | None = None,
) -> Quality:
    """The quality object of answers to rows `idx`."""
    return quality.quality(
        labels,
        [rows.y[i] for i in idx],
        answers,
        [rows.groups[i] for i in idx],
        unique_hashes=contents if contents is not None else [rows.content[i] for i in idx],
        probabilities=proba,
        seeds=[options.seed],
        split=split,
        mask=mask,
        leaky=options.leaky,
        seen_by_base="0/0",
        n_boot=_BOOT,
    )


def _best(table: dict[str, AuditScore], outcomes: Outcomes) -> None:
    """`lightgbm`: the set of columns that validation prefers."""
    views = [name for name in table if name.startswith("lightgbm_")]
    if views:
        table["lightgbm"] = table[max(views, key=lambda name: outcomes[name].params.get("validation", 0.0))]


def _stress(
    rows: AuditRows,
    labels: Sequence[str],
    judged: Sequence[int],
    mask: Callable[[Record], Record],
    outcomes: Mapping[str, baselines.Outcome],
) -> tuple[ForgeOfBest, PayloadOfBest]:
    """Forge and payload tests of the best tree, as chosen on validation."""
    trees = [name for name in outcomes if name.startswith(("lightgbm", "random_forest"))]
    best = max(trees, key=lambda name: outcomes[name].params.get("validation", 0.0))
    bench = robust.Bench([rows.raw[i] for i in judged], [rows.y[i] for i in judged], labels, mask)
    fitted = outcomes[best].fitted
    forged, payload = robust.forge_test(bench, fitted), robust.payload_test(bench, fitted)
    return ForgeOfBest.of(forged, by=best, limit=robust.FORGE_LIMIT), PayloadOfBest.of(payload, by=best)


def field_table(rows: AuditRows) -> list[AuditField]:
    """What each single field tells, before and after masking, cross-validated by group: macro-F1 of label and umbrella question.

    `hidden`: the masks of this data set keep it from a model.
    """
    by_name = {name: probes.Question.of(name, y, rows.groups) for name, y in questions(rows).items()}
    columns = {f"{kind}: {name}": values for kind, fields in mark_columns(rows).items() for name, values in fields.items()}
    every = {name: codes(values) for name, values in columns.items()}
    if rows.raw and rows.raw[0].kind in ("flow", "packet"):
        marks, names = identifiers(rows.raw, rows.meta), identifier_names()
        every |= {name: marks[:, names.index(name)] for name in names if name.startswith(("port", "window"))}
    told = {name: {question: by_name[question].ask(column)[0] for question in by_name} for name, column in every.items()}
    out = [
        AuditField(
            field=name,
            label=round(row["label"], 4),
            umbrella=round(row["umbrella"], 4) if "umbrella" in row else None,
            hidden=not name.startswith("truncation") and ("ttl" not in name or "ttl" in rows.masked_fields),
        )
        for name, row in told.items()
    ]
    return sorted(out, key=lambda row: (-(row.umbrella or 0.0), -row.label, row.field))


def _probe(rows: AuditRows, train: Sequence[int], val: Sequence[int]) -> dict[str, FieldProbe]:
    scores = artefact_probe(rows.masked, rows.y, rows.umbrella, train, val)
    return {
        name: FieldProbe(label=round(s.label, 4), umbrella=None if s.umbrella is None else round(s.umbrella, 4))
        for name, s in scores.items()
        if FIELD_OF.get(name, name) not in rows.masked_fields
    }


def audit_rows(rows: AuditRows, mask: Callable[[Record], Record], options: Options | None = None) -> AuditedRows:
    """Audit rows that need not come from a data set on disk; `mask` is what turns a raw record into a masked one."""
    o = options or Options()
    labels = sorted(set(rows.y))
    train, cap = capped(rows, rows.rows("train"), o.most, per_class=True)
    val, _ = capped(rows, rows.rows("val"), o.most // 2, per_class=False)
    mine, _ = capped(rows, rows.rows(o.judged), o.most // 2, per_class=False)
    parts = (_part(rows, train), _part(rows, val), _part(rows, mine))
    outcomes = baselines.run(*parts, labels=labels, seed=o.seed, threads=o.threads, budget_s=o.budget_s, names=baselines.VIEW_NAMES)

    def score(answers: Sequence[str], proba: F64) -> Quality:
        return _judge(rows, labels, mine, answers, split=o.split, mask=o.profile, options=o, proba=proba)

    def judge(idx: Sequence[int], answers: Sequence[str], split: str, mask: str) -> AuditScore:
        return AuditScore.of(_judge(rows, labels, idx, answers, split=split, mask=mask, options=o, contents=range(len(idx))))

    table = {name: AuditScore.of(row, **_mask(name, o)) for name, row in baselines.table(outcomes, score).items()}
    _best(table, outcomes)
    findings, unchecked = find(rows, judged=o.judged)
    packets = side_by_side(rows, labels, judge, split=o.split, profile=o.profile, judged=o.judged, seed=o.seed, threads=o.threads)
    shared = shared_units(rows)
    forged, payload = _stress(rows, labels, mine, mask, outcomes)
    facts = AuditFacts(
        findings=[finding.row() for finding in findings],
        not_checked=unchecked,
        flows=len(rows.y),
        classes=class_table(rows),
        not_measurable=table["majority"].not_measurable,
        duplicates=duplicates(rows.content, rows.y),
        shared_groups=shared["capture"] if o.split == "given" else shared_groups(rows),
        shared=shared,
        identifier_probe=table["identifier_probe"].macro_f1 if "identifier_probe" in table else None,
        artefact_probe=_probe(rows, train, val or mine),
        fields=field_table(rows),
        baselines=table,
        honest=packets["honest"].macro_f1,
        leaky=packets["leaky"].macro_f1,
        per_packet=packets,
        judged=o.judged,
        split=o.split,
        mask=o.profile,
        cap={"train_per_class": cap, "train": len(train), "val": len(val), "judged": len(mine)},
        forge=forged,
        payload=payload,
    )
    return AuditedRows.of(facts, verdict=verdict(facts))


def _mask(name: str, options: Options) -> dict[str, str]:
    """The identifier probe reads only what the masks hide from the others."""
    return {"mask": f"only what {options.profile} hides"} if name == "identifier_probe" else {}


def audit(
    dataset: Dataset,
    *,
    captures: str | Path | None = None,
    judged: str = "auto",
    seed: int = 0,
    threads: int = 1,
    budget_s: float = 20.0,
    most: int = 6000,
) -> DataAudit:
    """The `data audit --json` object of a data set.

    `judged`: "test", or "rest" to leave the test part alone and split the other flows anew; "auto" is "rest" where flows are
    reserved, which are scored once and not by an audit. `captures`: the folder it was built from, for data sets that keep no
    marks; without either, what only captures show is listed under `not_checked`.
    """
    manifest = dataset.manifest
    spare = judged == "rest" or (judged == "auto" and bool(manifest["split"]["reserved"]))
    unit = str(manifest["split"]["unit"])
    options = Options(
        split=f"{unit}, reserved part left alone" if spare else unit,
        profile=dataset.profile,
        leaky=tuple(manifest["leaky"]),
        seed=seed,
        threads=threads,
        budget_s=budget_s,
        most=most,
    )
    report = audit_rows(rows_of(dataset, captures, spare_test=spare, seed=seed), dataset.mask, options)
    return DataAudit.of(
        report,
        judged="rest" if spare else "test",
        masked_fields=list(dataset.masked_fields),
        artefact_masked=manifest["artefact_masked"],
        causal=dict(dataset.task.causal),
        task=dataset.task.id,
        dataset_sha256=dataset.sha256,
        dropped=manifest["dropped"],
        leaky_options=manifest["leaky"],
    )
