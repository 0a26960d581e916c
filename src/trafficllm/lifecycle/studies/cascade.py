"""The cascade, an option and always a row of its own: trees answer what they are sure of, the LLM the rest.

No other figure of ours contains a baseline. It is a `Scorer` like any other, so `Detector`, evidence and `evaluate` take it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trafficllm.core.errors import InputError
from trafficllm.core.types import Record, Scorer, Scores
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.studies.results import Beside, CascadeScore

if TYPE_CHECKING:
    from trafficllm.evaluate.baselines.table import Outcome
    from trafficllm.model.base.load import Base
    from trafficllm.records.dataset.dataset import Dataset

FIRST = "lightgbm"


@dataclass(frozen=True, slots=True)
class Cascade:
    """Records that `first` answers with a probability of at least `threshold` are answered by it, all others by `second`.

    Both name the same labels in the same order; InputError otherwise. There are no hidden states: an unknown score may use
    probabilities only.
    """

    first: Scorer
    second: Scorer
    threshold: float

    def __post_init__(self) -> None:
        if tuple(self.first.labels) != tuple(self.second.labels):
            raise InputError("input.labels", "the two stages of a cascade name different labels", hint="fit both on one data set")

    @property
    def labels(self) -> tuple[str, ...]:
        """The closed label set."""
        return tuple(self.second.labels)

    def score(self, records: Sequence[Record]) -> Scores:
        """Each record's probabilities by the stage that answers it."""
        cheap = self.first.score(records)
        p, logits = cheap.probabilities.copy(), cheap.logits.copy()
        rest = np.flatnonzero(~self.sure(cheap)).tolist()
        if rest:
            dear = self.second.score([records[k] for k in rest])
            p[rest], logits[rest] = dear.probabilities, dear.logits
        return Scores(self.labels, p, logits)

    def sure(self, cheap: Scores) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows the first stage's scores settle."""
        from trafficllm.evaluate.cascade import answered

        return answered(cheap.probabilities.max(axis=1, initial=0.0), self.threshold)


def beside(dataset: Dataset, base: Base, ours: Scores, rate: float, *, seed: int, budget_s: float) -> Beside:
    """The rows of every baseline, and LightGBM with the LLM behind it (see `row`; None where an adapter of another label set was
    scored)."""
    outcomes = scoring.fit_baselines(dataset, seed=seed, budget_s=budget_s)
    same = tuple(ours.labels) == scoring.labels_of(dataset)
    joint = row(dataset, base, outcomes[FIRST], ours, rate, seed=seed) if same else None
    return Beside(baselines=scoring.table(dataset, base, outcomes, seed=seed), cascade=joint)


def row(dataset: Dataset, base: Base, trees: Outcome, ours: Scores, rate: float, *, seed: int) -> CascadeScore:
    """The cascade's row: quality of the joint answers on the test part, the share that the trees settle and how often they err there.

    `trees` is LightGBM's outcome on the same rows, `ours` the LLM's scores of the test part at `rate` flows/s. The threshold comes from
    validation. `flows_per_s` follows from both stages' rates: every flow passes the first, the rest the second.
    """
    from trafficllm.evaluate import cascade as fitting

    val, y_val = scoring.rows(dataset, "val", ours.labels)
    test, y = scoring.rows(dataset, "test", ours.labels)
    predicted = [ours.labels[k] for k in trees.validation.argmax(axis=1)]
    right = [a == b for a, b in zip(predicted, y_val, strict=True)]
    fitted = fitting.fit(trees.validation.max(axis=1, initial=0.0), right, dataset.hashes(val))
    cheap = Scores(ours.labels, trees.probabilities, np.log(np.maximum(trees.probabilities, 1e-12)))
    sure = Cascade(trees.fitted, trees.fitted, fitted.threshold).sure(cheap)
    p = np.where(sure[:, None], cheap.probabilities, ours.probabilities)
    joint = [ours.labels[k] for k in p.argmax(axis=1)]
    wrong = [k for k in np.flatnonzero(sure) if joint[k] != y[k]]
    share = float(sure.mean()) if len(test) else 0.0
    return CascadeScore.of(
        scoring.quality_of(dataset, base, joint, labels=ours.labels, probabilities=p, seed=seed),
        first=FIRST,
        share=share,
        first_error=len(wrong) / max(int(sure.sum()), 1),
        flows_per_s=round(together(trees.flows_per_s, rate, share), 1),
        llm_flows_per_s=rate,
        validation=_finite(asdict(fitted)),
    )


def together(first: float, second: float, share: float) -> float:
    """Flows a second of a cascade whose first stage settles a share.

    >>> round(together(1000.0, 100.0, 0.0), 3), together(1000.0, 100.0, 1.0)
    (90.909, 1000.0)
    """
    return 1.0 / (1.0 / max(first, 1e-9) + (1.0 - share) / max(second, 1e-9))


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no infinity: a threshold that nothing reaches is null."""
    return {key: value if np.isfinite(value) else None for key, value in values.items()}
