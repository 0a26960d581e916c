"""The columns of verdicts and flows, each with its type in every format: one table that all writers read.

Times are seconds (Zeek's words), sizes bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_ZEEK_TYPES = {
    "text": "string",
    "time": "time",
    "seconds": "interval",
    "address": "addr",
    "port": "port",
    "count": "count",
    "share": "double",
    "shares": "vector[string]",
    "counts": "vector[string]",
    "evidence": "vector[string]",
    "splt": "vector[string]",
    "frames": "vector[count]",
    "proto": "enum",
    "flag": "bool",
    "names": "set[string]",
    "words": "vector[string]",
    "enum": "enum",
    "enums": "set[enum]",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `name` in JSONL, CSV and Parquet, `zeek` in a Zeek log, `kind` of value."""

    name: str
    kind: str
    zeek: str

    @property
    def zeek_type(self) -> str:
        """The type in a Zeek log's `#types` line."""
        return _ZEEK_TYPES[self.kind]


def _columns(*rows: str) -> tuple[Column, ...]:
    split = [row.split() for row in rows]
    return tuple(Column(words[0], words[1], words[2] if len(words) > 2 else words[0]) for words in split)


VERDICT = _columns(
    "uid text",
    "ts time",
    "duration seconds",
    "community_id text",
    "orig_h address id.orig_h",
    "orig_p port id.orig_p",
    "resp_h address id.resp_h",
    "resp_p port id.resp_p",
    "proto proto",
    "packets count",
    "task text",
    "label text",
    "confidence share",
    "probabilities shares",
    "unknown_score share",
    "evidence evidence",
    "file text",
    "frames frames",
    "adapter text",
    "version text",
    "umbrella text",
    "umbrella_probability share",
    "malicious share",
    "labels_90 words",
    "source text",
)
"""A line a flow of `analyze`: who talked to whom, the verdict and what it rests on."""

HOST = _columns(
    "file text",
    "host address",
    "task text",
    "umbrella text",
    "umbrella_probability share",
    "malicious share",
    "score share",
    "flows count",
    "labels counts",
    "first time",
    "last time",
    "frames frames",
)
"""A line a host of `analyze --hosts`: its answer, what it rests on, and when it was seen."""

FLOW = _columns(
    "ts time",
    "uid text",
    "orig_h address",
    "orig_p port",
    "resp_h address",
    "resp_p port",
    "proto proto",
    "ip_proto count",
    "duration seconds",
    "orig_bytes count",
    "resp_bytes count",
    "conn_state text",
    "history text",
    "orig_pkts count",
    "orig_ip_bytes count",
    "resp_pkts count",
    "resp_ip_bytes count",
    "community_id text",
    "end_reason text",
    "tunnel text",
    "splt splt",
)
"""A line a flow of `capture flows`: Zeek's conn.log words, Community ID, and the first packets (`splt`)."""

CONN = _columns(
    "ts time",
    "uid text",
    "orig_h address id.orig_h",
    "orig_p port id.orig_p",
    "resp_h address id.resp_h",
    "resp_p port id.resp_p",
    "proto proto",
    "service text",
    "duration seconds",
    "orig_bytes count",
    "resp_bytes count",
    "conn_state text",
    "local_orig flag",
    "local_resp flag",
    "missed_bytes count",
    "history text",
    "orig_pkts count",
    "orig_ip_bytes count",
    "resp_pkts count",
    "resp_ip_bytes count",
    "tunnel_parents names",
    "ip_proto count",
    "community_id text",
    "end_reason text",
    "tunnel text",
    "splt splt",
)
"""A line of `capture flows -f zeek`: the fields of Zeek's conn.log in its order, then `end_reason`, `tunnel` and `splt`."""

NOTICE = _columns(
    "ts time",
    "uid text",
    "orig_h address id.orig_h",
    "orig_p port id.orig_p",
    "resp_h address id.resp_h",
    "resp_p port id.resp_p",
    "fuid text",
    "file_mime_type text",
    "file_desc text",
    "proto proto",
    "note enum",
    "msg text",
    "sub text",
    "src address",
    "dst address",
    "p port",
    "n count",
    "peer_descr text",
    "actions enums",
    "email_dest names",
    "suppress_for seconds",
    "country_code text remote_location.country_code",
    "region text remote_location.region",
    "city text remote_location.city",
    "latitude share remote_location.latitude",
    "longitude share remote_location.longitude",
)
"""A line of `analyze -f notice`: the fields of Zeek's notice.log in its order."""

LABEL = Column("label", "text", "label")
"""The label that another sensor's log gives a flow; the last column of `capture flows --label`."""

FILE = Column("file", "text", "file")
"""The capture that a row is from; the last column of a partitioned data set."""


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of a table with these columns."""
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "time": pa.float64(),
        "seconds": pa.float64(),
        "address": pa.string(),
        "port": pa.int32(),
        "count": pa.int64(),
        "share": pa.float64(),
        "shares": pa.map_(pa.string(), pa.float64()),
        "counts": pa.map_(pa.string(), pa.int64()),
        "evidence": pa.list_(pa.struct([("frame", pa.int64()), ("field", pa.string()), ("weight", pa.float64())])),
        "splt": pa.list_(pa.struct([("dir", pa.int64()), ("size", pa.int64()), ("iat", pa.float64())])),
        "frames": pa.list_(pa.int64()),
        "proto": pa.string(),
        "words": pa.list_(pa.string()),
    }
    return pa.schema([(column.name, types[column.kind]) for column in columns])
