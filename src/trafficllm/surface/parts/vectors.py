"""`embed --ray`: a part of vectors for each capture or log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import UsageError
from trafficllm.core.types import Silent
from trafficllm.lifecycle.cluster.models import Models
from trafficllm.surface.parts.folder import Part, Parts, Slot, write_part

if TYPE_CHECKING:
    import pyarrow as pa

    from trafficllm.capture.files.read import Skipped
    from trafficllm.core.types import ProgressSink
    from trafficllm.lifecycle.studies.results import Embed
    from trafficllm.lifecycle.workspace import Workspace


def write_vectors(
    workspace: Workspace, files: Sequence[str], out: Path, *, task: str, pool: str, address: str, skipped: Skipped, progress: ProgressSink
) -> Embed:
    """Write the vectors of every capture and log as a part of `out` (contract: `embed`)."""
    from trafficllm.capture.files.read import expand
    from trafficllm.lifecycle.datasets import is_data_set
    from trafficllm.lifecycle.studies.embed import vectors
    from trafficllm.lifecycle.studies.results import Embed
    from trafficllm.surface.parts.tasks import run

    if any(is_data_set(Path(file)) for file in files):
        raise UsageError("usage.ray", "--ray embeds captures and logs", input=str(files[0]), hint="leave --ray out for a data set")
    models = Models.of(workspace, [workspace.task(task).id] if task else [])
    facts, _ = vectors(workspace, [], task=task, pool=pool, progress=Silent())  # what is wrong with task and pool is said before any work
    options = {**models.as_dict(workspace), **facts}
    parts = Parts(out, "embed", [str(path) for path in expand(files, skipped)], options)
    shared = (models, task, pool)
    done = run(parts, vectors_part, address=address, skipped=skipped, progress=progress, shared=shared)
    width = max((int(part.facts["width"]) for part in done.values()), default=0)
    return Embed(**facts, flows=sum(part.rows for part in done.values()), width=width, out=str(out), nearest=[])


def vectors_part(models: Models, task: str, pool: str, slot: Slot) -> Part:
    """The vectors of one file's flows, as `embed` gives them for it alone."""
    from trafficllm.lifecycle.studies.embed import vector_table, vectors

    facts, batches = vectors(models.open(), [slot.file], task=task, pool=pool, progress=Silent())
    width = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal width
        for rows in batches:
            width = len(rows[0]["vector"]) if rows else width
            yield _of_any_width(vector_table(rows, facts))

    def about() -> dict[str, Any]:
        return {"width": width}

    return write_part(slot, _of_any_width(vector_table([], facts)).schema, tables(), about)


def _of_any_width(table: pa.Table) -> pa.Table:
    """The vectors as a list of any length: a part without flows then has the columns of the others."""
    import pyarrow as pa

    place = table.column_names.index("vector")
    return table.set_column(place, "vector", table["vector"].cast(pa.list_(pa.float32())))
