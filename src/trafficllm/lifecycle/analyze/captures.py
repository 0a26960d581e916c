"""What can be asked of captures: counts, packets, flows, validity. Plain values, ready for any surface."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from trafficllm.core.errors import InputError, TrafficLLMError, UnreadError, UsageError
from trafficllm.core.types import CaptureCounts, FlowBatch, ProgressSink, Silent

if TYPE_CHECKING:
    from trafficllm.capture.anonymise.captures import Payload
    from trafficllm.capture.files.read import Skipped
    from trafficllm.capture.files.write import CaptureFormat
    from trafficllm.capture.flows.rows import ConnRow, FlowRow
    from trafficllm.capture.foreign.labels import Labels
    from trafficllm.core.results import Failure
    from trafficllm.core.settings import Config
    from trafficllm.lifecycle.analyze.results import CaptureAnonymize, CaptureCheck, CaptureConvert, CaptureInfo, CaptureTotals

_NS = 1_000_000_000
Row = TypeVar("Row")

PACKET_FIELDS = (
    "frame.number",
    "frame.time_epoch",
    "frame.len",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "ip.proto",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "tcp.flags",
    "tcp.len",
    "udp.length",
)
"""What `capture packets` shows when no fields are named."""


def totals(counts: CaptureCounts) -> CaptureTotals:
    """Counts as commands answer them; `first` and `last` in seconds since the Unix epoch, None in an empty capture."""
    from trafficllm.lifecycle.analyze.results import CaptureTotals

    seen = counts.packets > 0
    return CaptureTotals(
        **asdict(counts)
        | {
            "first": round(counts.first / _NS, 9) if seen else None,
            "last": round(counts.last / _NS, 9) if seen else None,
            "link_types": dict(sorted(counts.link_types.items())),
            "malformed": dict(sorted(counts.malformed.items())),
            "not_read": dict(counts.not_read),
        }
    )


def skipping(tell: Callable[[TrafficLLMError], None]) -> Skipped:
    """Files among several that cannot be read are told and left out: pass it as `skipped`."""
    from trafficllm.capture.files.read import Skipped

    return Skipped(tell)


def unread(skipped: Skipped) -> InputError | None:
    """How a command ends that left files out: the others' results stand, and its exit code says that it is not all."""
    count = len(skipped.errors)
    message = f"{count:,} {'inputs' if count > 1 else 'input'} could not be read"
    return InputError("input.skipped", message, hint="each is named above; the others' results stand") if count else None


def silences(skipped: Skipped) -> list[str]:
    """A line for every link type that was not read and every common reason for frames without a flow."""
    from trafficllm.capture.flows.counts import notices

    return notices(skipped.counts) if skipped.counts is not None else []


def incomplete(skipped: Skipped) -> UnreadError | None:
    """How a command ends under `--strict` where `silences` has something to say."""
    names = list(skipped.counts.not_read) if skipped.counts is not None else []
    hint = "run without --strict for what was read"
    return UnreadError("input.not_read", f"not everything was read: {', '.join(names)}", hint=hint) if names else None


def info(paths: Sequence[str | Path], *, skipped: Skipped | None = None, progress: ProgressSink | None = None) -> CaptureInfo:
    """What is in the captures (contract: `capture info`)."""
    from trafficllm.capture.flows.info import capture_info
    from trafficllm.lifecycle.analyze.results import CaptureInfo

    counts = capture_info(paths, skipped=skipped, progress=progress)
    return CaptureInfo.of(totals(counts), failed=failures(skipped))


def failures(skipped: Skipped | None) -> list[Failure]:
    """Files that were left out, as an answer names them."""
    from trafficllm.core.results import Failure

    return [Failure(**error.as_dict()) for error in skipped.errors] if skipped is not None else []


def packets(
    paths: Sequence[str | Path], fields: Sequence[str], *, skipped: Skipped | None = None, config: Config | None = None
) -> Iterator[tuple[str, ...]]:
    """A row a packet of tshark's fields in tshark's formats."""
    from trafficllm.capture.fields.table import packet_rows

    return packet_rows(paths, tuple(fields), skipped=skipped, vxlan_ports=_vxlan_ports(config))


def _vxlan_ports(config: Config | None) -> tuple[int, ...]:
    from trafficllm.core.settings import FlowOptions

    return (config.capture if config is not None else FlowOptions()).vxlan_ports


@dataclass(frozen=True, slots=True)
class FlowReading:
    """How flows are read for rows: inside tunnels unless told not to look there, with labels of other sensors where there are any."""

    tunnels: bool = True
    progress: ProgressSink | None = None
    skipped: Skipped | None = None
    labels: Labels | None = None


def flows(paths: Sequence[str | Path], config: Config, reading: FlowReading | None = None) -> Iterator[list[FlowRow]]:
    """Batches of flow rows in Zeek's words, in the order of their first packets."""
    from trafficllm.capture.flows.rows import flow_rows

    return _rows(paths, config, flow_rows, reading or FlowReading())


def conn_log(paths: Sequence[str | Path], config: Config, reading: FlowReading | None = None) -> Iterator[list[ConnRow]]:
    """The same flows as rows of a Zeek conn.log: unset fields and whole microseconds are Zeek's."""
    from trafficllm.capture.flows.rows import conn_rows

    return _rows(paths, config, conn_rows, reading or FlowReading())


