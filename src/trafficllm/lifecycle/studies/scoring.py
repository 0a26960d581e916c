"""Judging an adapter on a data set: calibration from validation, one score on test, baselines on the same input."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError
from trafficllm.core.machine import work_threads
from trafficllm.core.sampling import evenly_over_labels
from trafficllm.core.types import F64, Scores

if TYPE_CHECKING:
    from trafficllm.core.types import Record
    from trafficllm.evaluate.baselines.learners import Part
    from trafficllm.evaluate.baselines.table import Outcome
    from trafficllm.evaluate.results import Baseline, Quality
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.model.base.load import Base
    from trafficllm.records.dataset.dataset import Dataset

BANK = 2000
"""Training rows scored for the unknown score's distances: 20 s of one core; at most 512 that cover the rest are kept."""
CALIBRATION_ROWS = 1000
"""Validation rows that calibration scores, every n-th of them: a temperature and a 5 % threshold need no more."""
CHUNK = 512
"""Rows read and scored at once."""


def labels_of(dataset: Dataset) -> tuple[str, ...]:
    """The closed label set an adapter learns: labels with training records. InputError for fewer than two."""
    labels = tuple(dataset.manifest["trainable"])
    if len(labels) < 2:
        raise InputError(
            "input.labels",
            f"{len(labels)} of {len(dataset.labels)} labels have training records",
            input=str(dataset.path),
            hint="add captures: each label needs enough groups for training, validation and test",
        )
    return labels


def rows(dataset: Dataset, part: str, labels: Sequence[str] | None = None) -> tuple[list[int], list[str]]:
    """Indices and labels of a part, only those of `labels` where given."""
    indices = dataset.indices(part)
    names = dataset.labels_of(indices)
    wanted = [k for k, name in enumerate(names) if labels is None or name in labels]
    return [indices[k] for k in wanted], [names[k] for k in wanted]


def distinct(dataset: Dataset, indices: Sequence[int], y: Sequence[str]) -> tuple[list[int], list[str]]:
    """Rows to learn from: of HTTP requests each content and label once, as baselines learn them; of anything else all rows."""
    from trafficllm.records.dataset.duplicates import first_of_each

    if dataset.kind != "http":
        return list(indices), list(y)
    first = first_of_each(zip(dataset.hashes(indices), y, strict=True))
    return [indices[k] for k in first], [y[k] for k in first]


def calibrate(scorer: LLMScorer, dataset: Dataset, *, seed: int = 0, bank: int = BANK, scores: Scores | None = None) -> dict[str, Any]:
    """Calibration from validation: the readout's weight, temperature, unknown score and threshold (see evaluate.calibrate); at most `bank`
    training and CALIBRATION_ROWS validation rows are scored, or none of the latter where `scores` has them all: the weight then stays."""
    from trafficllm.evaluate import calibrate as fitting
    from trafficllm.infer.engine.scorer import WEIGHT

    val, y_val = rows(dataset, "val", scorer.labels)
    if scores is None:
        step = max(1, -(-len(val) // CALIBRATION_ROWS))
        val, y_val = val[::step], y_val[::step]
        scores, weight = _weighed(scorer, dataset, val, y_val, seed)
        scorer.calibration |= weight
    train, y_train = rows(dataset, "train", scorer.labels)
    some = evenly_over_labels(y_train, bank)
    learnt = scorer.score(dataset.records([train[k] for k in some]))
    fitted = fitting.fit(
        scores.logits,
        y_val,
        scorer.labels,
        **{name: side.astype("float64") for name in ("hidden", "pooled", "readout") if (side := getattr(scores, name)) is not None},
        groups=dataset.groups(val),
        train=(learnt, [y_train[k] for k in some]),
        seed=seed,
    )
    return fitted.as_dict() | {key: scorer.calibration[key] for key in (WEIGHT,) if key in scorer.calibration}


def _weighed(scorer: LLMScorer, dataset: Dataset, rows: Sequence[int], y: Sequence[str], seed: int) -> tuple[Scores, dict[str, float]]:
    """Scores of validation rows by the readout's best weight, and that weight as calibration; as they are where there is no readout."""
    from trafficllm.core.calibration import softmax
    from trafficllm.evaluate import calibrate as fitting
    from trafficllm.infer.engine.scorer import WEIGHT

    if not rows or not scorer.engine.reads_out(scorer.adapter, scorer.labels):
        return score_rows(scorer, dataset, rows), {}
    past, scorer.calibration = scorer.calibration, scorer.calibration | {WEIGHT: 0.0}
    trie = score_rows(scorer, dataset, rows)
    scorer.calibration = past
    assert trie.readout is not None
    weight, logits = fitting.choose_weight(trie.logits, trie.readout.astype("float64"), y, scorer.labels, dataset.groups(rows), seed=seed)
    return replace(trie, logits=logits, probabilities=softmax(logits)), {WEIGHT: weight}


def score_rows(scorer: LLMScorer, dataset: Dataset, indices: Sequence[int], *, features: bool = False) -> Scores:
    """Scores of a data set's rows, read and scored a few hundred at a time; with `features` the states that a readout reads."""
    parts = [scorer.score(dataset.records(indices[at : at + CHUNK]), features=features) for at in range(0, len(indices), CHUNK)]
    return joined(scorer, parts)


def score_records(scorer: LLMScorer, records: Sequence[Record]) -> Scores:
    """Scores of masked records, a few hundred at a time."""
    return joined(scorer, [scorer.score(records[at : at + CHUNK]) for at in range(0, len(records), CHUNK)])


def joined(scorer: LLMScorer, parts: Sequence[Scores]) -> Scores:
    """Scores of consecutive rows put together, all states with them."""
    import numpy as np

    if not parts:
        return scorer.score([])
    states = (
        [v for v in side if v is not None]
        for side in zip(*((p.hidden, p.pooled, p.readout, p.umbrella, p.features) for p in parts), strict=True)
    )
    return Scores(
        scorer.labels,
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.logits for part in parts]),
        *(np.concatenate(side) if side else None for side in states),
    )


