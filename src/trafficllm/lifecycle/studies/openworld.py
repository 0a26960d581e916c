"""`evaluate openworld`: what a detector is worth on sources nobody learnt from, beside trees and the identifier probe."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import atomic_write, hash64, make_folder, sha256_bytes
from trafficllm.core.types import F64, I64, ProgressSink
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.studies.embed import frozen
from trafficllm.lifecycle.studies.openworld_rows import OpenData, RowOptions, open_data
from trafficllm.lifecycle.studies.results import BackgroundFacts, EvaluateOpenworld

if TYPE_CHECKING:
    from trafficllm.evaluate.baselines.learners import Part
    from trafficllm.evaluate.by_source.figures import Tables
    from trafficllm.evaluate.by_source.folds import Judged, Scoring
    from trafficllm.evaluate.by_source.results import OpenworldScores
    from trafficllm.evaluate.openworld import Learner
    from trafficllm.lifecycle.workspace import Workspace

OURS = "frozen"
"""Our learner unless another is named: the base's states without an adapter, under a readout fitted on every fold."""
_CHUNK = 512
_WORK = ".work"


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """How sources are left out: in `folds` groups (0: each alone), for each of `seeds`; `rate` is the wanted false-positive rate,
    `worst_factor` how many times that the worst source may have at most (0: no limit); `learner` is the name of ours; `rows` which flows
    count."""

    folds: int = 0
    seeds: Sequence[int] = (0,)
    rate: float = 0.01
    worst_factor: float = 0.0
    learner: str = OURS
    rows: RowOptions = field(default_factory=RowOptions)


@dataclass(frozen=True)
class FrozenReadout:
    """Pooled states of the bare base after the task's prompt, under a logistic readout with weights for every flow."""

    workspace: Workspace
    data: OpenData
    progress: ProgressSink
    name: str = OURS

    def features(self, rows: Part) -> F64:
        """States float64 [n, columns], made once for all folds."""
        embedder = frozen(self.workspace, self.data.tasks[0], pool="layers", codec=self.data.codec)
        parts = []
        for at in range(0, len(rows.records), _CHUNK):
            self.progress.update("states of the base", at, len(rows.records))
            parts.append(embedder.embed(rows.records[at : at + _CHUNK]))
        self.progress.update("states of the base", len(rows.records), len(rows.records))
        return np.concatenate(parts).astype(np.float64)

    def fit_score(self, train: F64, positive: I64, weights: F64, judged: F64) -> F64:
        """Log-odds of the readout."""
        import torch

        from trafficllm.model.adapter.readout import logistic

        x, y = torch.from_numpy(train.astype(np.float32)), torch.from_numpy(positive)
        rows = torch.from_numpy(weights.astype(np.float32))
        matrix, bias = logistic(x, y, torch.ones(2), rows=rows)
        logits = torch.from_numpy(judged.astype(np.float32)) @ matrix + bias
        return np.asarray((logits[:, 1] - logits[:, 0]).numpy(), dtype=np.float64)


LEARNERS: dict[str, Callable[[Workspace, OpenData, ProgressSink], Learner]] = {OURS: FrozenReadout}
"""Our learners by name."""


def openworld(
    workspace: Workspace,
    data: Sequence[Path],
    *,
    task: str = "",
    background: Sequence[Path] = (),
    profile: str = "",
    options: OpenOptions | None = None,
    work: Path | None = None,
    html: Path | None = None,
    progress: ProgressSink,
) -> EvaluateOpenworld:
    """Leave every source out (contract: `evaluate openworld`): `data` are data sets, or folders of labelled captures.

    Labels are reduced to the two answers of each data set's own umbrella question. A single folder is read as `task`; of several each as
    the task its name begins with, or as `task` where that asks nothing. `background` are folders of captures that are negatives, each of
    its sources left out like any other. Scores of folds are kept in `work`, so that the same command goes on where it was interrupted;
    without it in the registry's folder until the end. Raises UsageError for options that name nothing, InputError for data with one source
    or one side.
    """
    start = time.monotonic()
    options = options or OpenOptions()
    _checked(options)
    place = work or _workdir(workspace, data, background, f"{task} {profile} {options}")
    make_folder(place, private=True)
    opened = open_data(workspace, data, background, place, task=task, profile=profile, options=options.rows, progress=progress)
    result = _Study(workspace, opened, options, place, progress).result([path.name for path in background])
    result = result.model_copy(update={"seconds": round(time.monotonic() - start, 1)})
    if work is None:
        shutil.rmtree(place, ignore_errors=True)
    if html is not None:
        from trafficllm.lifecycle.reports.openworld_page import openworld_page

        openworld_page(result, html)
    return result


