"""A command's files as tasks of a Ray cluster, each of which writes a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError, ResourceError, TrafficLLMError, UsageError
from trafficllm.core.results import Failure

if TYPE_CHECKING:
    from trafficllm.capture.files.read import Skipped
    from trafficllm.core.types import ProgressSink
    from trafficllm.surface.parts.folder import Part, Parts, Slot


def require_folder(form: str, out: str) -> Path:
    """The folder that parts go to; UsageError for stdout and for forms other than Parquet."""
    if form not in {"", "parquet"}:
        raise UsageError("usage.format", f"--ray writes Parquet, not {form}", input="--format", hint="leave --format away")
    if out == "-":
        raise UsageError("usage.out", "--ray writes a folder", input="--out", hint="name one with -o DIR")
    return Path(out)


def run(
    parts: Parts, work: Callable[..., Part], *, address: str, skipped: Skipped, progress: ProgressSink, shared: tuple[Any, ...] = ()
) -> Mapping[int, Part]:
    """`work(*shared, slot)` for every file whose part is not there yet; all parts of the data set, by their place.

    A file that cannot be read, or whose worker dies again and again, is told and left out. Where nothing is left to do no cluster is
    started. Raises InputError where no file at all could be read, and what is wrong for all files alike: a full disk, an adapter that
    does not fit.
    """
    from trafficllm.capture.files.read import none_readable
    from trafficllm.lifecycle.cluster.session import cluster

    done = parts.done()
    for error in parts.refused.values():
        skipped.add(error)
    todo: list[tuple[int, Slot]] = [(k, slot) for k, slot in enumerate(parts.slots) if k not in done and k not in parts.refused]
    total, finished = len(parts.slots), len(done) + len(parts.refused)
    progress.update("files", finished, total)
    with cluster(address) if todo else nullcontext() as nodes:
        parts.begin(done)  # not before: where no cluster answers, what lies there stays
        if nodes is not None:
            weights = [Path(slot.file).stat().st_size for _, slot in todo]
            for outcome in nodes.finished(work, [(slot,) for _, slot in todo], shared=shared, weights=weights):
                place, slot = todo[outcome.place]
                if outcome.failure is not None:
                    _require_own_fault(outcome.failure, slot.file)
                    outcome.failure.input = outcome.failure.input or slot.file
                    skipped.add(outcome.failure)
                else:
                    done[place] = outcome.value
                finished += 1
                progress.update("files", finished, total)
    parts.finish(done, [Failure(**error.as_dict()) for error in skipped.errors])
    if not done and skipped.errors:
        raise none_readable(skipped)
    return done


def _require_own_fault(error: TrafficLLMError, file: str) -> None:
    """Raise what is not the fault of this one file."""
    own = isinstance(error, InputError) or error.code == "resource.worker" or (isinstance(error, ResourceError) and error.input == file)
    if not own:
        raise error
