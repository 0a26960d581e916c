"""Frozen representation of flows: `embed`, nearest reference flows, and probes on it beside tuned results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from trafficllm.core.errors import ArtifactError, InputError, UsageError
from trafficllm.core.files import atomic_write
from trafficllm.core.sampling import evenly_over_labels
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import FlowMeta, ProgressSink, Record
from trafficllm.lifecycle.datasets import is_data_set
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.studies.results import Embed, Frozen, Neighbour, Neighbours, Probe, VectorMap

if TYPE_CHECKING:
    import pyarrow as pa

    from trafficllm.evaluate.baselines.frozen import Side, Vectors
    from trafficllm.infer.detector import TaskModel
    from trafficllm.infer.engine.pooling import Pool, Pooled
    from trafficllm.lifecycle.studies.evaluation_set import EvaluationSet
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset

TRAIN = 2000
"""Training rows that probes learn from, evenly over labels: more cost minutes and changed little."""
MAPPED = 800
"""Judged rows on the map."""
GENERAL = "MTD"
"""Whose prompt stands before flows that are embedded for no task of their own."""
COLUMNS = ("uid", "ts", "duration", "community_id", "orig_h", "orig_p", "resp_h", "resp_p", "proto", "packets", "file")
_CHUNK = 512
VectorRow: TypeAlias = dict[str, Any]
"""One flow: the values of `COLUMNS`, its label, and its vector float32 [width]."""
Flow: TypeAlias = tuple[Record, FlowMeta]
"""A raw record and where it comes from."""


def frozen(workspace: Workspace, task: Task, *, pool: Pool = "mean", codec: Any = None) -> Pooled:
    """The bare base as an embedder of a task's masked records."""
    from trafficllm.infer.engine.pooling import Pooled
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.records.codec.canonical import DEFAULT

    scorer = LLMScorer(workspace.engine, "", task, task.labels or ("yes", "no"), codec=codec or DEFAULT)
    return Pooled(scorer, pool)


def side(embedder: Pooled, dataset: Dataset, rows: Sequence[int]) -> Side:
    """Vectors and labels of a data set's rows."""
    import numpy as np

    from trafficllm.evaluate.baselines.frozen import Side

    parts = [embedder.embed(dataset.records(rows[at : at + _CHUNK])) for at in range(0, len(rows), _CHUNK)]
    return Side(np.concatenate(parts) if parts else np.zeros((0, 1), np.float32), dataset.labels_of(rows))


