"""Reads one uploaded capture in a process of its own, with little memory, little time and no secrets.

`python -m trafficllm.surface.server.parse WARM.pcap`: it reads that capture of our own to have everything loaded, says so, waits for a
job's path on stdin, does that one job and ends. The job names the upload, the limits, and where batches go. What comes back is
plain arrays (NPZ without pickles) or rows of JSON, so that a reader that was taken over cannot run code in the server.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError, TrafficLLMError

if TYPE_CHECKING:
    from trafficllm.core.types import FlowBatch, FrameBatch

NAME = "upload"
READY = b"ready\n"
"""What a reader says once it waits for its job."""
COUNTS = "counts.json"
"""The file beside the batches that has the counts of the whole capture."""
_TEXTS = ("conn_state", "history", "end_reason", "community_id")
_MAX_FIELDS_ROWS = 100_000


def confine(memory: int, seconds: int, file_bytes: int) -> None:
    """Bound this process: address space, processor seconds, bytes of a file it writes, no core dumps."""
    for what, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (limit, limit))


def write_batch(batch: FlowBatch, path: Path) -> None:
    """A flow batch as an NPZ file; text columns as fixed-width arrays."""
    import numpy as np

    columns = {item.name: getattr(batch, item.name) for item in fields(batch) if item.name != "files"}
    columns |= {name: columns[name].astype("U128") for name in _TEXTS}
    with path.open("wb") as stream:
        np.savez(stream, **columns)


def read_batch(path: Path) -> FlowBatch:
    """The flow batch of `write_batch`; text columns become objects again. InputError for anything else."""
    import numpy as np

    from trafficllm.core.types import FlowBatch

    names = [item.name for item in fields(FlowBatch) if item.name != "files"]
    try:
        with np.load(path, allow_pickle=False) as data:
            columns: dict[str, Any] = {name: data[name] for name in names}
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise InputError("input.upload", "the capture could not be read", input=NAME) from error
    columns |= {name: columns[name].astype(object) for name in _TEXTS}
    return FlowBatch(**columns, files=(NAME,))


def _flows(job: Mapping[str, Any]) -> None:
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.capture.flows.counts import CountsBuilder
    from trafficllm.core.settings import FlowOptions

    done, counts = 0, CountsBuilder()
    for number, batch in enumerate(read_flows([job["capture"]], options=FlowOptions(**job["options"]), counts=counts)):
        done += len(batch)
        if done > job["max_flows"]:
            hint = "cut the capture, or use `trafficllm analyze`"
            raise InputError("input.too_many_flows", f"more than {job['max_flows']:,} flows", input=NAME, hint=hint)
        write_batch(batch, Path(job["out"]) / f"{number:06d}.npz")
    (Path(job["out"]) / COUNTS).write_text(json.dumps(asdict(counts.build())), encoding="utf-8")


def _fields(job: Mapping[str, Any]) -> None:
    """Named fields of one frame, as JSON; null where the capture has no such frame."""
    from trafficllm.capture.fields.table import packet_rows

    rows: Iterator[tuple[str, ...]] = packet_rows([job["capture"]], job["fields"])
    found = next((row for number, row in enumerate(rows, 1) if number == min(job["frame"], _MAX_FIELDS_ROWS)), None)
    (Path(job["out"]) / "fields.json").write_text(json.dumps(found), encoding="utf-8")


def _flow(job: Mapping[str, Any]) -> None:
    """One flow: the batch that holds it, and as JSON its place there with fields of its first frames; null where there is no such flow."""
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.core.settings import FlowOptions
    from trafficllm.records.codec.flows import flow_uid

    at = None
    for batch in read_flows([job["capture"]], options=FlowOptions(**job["options"])):
        names = map(flow_uid, batch.community_id.tolist(), batch.ts.tolist())
        at = next((i for i, uid in enumerate(names) if uid == job["uid"]), None)
        if at is not None:
            write_batch(batch, Path(job["out"]) / "flow.npz")
            first, last = batch.pkt_ptr[at : at + 2].tolist()
            frames = batch.p_frame[first:last].tolist()[: job["frames"]]
            break
    answer = None if at is None else {"at": at, "packets": _rows(job, frozenset(frames))}
    (Path(job["out"]) / "flow.json").write_text(json.dumps(answer), encoding="utf-8")


def _rows(job: Mapping[str, Any], frames: frozenset[int]) -> list[tuple[str, ...]]:
    """Named fields of these frames, in the capture's order."""
    from trafficllm.capture.fields.table import packet_rows

    rows = enumerate(packet_rows([job["capture"]], job["fields"]), 1)
    return [row for number, row in takewhile(lambda item: item[0] <= max(frames, default=0), rows) if number in frames]


