"""What is judged: one part of a data set, or of each of its folds, answered by adapters and baselines alike, scored by one rule."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.sampling import every_nth
from trafficllm.core.types import F64
from trafficllm.lifecycle.studies import scoring

if TYPE_CHECKING:
    from trafficllm.core.types import Record, Scorer, Scores
    from trafficllm.evaluate.baselines.learners import Part
    from trafficllm.evaluate.baselines.table import Outcome
    from trafficllm.evaluate.results import Quality
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.model.base.load import Base
    from trafficllm.records.dataset.dataset import Dataset

PARTS = ("test", "val")
VALIDATION = "scored on validation, which chooses"
"""The leaky mark of a trial: settings are chosen on validation, so its scores are no result."""


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """How an evaluation is run: the `part` that is judged, at most `most` flows of it (0: all), the `seed`, and `budget_s` seconds of
    estimated work for each baseline's search; `checkpoint`: weights of TabICL, which is then a baseline too."""

    part: str = "test"
    most: int = 0
    seed: int = 0
    budget_s: float = 60.0
    checkpoint: Path | None = None


@dataclass(frozen=True)
class EvaluationSet:
    """The judged rows: `part` of one data set, or of several that are folds of one; `labels` are those that could be learnt.

    `most` thins the rows evenly (by their order), as trials do; 0 keeps all.
    """

    sets: tuple[Dataset, ...]
    part: str = "test"
    most: int = 0

    @classmethod
    def of(cls, sets: Sequence[Dataset], options: EvalOptions) -> EvaluationSet:
        """An evaluation set with rows; UsageError for another part, InputError where the part is empty."""
        if options.part not in PARTS:
            raise UsageError("usage.part", f"no part '{options.part}' to score", input="--part", hint=" or ".join(PARTS))
        evaluation_set = cls(tuple(sets), options.part, options.most)
        for dataset, rows in zip(evaluation_set.sets, evaluation_set.rows, strict=True):
            if not rows:
                hint = "add captures, or split by flow: --split flow"
                raise InputError("input.no_test", f"the data set has no {options.part} records", input=str(dataset.path), hint=hint)
        return evaluation_set

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels that could be learnt, of all folds."""
        return tuple(sorted({label for dataset in self.sets for label in scoring.labels_of(dataset)}))

    @cached_property
    def rows(self) -> tuple[list[int], ...]:
        """Judged rows of each data set."""
        parts = (scoring.rows(dataset, self.part, self.labels)[0] for dataset in self.sets)
        return tuple(every_nth(rows, self.most) for rows in parts)

    @cached_property
    def truth(self) -> list[str]:
        """Their labels."""
        return [label for dataset, rows in self._each() for label in dataset.labels_of(rows)]

    @cached_property
    def groups(self) -> list[str]:
        """What a bootstrap resamples: the split's groups; where a split file names the parts, the captures."""
        return [group for dataset, rows in self._each() for group in _groups(dataset, rows)]

    @cached_property
    def content(self) -> list[int]:
        """Hashes of masked contents."""
        return [value for dataset, rows in self._each() for value in dataset.hashes(rows)]

    @cached_property
    def names(self) -> list[str]:
        """What names a row wherever it is built: file and uid."""
        return [f"{m.capture} {m.uid}" for dataset, rows in self._each() for m in dataset.meta(rows)]

    @property
    def leaky(self) -> list[str]:
        """Marks of the data sets, and of a trial."""
        marks = {mark for dataset in self.sets for mark in dataset.manifest["leaky"]}
        return sorted(marks | ({VALIDATION} if self.part == "val" else set()))

    def _each(self) -> Iterator[tuple[Dataset, list[int]]]:
        return zip(self.sets, self.rows, strict=True)

    def raw(self) -> list[Record]:
        """Unmasked records of the rows, for shifts."""
        return [record for dataset, rows in self._each() for record in dataset.raw_records(rows)]

    def seen(self, base: Base) -> str:
        """`n/m` of the judged contents that the base was trained on."""
        from trafficllm.evaluate.quality import seen_by_base
        from trafficllm.model.base.extend import load_seen

        seen = set(load_seen(base.path).tolist())
        strict = (value for dataset, rows in self._each() for value in scoring.strict_hashes(dataset, rows))
        return seen_by_base([own if own in seen else plain for own, plain in zip(self.content, strict, strict=True)], seen)

    def quality(
        self, runs: Sequence[Sequence[str]], *, labels: Sequence[str], seen: str, seeds: Sequence[int], probabilities: F64 | None = None
    ) -> Quality:
        """The quality object of predictions for the rows, one run a seed."""
        from trafficllm.evaluate.quality import quality_of_seeds

        first = self.sets[0]
        return quality_of_seeds(
            labels,
            self.truth,
            runs,
            self.groups,
            unique_hashes=self.content,
            split=_split_words(first, len(self.sets)),
            mask=first.profile,
            leaky=self.leaky,
            seen_by_base=seen,
            seeds=seeds,
            probabilities=probabilities,
        )

    def parts(self, which: int) -> tuple[Part, Part, Part]:
        """Training, validation and judged rows of one data set, as baselines take them."""
        from trafficllm.evaluate.baselines.learners import Part

        dataset = self.sets[which]
        learnt = [scoring.rows(dataset, name, self.labels)[0] for name in ("train", "val")]
        train, val, judged = (Part.of(dataset, rows) for rows in (*learnt, self.rows[which]))
        return train, val, judged

    def learning(self, which: int) -> tuple[Part, Part, Part]:
        """`parts`; where validation is judged, every fifth training row chooses settings instead, so that nothing saw what is scored."""
        train, val, judged = self.parts(which)
        return (*_fifth(train), judged) if self.part == "val" else (train, val, judged)

    def baselines(self, options: EvalOptions, names: Sequence[str] = ()) -> dict[str, Outcome]:
        """Every baseline's predictions (see `evaluate.baselines.run`), over folds put together; they learn by `learning`."""
        from trafficllm.evaluate.baselines import table as baselines

        folds = []
        for which in range(len(self.sets)):
            train, val, judged = self.learning(which)
            folds.append(
                baselines.run(
                    train,
                    val,
                    judged,
                    labels=self.labels,
                    seed=options.seed,
                    threads=scoring.threads(),
                    budget_s=options.budget_s,
                    names=names or baselines.NAMES,
                    checkpoint=options.checkpoint,
                )
            )
        return {name: _joined([fold[name] for fold in folds]) for name in folds[0]}


