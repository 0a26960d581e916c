"""Flows of a capture beside flows that are known: vectors, a data set, labelled captures, or those that come with the package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.errors import ArtifactError, InputError, TrafficLLMError
from trafficllm.core.files import atomic_write, json_text
from trafficllm.lifecycle.datasets import is_data_set
from trafficllm.lifecycle.studies.embed import Flow, KnownFlows, Representation, VectorRow, read, vector_table, vectors

if TYPE_CHECKING:
    import pyarrow as pa

    from trafficllm.core.types import FlowBatch, ProgressSink
    from trafficllm.lifecycle.studies.results import Neighbour
    from trafficllm.lifecycle.workspace import Workspace

PACKAGED = tuple(Path(__file__).parents[2] / "data" / "captures" / task for task in ("EAC", "MTD"))
"""The package's labelled captures: folders of <label>/*.pcap."""
EACH = 12
"""Flows of every label that stand for it: 400 flows of the package's 37 labels, 4 s of one core to embed, once a base or adapter."""
_STORED = 16
"""Sets of vectors kept in the user's cache (300 KB each): a base and the live adapters of a dozen tasks."""


@dataclass(frozen=True, slots=True)
class ComparedFlow:
    """A flow and the known flows nearest to it, nearest first."""

    uid: str
    orig_h: str
    resp_h: str
    resp_p: int
    nearest: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True)
class ComparedCapture:
    """The compared flows of a capture in their order; how many flows it has, and how many of them were meant."""

    flows: tuple[ComparedFlow, ...]
    flows_in_capture: int
    matching: int
    known_flows: int


class Known:
    """What flows are compared with: it stays in memory, and what comes from the package's captures in the user's cache.

    Vectors hold for one base or one adapter version; `of` makes them anew where another one is live.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._packaged: dict[str, KnownFlows] = {}

    def of(self, how: Representation, place: Path | None, *, progress: ProgressSink) -> KnownFlows:
        """Known flows: those of a file of vectors, of a data set, of a folder of <label>/*.pcap, or (None) of the package's captures.

        Raises what `embed` raises.
        """
        if place is not None:
            return _of_place(self.workspace, how, place, progress)
        key = _key(how)
        if key not in self._packaged:
            self._packaged[key] = _packaged(self.workspace, how, key, progress)
        return self._packaged[key]


def compared(
    known: KnownFlows,
    how: Representation,
    capture: Path,
    *,
    flow: str = "",
    offset: int = 0,
    limit: int = 1 << 40,
    neighbours: int = 5,
    progress: ProgressSink,
) -> ComparedCapture:
    """Flows of a capture with their nearest known ones: `limit` flows from the one at `offset` on, or the one whose uid is `flow`.

    The whole file is read, but only these flows go through the model: 20 of 100,000 take what 20 take.
    """
    from trafficllm.capture.flows.assembly import read_flows

    seen, matching, flows = 0, 0, []
    for batch in read_flows([capture], options=how.options, progress=progress):
        wanted = _named(batch, flow) if flow else range(max(offset - seen, 0), min(offset + limit - seen, len(batch)))
        flows += list(_taken(batch, wanted))
        matching += len(wanted) if flow else len(batch)
        seen += len(batch)
    return ComparedCapture(compared_flows(known, how, flows, neighbours=neighbours), seen, matching, len(known.names))


def compared_flows(known: KnownFlows, how: Representation, flows: Sequence[Flow], *, neighbours: int = 5) -> tuple[ComparedFlow, ...]:
    """Flows, as raw records, with their nearest known ones."""
    rows: list[VectorRow] = how.rows(flows) if flows else []
    near = known.nearest(rows, neighbours)
    names = ("uid", "orig_h", "resp_h", "resp_p")
    return tuple(
        ComparedFlow(**{name: row[name] for name in names}, nearest=tuple(own.nearest)) for row, own in zip(rows, near, strict=True)
    )


def _named(batch: FlowBatch, uid: str) -> list[int]:
    from trafficllm.records.codec.flows import flow_uid

    return [at for at, name in enumerate(map(flow_uid, batch.community_id.tolist(), batch.ts.tolist())) if name == uid]


def _taken(batch: FlowBatch, places: Sequence[int]) -> Iterator[Flow]:
    from trafficllm.records.codec.flows import records_in

    return chain.from_iterable(records_in(batch, at, at + 1) for at in places)


def _of_place(workspace: Workspace, how: Representation, place: Path, progress: ProgressSink) -> KnownFlows:
    if place.is_file():
        known = KnownFlows.of(*read(place))
        known.check(how.facts, str(place))
        return known
    each = 0 if is_data_set(place) else EACH
    facts, batches = vectors(workspace, [str(place)], task=how.facts["task"], each=each, progress=progress)
    rows = _named_below(list(chain.from_iterable(batches)), (place,))
    if not rows:
        raise InputError("input.empty", "no flow in what shall be known", input=str(place), hint="name a folder of <label>/*.pcap")
    return KnownFlows.of(vector_table(rows, facts), facts)


def _named_below(rows: Sequence[VectorRow], folders: Sequence[Path]) -> list[VectorRow]:
    """Rows whose files are named from their folder on (MTD/Zeus/a.pcap): answers show no folders of this machine."""
    homes = [folder.resolve().parent for folder in folders]

    def short(name: str) -> str:
        path = Path(name).resolve()
        return next((str(path.relative_to(home)) for home in homes if path.is_relative_to(home)), name)

    return [{**row, "file": short(row["file"])} for row in rows]


# The package's captures


def _packaged(workspace: Workspace, how: Representation, key: str, progress: ProgressSink) -> KnownFlows:
    path = _folder() / f"{key}.parquet"
    with contextlib.suppress(ArtifactError):
        known = KnownFlows.of(*read(path, checksums=True))
        known.check(how.facts, str(path))
        return known
    facts, batches = vectors(workspace, [str(folder) for folder in PACKAGED], task=how.facts["task"], each=EACH, progress=progress)
    table = vector_table(_named_below(list(chain.from_iterable(batches)), PACKAGED), facts)
    with contextlib.suppress(TrafficLLMError, OSError):  # a cache that cannot be written is none
        _store(path, table)
    return KnownFlows.of(table, facts)


def _key(how: Representation) -> str:
    """SHA-256 of all that the vectors come from: base, adapter, how flows are read and masked, the captures themselves."""
    from trafficllm import __version__
    from trafficllm.records.codec.units import codec_hash
    from trafficllm.records.masks import table_hash

    made_by = {"package": __version__, "codec": codec_hash(), "masks": table_hash(), "adapter": how.content, "each": EACH}
    return sha256(
        json_text({**made_by, **how.facts, "options": how.options.model_dump(mode="json"), "captures": _captures()}).encode()
    ).hexdigest()


@cache
def _captures() -> str:
    """SHA-256 over the names and contents of the package's captures (12 MB: 20 ms)."""
    digest = sha256()
    for folder in PACKAGED:
        for path in sorted(folder.glob("*/*")):
            digest.update(f"{path.relative_to(folder.parent)}\n{sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("trafficllm") / "known"


def _store(path: Path, table: pa.Table) -> None:
    """Write the vectors with a checksum of every page; the oldest go where there are too many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, sink.getvalue().to_pybytes(), private=True)
    for old in sorted(path.parent.glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)[:-_STORED]:
        old.unlink(missing_ok=True)