def assess(scorer: LLMScorer, dataset: Dataset, base: Base, *, seed: int = 0) -> tuple[Quality, dict[str, float], Scores]:
    """The quality object on the test part, what it cost (`flows_per_second`, `seconds`, `unknown_share`), and the scores."""
    from trafficllm.infer import calibration as cal

    test, _ = _test_rows(dataset)
    start = time.monotonic()
    scores = score_rows(scorer, dataset, test)
    spent = max(time.monotonic() - start, 1e-9)
    predicted = [scorer.labels[k] for k in scores.probabilities.argmax(axis=1)]
    unknown = cal.unknown_score(scorer.calibration, scores) > cal.threshold(scorer.calibration)
    quality = quality_of(dataset, base, predicted, labels=scorer.labels, probabilities=scores.probabilities, seed=seed)
    cost = {"flows_per_second": round(len(test) / spent, 1), "seconds": round(spent, 2), "unknown_share": float(unknown.mean())}
    return quality, cost, scores


def _test_rows(dataset: Dataset) -> tuple[list[int], list[str]]:
    """Test rows of labels that could be learnt; InputError where there is none."""
    test, y = rows(dataset, "test", labels_of(dataset))
    if not test:
        raise InputError(
            "input.no_test",
            "the data set has no test records, so nothing can be said about an adapter",
            input=str(dataset.path),
            hint="add captures, or split by flow: --split flow",
        )
    return test, y


def quality_of(
    dataset: Dataset, base: Base, predicted: Sequence[str], *, labels: Sequence[str], probabilities: F64 | None = None, seed: int = 0
) -> Quality:
    """The quality object of predictions for the data set's test rows, with its split, masks, leaks and what the base had seen."""
    from trafficllm.evaluate import quality
    from trafficllm.model.base.extend import load_seen

    test, y = _test_rows(dataset)
    hashes = dataset.hashes(test)
    seen = set(load_seen(base.path).tolist())
    shown = [own if own in seen else plain for own, plain in zip(hashes, strict_hashes(dataset, test), strict=True)]
    manifest = dataset.manifest
    return quality.quality(
        labels,
        y,
        predicted,
        dataset.groups(test),
        unique_hashes=hashes,
        split=manifest["split"]["unit"],
        mask=dataset.profile,
        leaky=manifest["leaky"],
        seen_by_base=quality.seen_by_base(shown, seen),
        seeds=[seed],
        probabilities=probabilities,
    )


def strict_hashes(dataset: Dataset, indices: Sequence[int]) -> list[int]:
    """Content hashes of rows under plain `strict`: what a base records, whatever artefact masks the data set adds."""
    from trafficllm.core.files import hash64
    from trafficllm.records import masks
    from trafficllm.records.codec.codec import encode

    if "plain" in dataset.table.column_names:  # a kept sample has no raw records, but these hashes
        return list(dataset.table["plain"].take(list(indices)).to_pylist())
    plain = (masks.wiped(masks.apply(record, "strict")) for record in dataset.raw_records(indices))
    return [hash64(encode(record, dataset.codec).encode()) for record in plain]


def baselines(dataset: Dataset, base: Base, *, seed: int, budget_s: float) -> dict[str, Baseline]:
    """Every baseline's row on the same split and the same masked input; `budget_s` estimated seconds of search for each."""
    return table(dataset, base, fit_baselines(dataset, seed=seed, budget_s=budget_s), seed=seed)


def fit_baselines(dataset: Dataset, *, seed: int, budget_s: float) -> Mapping[str, Outcome]:
    """The baselines, trained, with their predictions for validation and test (see evaluate.baselines.table.run)."""
    from trafficllm.evaluate.baselines import table as baseline_table

    labels = labels_of(dataset)
    parts = [_part(dataset, name, labels) for name in ("train", "val", "test")]
    return baseline_table.run(*parts, labels=labels, seed=seed, threads=threads(), budget_s=budget_s)


def expected_baseline_seconds(dataset: Dataset, *, budget_s: float) -> float:
    """Estimated work of `fit_baselines` in seconds of one core."""
    from trafficllm.evaluate.baselines import table as baseline_table

    labels = labels_of(dataset)
    return baseline_table.expected_seconds(_part(dataset, "train", labels), _part(dataset, "val", labels), budget_s=budget_s)


def table(dataset: Dataset, base: Base, outcomes: Mapping[str, Outcome], *, seed: int) -> dict[str, Baseline]:
    """The baselines' rows, each with a quality object made as the model's is."""
    from trafficllm.evaluate.baselines import table as baseline_table

    labels = labels_of(dataset)

    def score(predicted: Sequence[str], probabilities: F64) -> Quality:
        return quality_of(dataset, base, predicted, labels=labels, probabilities=probabilities, seed=seed)

    return baseline_table.table(outcomes, score)


def _part(dataset: Dataset, name: str, labels: Sequence[str]) -> Part:
    from trafficllm.evaluate.baselines.learners import Part

    indices, y = rows(dataset, name, labels)
    return Part(dataset.records(indices), y, dataset.raw_records(indices), dataset.meta(indices), codec=dataset.codec)


def threads() -> int:
    """Threads of the tree learners: what OMP_NUM_THREADS says, or one for each core that nobody else uses, at most 4."""
    return work_threads(4)