def _groups(dataset: Dataset, rows: Sequence[int]) -> list[str]:
    if dataset.manifest["split"]["unit"] != "fixed":
        return dataset.groups(rows)
    return [m.origin or m.capture or m.community_id for m in dataset.meta(rows)]


def _split_words(dataset: Dataset, folds: int) -> str:
    unit = str(dataset.manifest["split"]["unit"])
    return f"{folds} folds" if folds > 1 else unit


def _fifth(train: Part) -> tuple[Part, Part]:
    """Four fifths to learn from, a fifth to choose by."""

    def pick(held: bool) -> Part:
        rows = [k for k in range(len(train.y)) if (k % 5 == 0) == held]
        raw = [train.raw[k] for k in rows] if train.raw else []
        meta = [train.meta[k] for k in rows] if train.meta else []
        records, y = [train.records[k] for k in rows], [train.y[k] for k in rows]
        return dataclasses.replace(train, records=records, y=y, raw=raw, meta=meta)

    return pick(False), pick(True)


def _joined(folds: Sequence[Outcome]) -> Outcome:
    """One outcome from those of the folds; the choice of settings is the first fold's."""
    import numpy as np

    if len(folds) == 1:
        return folds[0]
    rows = [len(fold.predicted) for fold in folds]
    spent = sum(n / fold.flows_per_s for n, fold in zip(rows, folds, strict=True))
    return dataclasses.replace(
        folds[0],
        predicted=[label for fold in folds for label in fold.predicted],
        probabilities=np.concatenate([fold.probabilities for fold in folds]),
        seconds=sum(fold.seconds for fold in folds),
        flows_per_s=sum(rows) / max(spent, 1e-9),
    )


@dataclass(frozen=True, slots=True)
class Predictions:
    """A scorer's predictions for the rows: `predicted` labels, `probabilities` [n, labels], `unknown` [n] whether called unknown."""

    predicted: list[str]
    probabilities: F64
    unknown: list[bool]
    seconds: float
    scores: Scores


RowScores: TypeAlias = "Callable[[LLMScorer, Dataset, Sequence[int]], Scores]"
"""Scores rows of a data set: `scoring.score_rows`, or the nodes of a cluster."""


def predict(
    scorer: LLMScorer, dataset: Dataset, rows: Sequence[int], labels: Sequence[str], score: RowScores = scoring.score_rows
) -> Predictions:
    """An adapter's predictions, its probabilities in the order of `labels`."""
    from trafficllm.infer import calibration as cal

    start = time.perf_counter()
    scores = score(scorer, dataset, rows)
    spent = max(time.perf_counter() - start, 1e-9)
    predicted = [scorer.labels[k] for k in scores.probabilities.argmax(axis=1)]
    unknown = (cal.unknown_score(scorer.calibration, scores) > cal.threshold(scorer.calibration)).tolist()
    return Predictions(predicted, in_order(scores, labels), unknown, spent, scores)


def in_order(scores: Scores, labels: Sequence[str]) -> F64:
    """Probabilities with one column for each of `labels`: 0 where the scorer does not know it."""
    import numpy as np

    out = np.zeros((len(scores.probabilities), len(labels)))
    for column, label in enumerate(scores.labels):
        if label in labels:
            out[:, list(labels).index(label)] = scores.probabilities[:, column]
    return out


def learnt_marks(learnt: Collection[int], judged: Sequence[int], place: str) -> list[str]:
    """The leaky mark of judged contents that were learnt from: none, or one that counts them."""
    shared = sum(value in learnt for value in judged)
    return [f"{shared} judged contents learnt from in {place}"] if shared else []


def predict_records(scorer: Scorer, records: Sequence[Record]) -> list[str]:
    """The likeliest label of each masked record, a few hundred scored at a time."""
    out: list[str] = []
    for at in range(0, len(records), scoring.CHUNK):
        best = scorer.score(records[at : at + scoring.CHUNK]).probabilities.argmax(axis=1)
        out += [scorer.labels[k] for k in best.tolist()]
    return out