def _checked(options: OpenOptions) -> None:
    """UsageError for options that make no sense, before any work."""
    if options.learner not in LEARNERS:
        hint = f"one of {', '.join(LEARNERS)}"
        raise UsageError("usage.learner", f"no learner '{options.learner}'", input="--learner", hint=hint)
    if not 0.0 < options.rate < 1.0:
        hint = "0.01 is one in a hundred"
        raise UsageError("usage.rate", f"a false-positive rate of {options.rate}", input="--rate", hint=hint)
    if options.folds == 1:
        raise UsageError("usage.folds", "one group of sources leaves nothing to learn from", input="--folds", hint="0, or 2 and more")
    if options.rows.sources is not None and options.rows.level:
        hint = "leave one of the two away"
        raise UsageError("usage.option", "sources from a table and from a folder level at once", input="--sources", hint=hint)


def _workdir(workspace: Workspace, data: Sequence[Path], background: Sequence[Path], facts: str) -> Path:
    """A folder of this very command's."""
    names = [str(path.resolve()) for path in (*data, *background)]
    name = "\n".join([*names, facts, workspace.base_name])
    return workspace.registry_root / _WORK / f"openworld-{hash64(name.encode('utf-8', 'surrogatepass')):016x}"


@dataclass(frozen=True)
class _Row:
    """One learner's runs, one a seed, and the seconds they took."""

    judged: list[Judged]
    tables: list[Tables]
    seconds: float

    def scores(self) -> OpenworldScores:
        """Figures, means over seeds."""
        from trafficllm.evaluate.by_source.figures import scores

        return scores(self.tables, self.judged)


