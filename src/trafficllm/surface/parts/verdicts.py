"""`analyze --ray`: a part of verdicts for each capture or log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.types import CaptureCounts
from trafficllm.lifecycle.cluster.models import Models
from trafficllm.surface.formats.columns import VERDICT, arrow_schema
from trafficllm.surface.formats.writers import arrow_table
from trafficllm.surface.parts.folder import Part, Parts, Slot, write_part

if TYPE_CHECKING:
    import pyarrow as pa

    from trafficllm.capture.files.read import Skipped
    from trafficllm.core.types import ProgressSink
    from trafficllm.lifecycle.analyze.analysis import Analysis
    from trafficllm.lifecycle.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of every file, and which verdicts are written."""

    question: str = ""
    explain: bool = False
    only: tuple[str, ...] = ()
    least: float = 0.0
    fail_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """All parts together: verdicts by label, how many `--fail-on` asks for, and flows by task that have no verdict, each with why."""

    labels: Counter[str]
    hits: int
    blank: Mapping[str, int]
    uncovered: Mapping[str, int]


def write_verdicts(
    workspace: Workspace,
    analysis: Analysis,
    files: Sequence[str],
    out: Path,
    asked: Asked,
    *,
    address: str,
    skipped: Skipped,
    progress: ProgressSink,
) -> Judged:
    """Write the verdicts on every capture and log as a part of `out`, each file for itself, by the tasks of `analysis`.

    `analysis` was started on no file: what can be wrong with tasks, labels and adapters has been said by then.
    """
    from trafficllm.capture.files.read import expand
    from trafficllm.capture.flows.counts import added
    from trafficllm.surface.parts.tasks import run

    models = Models.of(workspace, analysis.tasks)
    options = {**models.as_dict(workspace), "asked": asdict(asked)}
    parts = Parts(out, "analyze", [str(path) for path in expand(files, skipped)], options)
    shared = (models, analysis.tasks, asked)
    facts = [part.facts for part in run(parts, verdicts_part, address=address, skipped=skipped, progress=progress, shared=shared).values()]
    skipped.counts = added([CaptureCounts(**fact["counts"]) for fact in facts])
    together = [sum((Counter(fact[name]) for fact in facts), Counter[str]()) for name in ("labels", "blank", "uncovered")]
    return Judged(together[0], sum(fact["hits"] for fact in facts), together[1], together[2])


def verdicts_part(models: Models, tasks: tuple[str, ...], asked: Asked, slot: Slot) -> Part:
    """The verdicts on one file, as `analyze` gives them for it alone."""
    from trafficllm.capture.files.read import Skipped
    from trafficllm.lifecycle.analyze.verdicts import start

    skipped = Skipped(lambda _: None)
    choice = (tasks, None)
    analysis = start(models.open(), [slot.file], question=asked.question, explain=asked.explain, choice=choice, skipped=skipped)
    labels: Counter[str] = Counter()
    hits = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal hits
        for batch in analysis.batches:
            sure = [(row, analysis.names(row)) for row in batch if row["confidence"] >= asked.least]
            hits += sum(bool(names & set(asked.fail_on)) for _, names in sure)
            wanted = [row for row, names in sure if not asked.only or names & set(asked.only)]
            labels.update(row["label"] for row in wanted)
            yield arrow_table(wanted, VERDICT)

    def facts() -> dict[str, Any]:
        counts = asdict(skipped.counts) if skipped.counts is not None else asdict(CaptureCounts())
        return {
            "counts": counts,
            "labels": dict(labels),
            "hits": hits,
            "blank": dict(analysis.blank()),
            "uncovered": dict(analysis.uncovered()),
        }

    return write_part(slot, arrow_schema(VERDICT), tables(), facts)
