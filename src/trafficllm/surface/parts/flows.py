"""`capture flows --ray`: a part of flow rows for each capture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.settings import Config
from trafficllm.core.types import CaptureCounts
from trafficllm.surface.formats.columns import FILE, FLOW, LABEL, Column, arrow_schema
from trafficllm.surface.formats.writers import arrow_table
from trafficllm.surface.parts.folder import Part, Parts, Slot, write_part

if TYPE_CHECKING:
    from trafficllm.capture.files.read import Skipped
    from trafficllm.capture.foreign.labels import Joined, Labels
    from trafficllm.core.types import ProgressSink


@dataclass(frozen=True, slots=True)
class FlowJob:
    """How flows are read: settings, inside tunnels or not, and logs of another sensor that label them."""

    config: Config
    tunnels: bool = True
    labels: tuple[str, ...] = ()
    label_field: str = ""

    def columns(self) -> tuple[Column, ...]:
        """The columns of every part."""
        return (*FLOW, *((LABEL,) if self.labels else ()), FILE)

    def as_dict(self) -> dict[str, Any]:
        """What the rows depend on beside the capture."""
        from trafficllm.core.files import sha256_file

        logs = [[sha256_file(path) for path in self.labels], self.label_field] if self.labels else []
        return {"capture": self.config.capture.model_dump(mode="json"), "tunnels": self.tunnels, "labels": logs}


def write_flows(
    files: Sequence[str], out: Path, job: FlowJob, *, address: str, skipped: Skipped, progress: ProgressSink
) -> tuple[int, Joined | None]:
    """Write the flows of every capture as a part of `out`, each capture for itself: no flow goes on from one file to the next.

    Returns how many flows there are, and what a join with labels gave; `skipped.counts` holds what was seen of all files.
    """
    from trafficllm.capture.files.read import expand
    from trafficllm.capture.flows.counts import added
    from trafficllm.capture.foreign.labels import Joined
    from trafficllm.capture.kernels.warm import compile_kernels
    from trafficllm.surface.parts.tasks import run

    compile_kernels(progress)  # once for all workers of this machine
    parts = Parts(out, "capture.flows", [str(path) for path in expand(files, skipped)], job.as_dict())
    done = run(parts, flows_part, address=address, skipped=skipped, progress=progress, shared=(job,))
    skipped.counts = added([CaptureCounts(**part.facts["counts"]) for part in done.values()])
    joined = Joined(*(sum(part.facts["joined"][k] for part in done.values()) for k in range(3))) if job.labels else None
    return sum(part.rows for part in done.values()), joined


def flows_part(job: FlowJob, slot: Slot) -> Part:
    """The flows of one capture, as `capture flows` reads it alone."""
    from trafficllm.capture.files.read import Skipped
    from trafficllm.lifecycle.analyze import captures

    skipped = Skipped(lambda _: None)
    labels = _labels(job.labels, job.label_field) if job.labels else None
    before = labels.joined() if labels is not None else None
    reading = captures.FlowReading(job.tunnels, None, skipped, labels)

    columns = job.columns()
    rows = ([{**row, "file": slot.file} for row in batch] for batch in captures.flows([slot.file], job.config, reading))

    def facts() -> dict[str, Any]:
        more = {"joined": _difference(labels.joined(), before)} if labels is not None and before is not None else {}
        assert skipped.counts is not None
        return {"counts": asdict(skipped.counts), **more}

    return write_part(slot, arrow_schema(columns), (arrow_table(batch, columns) for batch in rows), facts)


def _difference(after: Joined, before: Joined) -> list[int]:
    return [after.labelled - before.labelled, after.unlabelled - before.unlabelled, after.conflicts - before.conflicts]


@lru_cache(maxsize=1)
def _labels(paths: tuple[str, ...], name: str) -> Labels:
    """The labels of these logs, read once a worker."""
    from trafficllm.capture.foreign.labels import Labels

    return Labels(paths, field=name)
