"""The label trie of an adapter that another program serves: a `Scorer` whose log-probabilities come over HTTP.

A label's probability is the product of its branching nodes' choices, each a request for the next token's log-probabilities behind the
prompt and the label's tokens so far. The server keeps the prompt's states (prefix caching), so further nodes cost little. Hidden states do
not come back: readouts have no share, and the unknown score is one of log-probabilities, fitted for answers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import F64, Record, Scores
from trafficllm.infer import calibration as cal
from trafficllm.infer.engine.label_tree import LabelTree
from trafficllm.infer.remote.client import Ask, Completions
from trafficllm.model.tuning.encode import Encoder
from trafficllm.model.tuning.trie import LabelTrie
from trafficllm.records import prompts
from trafficllm.records.catalog import Task
from trafficllm.records.codec.canonical import DEFAULT


class RemoteScorer:
    """Scores masked records of one task by the adapters that the server holds as `models`, one a member.

    `encoder` is that of the base's tokenizer: prompts leave as token ids, so that captured bytes cannot become control tokens there.
    `calibration` is one of answers alone (`adapter export --for vllm` fits it); {} leaves probabilities as the model has them.
    """

    def __init__(
        self,
        client: Completions,
        models: Sequence[str],
        encoder: Encoder,
        task: Task,
        *,
        labels: Sequence[str],
        calibration: Mapping[str, Any] | None = None,
        codec: CodecOptions = DEFAULT,
    ) -> None:
        self.client = client
        self.models = tuple(models)
        self.encoder = encoder
        self.task = task
        self.calibration = dict(calibration or {})
        self.codec = codec
        self._labels = tuple(labels)
        self._tree = LabelTree.of(LabelTrie.of(self._labels, [encoder.label(label) for label in self._labels], encoder.eos))

    @property
    def labels(self) -> tuple[str, ...]:
        """The closed label set, in the adapter's order."""
        return self._labels

    def score(self, records: Sequence[Record]) -> Scores:
        """Calibrated probabilities [n, labels] of masked records, in their order. Errors: see `Completions.log_probabilities`."""
        if not records:
            return Scores(self._labels, np.zeros((0, len(self._labels))), np.zeros((0, len(self._labels))))
        ids = self.encoder.prompts([prompts.detection(self.task, record, self.codec) for record in records])
        place: dict[tuple[int, ...], int] = {}
        rows = [place.setdefault(tuple(row), len(place)) for row in ids]
        log_p = self._log_probabilities(list(place))[rows]
        return Scores(self._labels, cal.apply(self.calibration, log_p), log_p)

    def _log_probabilities(self, ids: Sequence[tuple[int, ...]]) -> F64:
        """Log-probabilities [n, labels] of different prompts, the mean over members, as the engine averages them."""
        tree = self._tree
        asks = [
            Ask(model, tuple((*row, *(tree.path(node) if node >= 0 else ())) for row in ids), children)
            for model in self.models
            for node, children in tree.choices
        ]
        parts = self.client.log_probabilities(asks)
        members = []
        for number in range(len(self.models)):
            own = parts[number * len(tree.choices) : (number + 1) * len(tree.choices)]
            members.append(tree.log_probabilities(np.concatenate([np.zeros((len(ids), 0)), *own], axis=1)))
        return np.asarray(np.mean(members, axis=0), dtype=np.float64)