def _cut(job: Mapping[str, Any]) -> None:
    """The first packets of named flows, a capture for each number that `flows` gives them; as JSON the flows that were there."""
    from trafficllm.capture.files.read import read_frames
    from trafficllm.capture.files.write import write_capture
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.core.settings import FlowOptions
    from trafficllm.records.codec.flows import flow_uid

    wanted: dict[str, int] = job["flows"]
    frames: dict[int, set[int]] = {}
    there: dict[str, str] = {}
    for batch in read_flows([job["capture"]], options=FlowOptions(**job["options"])):
        for i, uid in enumerate(map(flow_uid, batch.community_id.tolist(), batch.ts.tolist())):
            if uid in wanted:
                there[uid] = str(batch.community_id[i])
                frames.setdefault(wanted[uid], set()).update(batch.p_frame[batch.pkt_ptr[i] : batch.pkt_ptr[i + 1]].tolist())
    for number, chosen in frames.items():
        write_capture(Path(job["out"]) / f"{number}.pcapng", _chosen(read_frames([job["capture"]]), chosen), format="pcapng")
    (Path(job["out"]) / "cut.json").write_text(json.dumps(there), encoding="utf-8")


def _chosen(batches: Iterator[FrameBatch], numbers: set[int]) -> Iterator[FrameBatch]:
    """The frames of these numbers."""
    import numpy as np

    for batch in batches:
        keep = np.isin(batch.number, list(numbers))
        rows = {name: getattr(batch, name)[keep] for name in ("offset", "caplen", "origlen", "ts", "link", "source", "number")}
        if keep.any():
            yield replace(batch, **rows)


def _warm(capture: str) -> None:
    from trafficllm.capture.fields.table import packet_rows
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.capture.flows.counts import CountsBuilder

    counts = CountsBuilder()
    list(read_flows([capture], counts=counts))
    counts.build()
    list(packet_rows([capture], ("frame.number",)))


def write_warm_capture(path: Path) -> None:
    """A small capture of our own, TCP and UDP: reading it loads (on a new machine: compiles) all that reading takes."""
    from trafficllm.capture.compile.plans import compile_flows
    from trafficllm.capture.files.write import write_capture
    from trafficllm.core.types import RESP, Action, FlowPlan

    tcp = (Action("open"), Action("send", size=100), Action("send", RESP, 2000), Action("close"))
    plans = [FlowPlan(6, 4, 80, tcp), FlowPlan(17, 6, 53, (Action("datagram", size=40),))]
    write_capture(path, [compile_flows(plans, seed=0, start=0, spread=1)])


def main() -> int:
    """Do one job; the exit code is 0 (also where none came), or 3 with the error's JSON in `error.json`."""
    _warm(sys.argv[1])
    sys.stdout.write(READY.decode())
    sys.stdout.flush()
    named = sys.stdin.readline().strip()
    if not named:
        return 0
    job = json.loads(Path(named).read_text(encoding="utf-8"))
    confine(job["memory"], job["seconds"], job["file_bytes"])
    try:
        {"flows": _flows, "fields": _fields, "flow": _flow, "cut": _cut}[job["do"]](job)
    except TrafficLLMError as error:
        body = {**error.as_dict(), "kind": "input" if isinstance(error, InputError) else "usage"}
        (Path(job["out"]) / "error.json").write_text(json.dumps(body), encoding="utf-8")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
