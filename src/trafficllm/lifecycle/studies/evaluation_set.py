"""What is judged: one part of a data set, or of each of its folds, answered by adapters and baselines alike, scored by one rule."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.sampling import every_nth
from trafficllm.core.types import F64
from trafficllm.lifecycle.studies import scoring

if TYPE_CHECKING:
    from trafficllm.core.types import Record, Scorer, Scores
    from trafficllm.evaluate.baselines.learners import Part
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.model.base.load import Base
    from trafficllm.records.dataset.dataset import Dataset

PARTS = ("test", "val")
VALIDATION = "scored on validation, which chooses"
"""The leaky mark of a trial: settings are chosen on validation, so its scores are no result."""


@dataclass(frozen=True)
class Exam:
    """The judged rows: `part` of one data set, or of several that are folds of one; `labels` are those that could be learnt.

    `most` thins the rows evenly (by their order), as trials do; 0 keeps all.
    """

    sets: tuple[Dataset, ...]
    part: str = "test"
    most: int = 0

    @classmethod
    def of(cls, sets: Sequence[Dataset], part: str = "test", most: int = 0) -> Exam:
        """An exam with rows; UsageError for another part, InputError where the part is empty."""
        if part not in PARTS:
            raise UsageError("usage.part", f"no part '{part}' to score", input="--part", hint=" or ".join(PARTS))
        exam = cls(tuple(sets), part, most)
        for dataset, rows in zip(exam.sets, exam.rows, strict=True):
            if not rows:
                hint = "add captures, or split by flow: --split flow"
                raise InputError("input.no_test", f"the data set has no {part} records", input=str(dataset.path), hint=hint)
        return exam

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels that could be learnt, of all folds."""
        return tuple(sorted({label for dataset in self.sets for label in scoring.labels_of(dataset)}))

    @cached_property
    def rows(self) -> tuple[list[int], ...]:
        """Judged rows of each data set."""
        found = (scoring.rows(dataset, self.part, self.labels)[0] for dataset in self.sets)
        return tuple(every_nth(rows, self.most) for rows in found)

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

        known = set(load_seen(base.path).tolist())
        strict = (value for dataset, rows in self._each() for value in scoring.strict_hashes(dataset, rows))
        return seen_by_base([own if own in known else plain for own, plain in zip(self.content, strict, strict=True)], known)

    def quality(
        self, runs: Sequence[Sequence[str]], *, labels: Sequence[str], seen: str, seeds: Sequence[int], probabilities: F64 | None = None
    ) -> dict[str, Any]:
        """The quality object of answers to the rows, one run a seed."""
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
        chosen = [scoring.rows(dataset, name, self.labels)[0] for name in ("train", "val")]
        train, val, judged = (Part.of(dataset, rows) for rows in (*chosen, self.rows[which]))
        return train, val, judged

    def learning(self, which: int) -> tuple[Part, Part, Part]:
        """`parts`; where validation is judged, every fifth training row chooses settings instead, so that nothing saw what is scored."""
        train, val, judged = self.parts(which)
        return (*_fifth(train), judged) if self.part == "val" else (train, val, judged)

    def baselines(self, *, seed: int, budget_s: float, names: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """Every baseline's answers (see `evaluate.baselines.run`), over folds put together; they learn by `learning`."""
        from trafficllm.evaluate.baselines import table as baselines

        found = []
        for which in range(len(self.sets)):
            train, val, judged = self.learning(which)
            found.append(
                baselines.run(
                    train,
                    val,
                    judged,
                    labels=self.labels,
                    seed=seed,
                    threads=scoring.threads(),
                    budget_s=budget_s,
                    names=names or baselines.NAMES,
                )
            )
        return {name: _joined([fold[name] for fold in found]) for name in found[0]}


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
        kept = [k for k in range(len(train.y)) if (k % 5 == 0) == held]
        raw = [train.raw[k] for k in kept] if train.raw else []
        meta = [train.meta[k] for k in kept] if train.meta else []
        records, y = [train.records[k] for k in kept], [train.y[k] for k in kept]
        return dataclasses.replace(train, records=records, y=y, raw=raw, meta=meta)

    return pick(False), pick(True)


def _joined(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One answer from those of the folds; the choice of settings is the first fold's."""
    import numpy as np

    if len(folds) == 1:
        return dict(folds[0])
    rows = [len(fold["y_pred"]) for fold in folds]
    spent = sum(n / fold["flows_per_s"] for n, fold in zip(rows, folds, strict=True))
    return {
        **folds[0],
        "y_pred": [label for fold in folds for label in fold["y_pred"]],
        "proba": np.concatenate([fold["proba"] for fold in folds]),
        "seconds": sum(fold["seconds"] for fold in folds),
        "flows_per_s": sum(rows) / max(spent, 1e-9),
    }


@dataclass(frozen=True, slots=True)
class Answers:
    """A scorer's answers to the rows: `guess` label names, `probabilities` [n, labels], `strange` whether called unknown."""

    guess: list[str]
    probabilities: F64
    strange: Any
    seconds: float
    scores: Scores


def answer(scorer: LLMScorer, dataset: Dataset, rows: Sequence[int], labels: Sequence[str]) -> Answers:
    """An adapter's answers, its probabilities in the order of `labels`."""
    import numpy as np

    from trafficllm.infer import calibration as cal

    start = time.perf_counter()
    scores = scoring.score_rows(scorer, dataset, rows)
    spent = max(time.perf_counter() - start, 1e-9)
    guess = [scorer.labels[k] for k in scores.probabilities.argmax(axis=1)]
    strange = np.asarray(cal.unknown_score(scorer.calibration, scores) > cal.threshold(scorer.calibration))
    return Answers(guess, in_order(scores, labels), strange, spent, scores)


def in_order(scores: Scores, labels: Sequence[str]) -> F64:
    """Probabilities with one column for each of `labels`: 0 where the scorer does not know it."""
    import numpy as np

    out = np.zeros((len(scores.probabilities), len(labels)))
    for column, label in enumerate(scores.labels):
        if label in labels:
            out[:, list(labels).index(label)] = scores.probabilities[:, column]
    return out


def learnt_marks(known: Collection[int], judged: Sequence[int], place: str) -> list[str]:
    """The leaky mark of judged contents that were learnt from: none, or one that counts them."""
    shared = sum(value in known for value in judged)
    return [f"{shared} judged contents learnt from in {place}"] if shared else []


def guesses(scorer: Scorer, records: Sequence[Record]) -> list[str]:
    """The likeliest label of each masked record, a few hundred scored at a time."""
    out: list[str] = []
    for at in range(0, len(records), scoring.CHUNK):
        best = scorer.score(records[at : at + scoring.CHUNK]).probabilities.argmax(axis=1)
        out += [scorer.labels[k] for k in best.tolist()]
    return out
