"""What `TrafficClassifier` accepts as samples: captures, flow tables, or a matrix of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np

from trafficllm.core.types import Record
from trafficllm.records import masks
from trafficllm.records.codec.canonical import port_class

_PROTO = {"tcp": 6, "udp": 17, "icmp": 1}
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Samples:
    """Masked records of all samples in a row; sample i is `records[starts[i]:starts[i + 1]]`."""

    records: tuple[Record, ...]
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def sizes(self) -> list[int]:
        """Records of each sample."""
        return np.diff(self.starts).tolist()


def samples_of(X: Any, profile: str) -> Samples | None:
    """Samples of captures (one each) or of a flow table (one a row); None for anything else, a matrix that is.

    Raises InputError for captures that cannot be read.
    """
    rows = _table_rows(X)
    if rows is not None:
        return _joined([[record_of_row(row)] for row in rows], profile)
    paths = _paths(X)
    return None if paths is None else _joined(map(_capture_records, paths), profile)


def record_of_row(row: Mapping[str, Any]) -> Record:
    """The record of one flow row: protocol, ports, directions, sizes and times; a table holds no payload.

    Flags, windows and TTLs are absent (-1).
    """
    splt = list(row["splt"]) if row["splt"] is not None else []
    proto = int(row.get("ip_proto") or _PROTO.get(str(row.get("proto")), 0))
    ports = (int(row["orig_p"]), int(row["resp_p"])) if proto in {6, 17} else None
    none = (-1,) * len(splt)
    return Record(
        ip_version=6 if ":" in str(row.get("orig_h", "")) else 4,
        proto=proto,
        ports=ports,
        port_class="".join(port_class(port) for port in ports) if ports else "",
        dirs=tuple(int(packet["dir"]) for packet in splt),
        sizes=tuple(int(packet["size"]) for packet in splt),
        iats=tuple(max(0, round(packet["iat"] * _NS)) for packet in splt),
        flags=none,
        windows=none,
        ttls=none,
        icmp=int(row["orig_p"]) << 8 | int(row["resp_p"]) & 255 if proto in {1, 58} else -1,
    )


def _table_rows(X: Any) -> Iterable[Mapping[str, Any]] | None:
    """Rows of a `Flows`, an Arrow table or a data frame that has flow columns; None where X is none of them."""
    if hasattr(X, "to_arrow") and not hasattr(X, "shape"):
        X = X.to_arrow()
    names = getattr(X, "column_names", None) or list(getattr(X, "columns", ()))
    if not {"splt", "orig_p", "resp_p"} <= {str(name) for name in names}:
        return None
    rows: list[dict[str, Any]] = X.to_pylist() if hasattr(X, "to_pylist") else X.to_dict("records")
    return rows


def _paths(X: Any) -> list[str] | None:
    if isinstance(X, np.ndarray):
        X = X.tolist() if X.ndim == 1 else None
    listed = isinstance(X, Sequence) or hasattr(X, "to_list")
    items = list(X) if listed and not isinstance(X, str | bytes) else []
    if not items or not all(isinstance(item, str | PathLike) for item in items):
        return None
    return [fspath(item) for item in items]


def _capture_records(path: str) -> list[Record]:
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.records.codec.flows import records_of

    return [record for batch in read_flows([path]) for record, _ in records_of(batch)]


def _joined(parts: Iterable[Sequence[Record]], profile: str) -> Samples:
    records: list[Record] = []
    starts = [0]
    for part in parts:
        records += (masks.wiped(masks.apply(record, profile)) for record in part)
        starts.append(len(records))
    return Samples(tuple(records), tuple(starts))
