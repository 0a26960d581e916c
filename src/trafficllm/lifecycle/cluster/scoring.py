"""`evaluate run` on a cluster: the rows of a data set scored some hundreds a task, put together in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.cluster.models import Models

if TYPE_CHECKING:
    from trafficllm.core.types import Scores
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.lifecycle.cluster.session import Cluster
    from trafficllm.lifecycle.studies.evaluation_set import RowScores
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.dataset.dataset import Dataset


@dataclass(frozen=True, slots=True)
class ClusterScores:
    """Scores rows as `studies.scoring.score_rows` does, by the nodes of a cluster. What any of them cannot do is raised."""

    nodes: Cluster
    models: Models
    progress: ProgressSink

    def __call__(self, scorer: LLMScorer, dataset: Dataset, rows: Sequence[int]) -> Scores:
        """Scores of a data set's rows, in their order."""
        from trafficllm.lifecycle.studies.scoring import CHUNK, joined

        about = (self.models, dataset.path.absolute(), Judge(scorer.adapter, scorer.labels, dict(scorer.calibration)))
        pieces = [(list(rows[at : at + CHUNK]),) for at in range(0, len(rows), CHUNK)]
        parts: dict[int, Scores] = {}
        for outcome in self.nodes.finished(score_piece, pieces, shared=about):
            if outcome.failure is not None:
                raise outcome.failure
            parts[outcome.place] = outcome.value
            self.progress.update("rows", sum(len(part.probabilities) for part in parts.values()), len(rows))
        return joined(scorer, [parts[k] for k in range(len(pieces))])


@contextmanager
def scores_over(address: str, workspace: Workspace, progress: ProgressSink) -> Iterator[RowScores]:
    """Who scores rows: the cluster at this address, this process where none is given."""
    from trafficllm.lifecycle.cluster.session import cluster
    from trafficllm.lifecycle.studies.scoring import score_rows

    if not address:
        yield score_rows
        return
    with cluster(address) as nodes:
        yield ClusterScores(nodes, Models.of(workspace, []), progress)


@dataclass(frozen=True, slots=True)
class Judge:
    """An adapter's folder with the labels and the calibration that it judges by."""

    adapter: str
    labels: tuple[str, ...]
    calibration: Mapping[str, Any]


def score_piece(models: Models, data: Path, judge: Judge, rows: Sequence[int]) -> Scores:
    """Scores of some rows of a data set."""
    from trafficllm.infer.engine.scorer import LLMScorer

    workspace, dataset = models.open(), _loaded(data)
    _resident(workspace, judge.adapter)
    scorer = LLMScorer(workspace.engine, judge.adapter, dataset.task, judge.labels, judge.calibration, codec=dataset.codec)
    return scorer.score(dataset.records(rows))


@lru_cache(maxsize=2)
def _loaded(data: Path) -> Dataset:
    from trafficllm.records.dataset.dataset import load

    return load(data)


@lru_cache(maxsize=16)
def _resident(workspace: Workspace, adapter: str) -> None:
    """An adapter's folder in the engine of a workspace, once a worker."""
    workspace.engine.add_adapter(adapter, Path(adapter))