ROWS = 4096
"""Rows of a piece: what is written at once, in Parquet a row group."""


def flow_batches(paths: Sequence[str | Path], config: Config, reading: FlowReading) -> Iterator[FlowBatch]:
    """The flows behind `flows` and `conn_log`, in batches."""
    from trafficllm.capture.flows.assembly import read_flows

    options, sink = config.capture, reading.progress or Silent()
    options = options.model_copy(update={"tunnels": options.tunnels and reading.tunnels})
    return read_flows(paths, options=options, progress=sink, skipped=reading.skipped)


def _rows(paths: Sequence[str | Path], config: Config, rows_of: Callable[..., Iterator[Row]], reading: FlowReading) -> Iterator[list[Row]]:
    number = 0
    for batch in flow_batches(paths, config, reading):
        rows = rows_of(batch, number=number)
        if reading.labels is not None:
            rows = _labelled(rows, batch, reading.labels)
        number += len(batch)
        while part := list(itertools.islice(rows, ROWS)):
            yield part


def _labelled(rows: Iterator[Any], batch: FlowBatch, labels: Labels) -> Iterator[Any]:
    """Rows of a batch, each with the label of its flow; None where there is none, or several disagree."""
    for row, ts, duration in zip(rows, batch.ts.tolist(), batch.duration.tolist(), strict=True):
        row["label"] = labels.of(
            community_id=row["community_id"],
            orig_h=row["orig_h"],
            orig_p=row["orig_p"],
            resp_h=row["resp_h"],
            resp_p=row["resp_p"],
            proto=row["ip_proto"],
            ts=ts,
            duration=duration,
        )
        yield row


def check(paths: Sequence[str | Path], config: Config | None = None, *, progress: ProgressSink | None = None) -> CaptureCheck:
    """Are the packets valid: lengths, checksums, TCP state (contract: `capture check`)."""
    from trafficllm.capture.check.captures import check as check_captures
    from trafficllm.lifecycle.analyze.results import CaptureCheck

    report = check_captures(paths, vxlan_ports=_vxlan_ports(config), progress=progress)
    return CaptureCheck(**asdict(report) | {"malformed": dict(sorted(report.malformed.items()))})


def convert(paths: Sequence[str | Path], out: str | Path, *, form: str, microseconds: bool = False) -> CaptureConvert:
    """Captures of any container, one after the other, as one pcap or pcapng file (contract: `capture convert`)."""
    from trafficllm.capture.files.read import read_frames
    from trafficllm.capture.files.write import write_capture
    from trafficllm.lifecycle.analyze.results import CaptureConvert

    container = capture_format(out, form)
    packets = write_capture(out, read_frames(paths), format=container, nanoseconds=not microseconds)
    return CaptureConvert(file=str(out), format=container, packets=packets)


def anonymise(paths: Sequence[str | Path], out: str | Path, *, form: str, payload: str, key_file: Path | None = None) -> CaptureAnonymize:
    """Captures with every host under another name and no contents (contract: `capture anonymize`).

    Without a key file the key is random and forgotten: nobody can make the same names again.
    """
    import secrets

    from trafficllm.capture.anonymise.captures import anonymise as written
    from trafficllm.capture.anonymise.pseudonyms import KEY
    from trafficllm.lifecycle.analyze.results import CaptureAnonymize

    if payload not in {"zero", "cut", "keep"}:
        raise UsageError("usage.payload", f"no way called '{payload}'", input="--payload", hint="zero, cut or keep")
    key = secrets.token_bytes(KEY) if key_file is None else _key(key_file)
    container = capture_format(out, form)
    way = cast("Payload", payload)
    report = written(paths, out, key=key, payload=way, format=container)
    return CaptureAnonymize(file=str(out), format=container, payload=way, **asdict(report))


def left_out(result: CaptureAnonymize) -> list[str]:
    """A line for every link type whose frames were not written."""
    from trafficllm.capture.link.names import link_name

    lines = []
    for reason, frames in result.dropped.items():
        number = reason.rsplit(" ", 1)[-1]
        name = link_name(int(number)) if number.isdigit() else number
        lines.append(f"{name} ({reason}), left out: {frames:,} frames; what in them names somebody is not known")
    return lines


def _key(file: Path) -> bytes:
    """A key of 32 bytes from a file with 64 hexadecimal digits."""
    try:
        key = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise InputError("input.key", "no key can be read here", input=str(file), hint="`openssl rand -hex 32` makes one") from error
    if len(key) != 32:
        raise InputError("input.key", f"a key has 32 bytes, this one {len(key)}", input=str(file), hint="`openssl rand -hex 32` makes one")
    return key


def capture_format(out: str | Path, form: str) -> CaptureFormat:
    """The container that is asked for: the option, else the file's suffix, else pcap."""
    name = form or ("pcapng" if Path(out).suffix.lower() in {".pcapng", ".ntar"} else "pcap")
    if name not in {"pcap", "pcapng"}:
        raise UsageError("usage.format", f"unknown format '{name}'", input="--format", hint="pcap or pcapng")
    return cast("CaptureFormat", name)