def beside(workspace: Workspace, evaluation_set: EvaluationSet, *, seen: str, seed: int) -> Frozen:
    """Probes on the frozen base as rows of the table, and the map of the judged rows (`evaluate run --embedding`)."""
    from trafficllm.evaluate.baselines import frozen as probes
    from trafficllm.lifecycle.studies.evaluation_set import VALIDATION

    dataset, judged, labels = evaluation_set.sets[-1], evaluation_set.rows[-1], evaluation_set.labels
    if len(evaluation_set.sets) > 1:
        hint = "probe one data set at a time"
        raise UsageError("usage.embedding", "the frozen representation is not probed over folds", input="--embedding", hint=hint)
    embedder = frozen(workspace, dataset.task, pool="layers", codec=dataset.codec)
    rows, y = scoring.rows(dataset, "train", labels)
    train = side(embedder, dataset, [rows[k] for k in evenly_over_labels(y, TRAIN)])
    unseen = VALIDATION not in evaluation_set.leaky
    val = side(embedder, dataset, scoring.rows(dataset, "val", labels)[0][:TRAIN]) if unseen else None
    target = side(embedder, dataset, judged)
    rows_of_probes = {}
    for name in probes.PROBES:
        p, setting = probes.probe(name, labels, train, val, target.vectors)
        predicted = [labels[k] for k in p.argmax(axis=1)]
        row = evaluation_set.quality([predicted], labels=labels, seen=seen, seeds=[seed], probabilities=p)
        rows_of_probes[name] = Probe.of(row, setting=setting)
    step = -(-len(judged) // MAPPED)
    places, how = probes.flat(target.vectors[::step], seed=seed)
    points = [[round(float(x), 3), round(float(y), 3)] for x, y in places]
    return Frozen(
        base=str(workspace.served.manifest.get("name", "")),
        width=target.vectors.shape[1],
        train=len(train.y),
        probes=rows_of_probes,
        map=VectorMap(how=how, points=points, labels=target.y[::step]),
    )


def embed(
    workspace: Workspace,
    files: Sequence[str],
    *,
    out: Path | None,
    task: str = "",
    pool: str = "",
    reference: Path | None = None,
    neighbours: int = 5,
    each: int = 0,
    progress: ProgressSink,
) -> Embed:
    """Vectors of every flow (contract: `embed`): of captures, or of one data set with its labels.

    Without `task` the bare base under strict masks; with it the task's live adapter under its own masks. `reference` is a file of vectors
    made the same way: then each flow comes with its nearest ones there. With `each`, `files` are folders of <label>/*.pcap, of which
    `each` flows of every label are taken, the first of each capture. UsageError for a pool that is none, ArtifactError for vectors of
    another base or way.
    """
    facts, batches = vectors(workspace, files, task=task, pool=pool, each=each, progress=progress)
    rows = list(chain.from_iterable(batches))
    near = _neighbours(rows, reference, facts, neighbours) if reference is not None else []
    if out is not None:
        write(rows, out, facts)
    width = len(rows[0]["vector"]) if rows else 0
    return Embed(**facts, flows=len(rows), width=width, out=str(out or ""), nearest=near)


@dataclass(frozen=True, slots=True)
class Representation:
    """How flows become vectors: by the bare base under strict masks, or by a task's live adapter under its own.

    `facts` go into a file of vectors, so that only vectors of the same kind are compared; `content` is the adapter's hash ("" without one).
    """

    model: TaskModel | None
    embedder: Pooled
    options: FlowOptions
    facts: dict[str, str]
    content: str

    @classmethod
    def of(cls, workspace: Workspace, task: str = "", pool: str = "") -> Representation:
        """Opens the base and, with `task`, its live adapter. UsageError for a pool that is none."""
        from trafficllm.infer.engine.pooling import POOLS
        from trafficllm.lifecycle.analyze.verdicts import flow_options

        if pool not in ("", *POOLS):
            raise UsageError("usage.pool", f"no pool '{pool}'", input="--pool", hint=f"one of {', '.join(POOLS)}")
        way = pool or ("answer" if task else "mean")
        model = _model(workspace, task)
        facts = {
            "base_sha256": str(workspace.served.manifest.get("base_sha256", "")),
            "pool": way,
            "task": task,
            "version": model.version if model else "",
        }
        options = flow_options(workspace, [model.task]) if model else workspace.config.capture
        content = workspace.registry.live(model.task).content if model else ""
        return cls(model, _embedder(workspace, model, task, way), options, facts, content)  # type: ignore[arg-type]

    def masked(self, record: Record) -> Record:
        """A raw record as the adapter was trained to see it; without one, under strict masks."""
        from trafficllm.records import masks

        return self.model.masked(record) if self.model else masks.wiped(masks.apply(record, "strict"))

    def rows(self, flows: Sequence[tuple[Record, FlowMeta]], labels: Sequence[str] = ()) -> list[VectorRow]:
        """Raw records with their vectors and, where known, their labels."""
        lines = [{**_line(meta), "label": label} for (_, meta), label in zip(flows, labels or [""] * len(flows), strict=True)]
        states = self.embedder.embed([self.masked(record) for record, _ in flows])
        return [{**line, "vector": vector} for line, vector in zip(lines, states, strict=True)]


def vectors(
    workspace: Workspace, files: Sequence[str], *, task: str = "", pool: str = "", each: int = 0, progress: ProgressSink
) -> tuple[dict[str, str], Iterator[list[VectorRow]]]:
    """How the vectors of these files are made, and their rows, some hundreds at a time; see `embed`."""
    how = Representation.of(workspace, task, pool)
    batches = _labelled(how, files, each, progress) if each else _batches(how, files, progress)
    return how.facts, (how.rows(flows, labels) for flows, labels in batches)


def _model(workspace: Workspace, task: str) -> TaskModel | None:
    from trafficllm.infer.detector import TaskModel

    if not task:
        return None
    definition = workspace.task(task)
    return TaskModel.of(workspace.engine, definition, workspace.load(definition.id))


def _embedder(workspace: Workspace, model: TaskModel | None, task: str, way: Pool) -> Pooled:
    from trafficllm.infer.engine.pooling import Pooled
    from trafficllm.infer.engine.scorer import LLMScorer

    if model is None:
        return frozen(workspace, workspace.task(task or GENERAL), pool=way)
    assert isinstance(model.scorer, LLMScorer)
    return Pooled(model.scorer, way)


def _batches(how: Representation, files: Sequence[str], progress: ProgressSink) -> Iterator[tuple[list[Flow], list[str]]]:
    """Raw records and their labels ("" where there are none), some hundreds at a time."""
    from trafficllm.capture.files.read import expand
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.records.codec.flows import records_in
    from trafficllm.records.dataset.dataset import load
    from trafficllm.records.sources.logs import log_records, part_logs

    if len(files) == 1 and is_data_set(Path(files[0])):
        data = load(files[0])
        for at in range(0, len(data), _CHUNK):
            idx = list(range(at, min(at + _CHUNK, len(data))))
            yield list(zip(data.raw_records(idx), data.meta(idx), strict=True)), data.labels_of(idx)
        return
    captures, logs = part_logs(expand(files))
    batches = read_flows(captures, options=how.options, progress=progress) if captures else iter(())
    pieces = (list(records_in(batch, at, at + _CHUNK)) for batch in batches for at in range(0, len(batch), _CHUNK))
    logged = chain.from_iterable(log_records(path) for path in logs)
    for flows in chain(pieces, iter(lambda: list(islice(logged, _CHUNK)), [])):
        yield flows, [""] * len(flows)


def _labelled(how: Representation, folders: Sequence[str], each: int, progress: ProgressSink) -> Iterator[tuple[list[Flow], list[str]]]:
    """Raw records of `each` flows of every label of folders of <label>/*.pcap, some hundreds at a time. InputError without any."""
    labels = [place for folder in folders for place in sorted(Path(folder).iterdir()) if place.is_dir() and not place.name.startswith(".")]
    if not labels:
        raise InputError("input.no_labels", "no <label>/*.pcap in this folder", input=str(folders[0]), hint="one sub-folder a label")
    flows = ((flow, place.name) for place in labels for flow in _first(how, place, each, progress))
    for part in iter(lambda: list(islice(flows, _CHUNK)), []):
        yield [flow for flow, _ in part], [label for _, label in part]


def _first(how: Representation, place: Path, each: int, progress: ProgressSink) -> list[Flow]:
    """At most `each` flows of a folder's captures, the first ones of every capture in equal shares: one capture's flows are often alike."""
    from trafficllm.capture.files.read import expand
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.records.codec.flows import records_in

    def opening(path: Path) -> list[Flow]:
        batches = read_flows([path], options=how.options, progress=progress)
        return list(islice((flow for batch in batches for flow in records_in(batch, 0, each)), each))

    captures = [opening(path) for path in expand([place])]
    turns = chain.from_iterable(zip_longest(*captures))
    return list(islice((flow for flow in turns if flow is not None), each))


def _line(meta: FlowMeta) -> dict[str, Any]:
    from trafficllm.records.codec.units import PROTOS

    facts = {"ts": meta.ts / 1e9, "duration": meta.duration / 1e9, "proto": PROTOS.get(meta.proto, str(meta.proto)), "file": meta.capture}
    return {name: facts.get(name, getattr(meta, name, "")) for name in COLUMNS}


def write(rows: Sequence[VectorRow], out: Path, facts: Mapping[str, str]) -> None:
    """A Parquet file: flow columns, `label` where reference, `vector` a fixed-size list of float32; how it was made in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(vector_table(rows, facts), sink, compression="zstd")
    atomic_write(out, sink.getvalue().to_pybytes())


def vector_table(rows: Sequence[VectorRow], facts: Mapping[str, str]) -> pa.Table:
    """Rows as an Arrow table with `facts` in its metadata."""
    import numpy as np
    import pyarrow as pa

    width = len(rows[0]["vector"]) if rows else 1
    flat = np.concatenate([row["vector"] for row in rows]) if rows else np.zeros(0, np.float32)
    types: dict[str, Any] = {
        "ts": pa.float64(),
        "duration": pa.float64(),
        "orig_p": pa.int64(),
        "resp_p": pa.int64(),
        "packets": pa.int64(),
    }
    columns: dict[str, Any] = {name: pa.array([row[name] for row in rows], types.get(name, pa.string())) for name in (*COLUMNS, "label")}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), width)
    return pa.table(columns).replace_schema_metadata({f"trafficllm.{k}": v for k, v in facts.items()})


def read(path: Path, *, checksums: bool = False) -> tuple[pa.Table, dict[str, str]]:
    """A file of vectors: its table and how it was made. ArtifactError for another kind of file, or one whose `checksums` are wrong."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    hint = "make one with `trafficllm embed FILES -o vectors.parquet`"
    try:
        table = pq.read_table(path, page_checksum_verification=checksums)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError("artifact.vectors", "no file of vectors", input=str(path), hint=hint) from error
    facts = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    said = {k.removeprefix("trafficllm."): v for k, v in facts.items() if k.startswith("trafficllm.")}
    if "vector" not in table.column_names or "base_sha256" not in said:
        raise ArtifactError("artifact.vectors", "no file of vectors", input=str(path), hint=hint)
    return table, said


def _neighbours(rows: Sequence[VectorRow], reference: Path, facts: dict[str, str], k: int) -> list[Neighbours]:
    known = KnownFlows.of(*read(reference))
    known.check(facts, str(reference))
    return known.nearest(rows, k) if known.names else []


@dataclass(frozen=True, slots=True)
class KnownFlows:
    """Vectors float32 [n, width] of flows that are known, the `uid`, `label` and `file` of each, and how the vectors were made."""

    vectors: Vectors
    names: list[dict[str, str]]
    facts: Mapping[str, str]

    @classmethod
    def of(cls, table: pa.Table, facts: Mapping[str, str]) -> KnownFlows:
        """From a file of vectors, as `read` answers it."""
        import numpy as np

        flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        rows = table.num_rows
        return cls(
            flat.reshape(rows, -1) if rows else np.zeros((0, 1), np.float32), table.select(["uid", "label", "file"]).to_pylist(), facts
        )

    def check(self, facts: Mapping[str, str], name: str) -> None:
        """ArtifactError where vectors with these `facts` were made another way than those of the file `name`."""
        other = [f"{key} {self.facts.get(key)!r}, not {value!r}" for key, value in facts.items() if self.facts.get(key) != value]
        if other:
            hint = "embed both with the same base, task and pool"
            raise ArtifactError("artifact.vectors", "vectors made another way: " + "; ".join(other), input=name, hint=hint)

    def nearest(self, rows: Sequence[VectorRow], k: int) -> list[Neighbours]:
        """The `k` known flows nearest to each row, nearest first."""
        import numpy as np

        from trafficllm.evaluate.baselines.frozen import nearest

        if not rows or not self.names:
            return [Neighbours(uid=row["uid"], nearest=[]) for row in rows]
        places, near = nearest(self.vectors, np.stack([row["vector"] for row in rows]), k)
        out = []
        for row, own, likeness in zip(rows, places.tolist(), near.tolist(), strict=True):
            nearest_ones = [Neighbour(**self.names[p], similarity=round(float(s), 4)) for p, s in zip(own, likeness, strict=True)]
            out.append(Neighbours(uid=row["uid"], nearest=nearest_ones))
        return out
