"""The readout of an update whose labels are all known: the live one, corrected by new captures, which count for half.

Traffic that has drifted comes as some dozen flows beside hundreds of kept ones. Tuning on both forgot the old ones and counted the new ones
for nothing; a correction of the live readout's logits, held small, does neither. Services of 2015 (EVD) with a fifth of the captures of
2016 to 2024, one member, macro-F1 on old test flows and on other new captures: live version .574, .190; tuned for 150 s on new and kept
flows .466, .302; readout learnt anew on the live states .473, .237; corrected at C .003, all flows alike .629, .254, new captures a third
.617, .284, a half .620, .293, two thirds .613, .299; at C .03 and a third .579, .283. Two other draws of the fifth agree in the order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from trafficllm.core.types import F64
from trafficllm.lifecycle.calibration.crossfit import BALANCE, STEPS, stored
from trafficllm.lifecycle.studies import scoring

if TYPE_CHECKING:
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.model.adapter.readout import Readout
    from trafficllm.records.dataset.dataset import Dataset

SHARE = 0.5
"""Of the loss, for new captures."""
STRENGTH = 0.003
"""C of the correction."""


def row_weights(captures: Sequence[str], fresh: Sequence[bool]) -> F64:
    """Weights [n] of learning rows: 1 each, but `fresh` rows a `SHARE` of all together where they have less, each capture alike.

    >>> row_weights(["x"] * 3 + ["y", "y", "z"], [False] * 3 + [True] * 3).tolist()
    [1.0, 1.0, 1.0, 0.75, 0.75, 1.5]
    >>> row_weights(["x", "y", "z"], [False, True, True]).tolist()
    [1.0, 1.0, 1.0]
    """
    weights = np.ones(len(captures))
    new = [k for k, flag in enumerate(fresh) if flag]
    wanted = max(len(new), SHARE / (1 - SHARE) * (len(captures) - len(new)))
    sizes = Counter(captures[k] for k in new)
    for k in new:
        weights[k] = wanted / len(sizes) / sizes[captures[k]]
    return weights


@dataclass(frozen=True, slots=True)
class Renewal:
    """An update's learning rows with the states of each member: `rows` of the data set, `held` those held out for the gate; `live` are the
    members' readouts so far."""

    scorer: LLMScorer
    data: Dataset
    rows: list[int]
    held: frozenset[int]
    features: list[Any]
    live: list[Readout]
    weights: F64

    @classmethod
    def of(cls, scorer: LLMScorer, data: Dataset, kept: int) -> Renewal | None:
        """Training rows and all new ones (from row `kept` on), scored once by an adapter that is as it was. None where it has no readout
        of these very labels."""
        engine = scorer.engine
        live = [own for member in engine.members(scorer.adapter) if (own := engine.readout(member, scorer.labels)) is not None]
        rows = scoring.rows(data, "train", scorer.labels)[0]
        others = [row for part in ("val", "test") for row in scoring.rows(data, part, scorer.labels)[0] if row >= kept]
        if not live or not rows:
            return None
        rows = [*rows, *others]
        states = scoring.score_rows(scorer, data, rows, features=True).features
        assert states is not None
        weights = row_weights(data.groups(rows), [row >= kept for row in rows])
        return cls(scorer, data, rows, frozenset(others), np.split(states, len(live), axis=1), live, weights)

    def readouts(self, *, everything: bool = False) -> tuple[Readout, ...]:
        """One a member, corrected by the rows that the gate is not judged on, or by all."""
        use = np.array([everything or row not in self.held for row in self.rows])
        return stored(self._corrected(own, features[use], use) for own, features in zip(self.live, self.features, strict=True))

    def _corrected(self, own: Readout, features: Any, use: Any) -> Readout:
        import torch

        from trafficllm.core.metrics import indices
        from trafficllm.model.adapter.readout import logistic
        from trafficllm.model.tuning.options import class_weights

        named = [label for label, flag in zip(self.data.labels_of(self.rows), use, strict=True) if flag]
        weights = class_weights(named, BALANCE)
        states, y = torch.from_numpy(features), torch.from_numpy(indices(own.labels, named))
        matrix, bias = logistic(
            states,
            y,
            torch.tensor([weights.get(label, 1.0) for label in own.labels]),
            STRENGTH,
            steps=STEPS,
            rows=torch.from_numpy(self.weights[use].astype(np.float32)),
            offset=states @ own.matrix.cpu() + own.bias.cpu(),
        )
        return replace(own, matrix=own.matrix.cpu() + matrix, bias=own.bias.cpu() + bias)
