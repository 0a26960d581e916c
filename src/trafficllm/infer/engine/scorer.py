"""The LLM behind the Scorer and Embedder Protocols: masked records in, calibrated label probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import Record, Scores
from trafficllm.infer import calibration as cal
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.prefix import shared_prefix
from trafficllm.records import prompts
from trafficllm.records.catalog import Task
from trafficllm.records.codec.canonical import DEFAULT

WEIGHT = "readout_weight"
"""Calibration's key for the readout's share of the verdict."""


class LLMScorer:
    """Scores masked records of one task with one adapter (or "" for the bare base).

    `calibration` is what validation gave (see infer.calibration); {} leaves probabilities as the model has them.
    """

    def __init__(
        self,
        engine: Engine,
        adapter: str,
        task: Task,
        labels: Sequence[str],
        calibration: Mapping[str, Any] | None = None,
        *,
        codec: CodecOptions = DEFAULT,
        batch_tokens: int | None = None,
    ) -> None:
        self.engine = engine
        self.adapter = adapter
        self.task = task
        self.calibration = dict(calibration or {})
        self.codec = codec
        self._labels = tuple(labels)
        self._batch_tokens = batch_tokens
        self._prefix = self._common_beginning()

    def _common_beginning(self) -> tuple[int, ...]:
        """Tokens that all prompts of the task begin with: those that two records with nothing in common share."""
        far = (Record(proto=6, ip_version=4), Record(kind="http", text="x"))
        return shared_prefix(self.ids(far))

    def ids(self, records: Sequence[Record]) -> list[list[int]]:
        """Prompt token ids of masked records."""
        questions = [prompts.detection(self.task, record, self.codec) for record in records]
        return self.engine.encoder.prompts(questions) if questions else []

    @property
    def prefix_length(self) -> int:
        """Tokens that every prompt of the task begins with, before the record's own."""
        return len(self._prefix)

    @property
    def labels(self) -> tuple[str, ...]:
        """The closed label set, in the adapter's order."""
        return self._labels

    def score(self, records: Sequence[Record], *, features: bool = False) -> Scores:
        """Calibrated probabilities [n, labels] of masked records, in their order; with `features` the states that its readout reads."""
        ids = self.ids(records)
        prefix = self._prefix if all(tuple(row[: len(self._prefix)]) == self._prefix for row in ids) else ()
        raw = self.engine.score_ids(
            ids,
            self._labels,
            adapter=self.adapter,
            batch_tokens=self._batch_tokens,
            prefix=prefix,
            pool_from=len(self._prefix),
            readout_weight=self.calibration.get(WEIGHT),
            features=features,
        )
        return replace(raw, probabilities=cal.apply(self.calibration, raw.logits))

    def embed(self, records: Sequence[Record]) -> npt.NDArray[np.float32]:
        """Last hidden states at the answer position, float32 [n, width]."""
        hidden = self.score(records).hidden
        return hidden if hidden is not None else np.zeros((0, 0), np.float32)

    def unknown(self, scores: Scores) -> npt.NDArray[np.float64]:
        """How foreign each row is, above the calibrated threshold: unknown [n]."""
        return cal.unknown_score(self.calibration, scores)