@dataclass(frozen=True)
class _Study:
    """The rows, how sources are left out, and where folds' scores are kept."""

    workspace: Workspace
    data: OpenData
    options: OpenOptions
    place: Path
    progress: ProgressSink

    def result(self, folders: Sequence[str]) -> EvaluateOpenworld:
        """Every learner on the same rows, folds and seeds."""
        from trafficllm.evaluate.by_source.figures import gains
        from trafficllm.evaluate.by_source.learners import IDENTIFIERS, baselines
        from trafficllm.evaluate.by_source.results import OpenworldBaseline

        options, data = self.options, self.data
        base = str(self.workspace.served.manifest.get("base_sha256", ""))
        mine = LEARNERS[options.learner](self.workspace, data, self.progress)
        ours = self.row(dict.fromkeys(options.seeds, mine), extra=base)
        if not len(ours.judged[0].rows):
            why = "; ".join(f"{name}: {reason}" for name, reason in ours.judged[0].skipped.items())
            place = str(data.datasets[0].path)
            raise InputError("input.one_source", "no source can be left out", input=place, where=why, hint="add sources")
        each = [{learner.name: learner for learner in baselines(seed=seed, threads=scoring.threads())} for seed in options.seeds]
        rows = {name: self.row(dict(zip(options.seeds, (own[name] for own in each), strict=True))) for name in each[0]}
        background = data.background
        return EvaluateOpenworld.of(
            ours.scores(),
            baselines={name: OpenworldBaseline.of(row.scores(), seconds=round(row.seconds, 1)) for name, row in rows.items()},
            gain=gains(ours.tables, {name: row.tables for name, row in rows.items() if name != IDENTIFIERS}),
            background=BackgroundFacts(
                folders=list(folders), sources=dict(background.as_dict()["sources"]), captures=len(background.files), flows=len(background)
            ),
            part=options.rows.part,
            learner=options.learner,
            split="source",
            folds=options.folds,
            seeds=list(options.seeds),
            seconds=0.0,
            base_sha256=base,
            **self.facts(ours.judged[0].rows),
        )

    def facts(self, judged: I64) -> dict[str, object]:
        """What the result says of the rows and the masks."""
        from trafficllm.evaluate.quality import seen_by_base
        from trafficllm.model.base.extend import load_seen

        data = self.data
        rows, tasks = data.rows, {task.id: task for task in data.tasks}
        seen = set(load_seen(self.workspace.served.path).tolist())
        contents = [data.content[k] if data.content[k] in seen else data.strict[k] for k in judged.tolist()]
        counts = {
            f"{what}_{side}": int((rows.positive[places] == k).sum())
            for what, places in (("learnt", rows.learnt), ("judged", judged))
            for k, side in enumerate(("benign", "malicious"))
        }
        return {
            "task": "+".join(tasks),
            "title": "; ".join(task.title for task in tasks.values()),
            "question": " ".join(dict.fromkeys(task.umbrella_question for task in tasks.values())),
            "positive": sorted({task.positive for task in tasks.values()}),
            "negative": sorted({task.negative for task in tasks.values()}),
            "profile": data.profile,
            "mask": data.profile,
            "flows": counts,
            "dropped": data.dropped,
            "leaky": sorted({mark for dataset in data.datasets for mark in dataset.manifest["leaky"]}),
            "seen_by_base": seen_by_base(contents, seen),
            "dataset_sha256": [dataset.sha256 for dataset in data.datasets],
        }

    def row(self, learners: Mapping[int, Learner], *, extra: str = "") -> _Row:
        """One learner over all seeds; its numbers are made once, and not at all where every fold's scores lie on disk."""
        from trafficllm.evaluate.by_source.figures import Tables
        from trafficllm.evaluate.by_source.folds import leave_out

        start = time.monotonic()
        options, rows = self.options, self.data.rows
        how = {"folds": options.folds, "rate": options.rate, "worst_factor": options.worst_factor or None}
        made: dict[str, F64] = {}
        judged = [
            leave_out(rows, self._scoring(learner, seed, made, extra), seed=seed, step=self._step(learner, seed), **how)  # type: ignore[arg-type]
            for seed, learner in learners.items()
        ]
        return _Row(judged, [Tables.of(rows, run) for run in judged], time.monotonic() - start)

    def _scoring(self, learner: Learner, seed: int, made: dict[str, F64], extra: str) -> Scoring:
        from trafficllm.evaluate.by_source.folds import scoring_of

        def fresh(train: I64, judged: I64) -> F64:
            if not made:
                made["numbers"] = learner.features(self.data.rows.part)
            return scoring_of(learner, self.data.rows, made["numbers"])(train, judged)

        return kept(fresh, self.place / "scores", f"{self.data.key} {learner.name} {seed} {extra}")

    def _step(self, learner: Learner, seed: int) -> Callable[[int, int], None]:
        stage = f"{learner.name}, seed {seed}" if len(self.options.seeds) > 1 else learner.name
        return lambda done, total: self.progress.update(stage, done, total)


def kept(score: Scoring, place: Path, key: str) -> Scoring:
    """The same scores, each kept in a file named by what they depend on: an interrupted study goes on where it was."""

    def read_or_make(train: I64, judged: I64) -> F64:
        name = sha256_bytes(key.encode() + train.astype("<i8").tobytes() + b"|" + judged.astype("<i8").tobytes())
        path = place / f"{name}.npy"
        if path.is_file():
            stored = np.load(path, allow_pickle=False)
            if stored.shape == judged.shape:
                return np.asarray(stored, dtype=np.float64)
        values = score(train, judged)
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        place.mkdir(parents=True, exist_ok=True)
        atomic_write(path, buffer.getvalue())
        return values

    return read_or_make
