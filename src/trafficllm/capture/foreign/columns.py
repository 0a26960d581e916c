"""The names that other tools give to a flow's fields, each with its unit."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

_S = 1_000_000_000
_UNITS = {"s": _S, "ms": 1_000_000, "us": 1_000, "ns": 1}
_TABLE = tomllib.loads(resources.files("trafficllm.capture.foreign").joinpath("columns.toml").read_text(encoding="utf-8"))
TIMES: Mapping[str, Mapping[str, int]] = {
    field: {name: _UNITS[unit] for name, unit in names.items()} for field, names in _TABLE["times"].items()
}
"""Canonical time -> its names in other tools, each with the nanoseconds of its unit."""
FIELDS: Mapping[str, Sequence[str]] = _TABLE["fields"]
"""Canonical field -> its names in other tools, the preferred first."""
PROTOCOLS: Mapping[str, int] = _TABLE["protocols"]
_DAYS = ("%d/%m/%Y %I:%M:%S %p", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%Y/%m/%d %H:%M:%S")
_ZONE = re.compile(r"([+-]\d{2})(\d{2})$")
_NO_TIME = re.compile(r"X+(\.X+)?")
"""How Zeek's own test logs write a time that was taken out."""
_FAR = 1 << 63


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a log: five-tuple, times in ns since 1970, and every column under its canonical name in `fields`.

    `community_id` "" and `ts` None where the log has none; `where` names file and line.
    """

    where: str
    orig_h: str = ""
    resp_h: str = ""
    orig_p: int = 0
    resp_p: int = 0
    proto: int = 0
    community_id: str = ""
    ts: int | None = None
    duration: int = 0
    fields: Mapping[str, Any] | None = None

    @property
    def has_tuple(self) -> bool:
        """Whether the line names both addresses and a protocol."""
        return bool(self.orig_h and self.resp_h and self.proto)


class Columns:
    """Which column of a log is which canonical field, decided once a header."""

    def __init__(self, names: tuple[str, ...]) -> None:
        lower = {name.strip().lower(): name for name in reversed(names)}
        self.times = {
            field: next(((lower[name], unit) for name, unit in known.items() if name in lower), None) for field, known in TIMES.items()
        }
        self.fields = {
            field: column for field, known in FIELDS.items() if (column := next((lower[name] for name in known if name in lower), None))
        }

    @property
    def joins(self) -> bool:
        """Whether lines can be matched with flows: a Community ID, or both addresses and a protocol."""
        return "community_id" in self.fields or {"orig_h", "resp_h", "proto"} <= self.fields.keys()

    def entry(self, row: Mapping[str, Any], where: str) -> Entry | None:
        """A row as an Entry; None where addresses or numbers cannot be read."""
        try:
            ts, end, duration = (self._time(row, name) for name in ("ts", "end", "duration"))
            if duration is None and ts is not None and end is not None:
                duration = max(end - ts, 0)
            fields = {field: row.get(column) for field, column in self.fields.items()}
            return Entry(
                where,
                _address(fields.get("orig_h")),
                _address(fields.get("resp_h")),
                number(fields.get("orig_p")),
                number(fields.get("resp_p")),
                protocol(fields.get("proto"), fields.get("resp_h")),
                str(fields.get("community_id") or ""),
                ts,
                duration or 0,
                fields,
            )
        except (ValueError, OverflowError):
            return None

    def _time(self, row: Mapping[str, Any], field: str) -> int | None:
        found = self.times[field]
        return None if found is None else moment(row.get(found[0]), found[1])


def number(value: Any) -> int:
    """A count or port; 0 where it is unset. Raises ValueError for anything else."""
    if value is None or value in {"", "-", "(empty)"}:
        return 0
    found = int(float(value)) if isinstance(value, str) and not value.strip().isdigit() else int(value)
    if not 0 <= found < _FAR:
        raise ValueError(f"{found} is no count")
    return found


def protocol(value: Any, host: Any = "") -> int:
    """A protocol number from a number or a name; ICMP between IPv6 hosts is ICMPv6."""
    text = str(value if value is not None else "").strip().lower()
    found = PROTOCOLS.get(text)
    if found is None:
        found = number(text) if text not in {"", "-"} else 0
        if found > 255:
            raise ValueError(f"{text} is no protocol")
    return 58 if found == 1 and ":" in str(host or "") else found


def _address(value: Any) -> str:
    text = str(value or "").strip()
    return "" if text in {"", "-"} else str(ipaddress.ip_address(text.split("%", 1)[0]))


def moment(value: Any, unit: int) -> int | None:
    """A time or a length of time in ns: a number in `unit` ns, or a date (ISO 8601, or day first as in CICFlowMeter; UTC)."""
    if value is None or value in {"", "-"} or _NO_TIME.fullmatch(str(value)):
        return None
    if isinstance(value, datetime):
        return round((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1e6) * 1000
    text = str(value).strip()
    try:
        whole, _, rest = text.partition(".")
        if whole.lstrip("-").isdigit() and (rest.isdigit() or not rest):  # exact: a float has 53 bits, a time in ns needs 61
            sign = -1 if whole.startswith("-") else 1
            found = int(whole) * unit + sign * int((rest + "0" * 9)[:9]) * unit // _S
        else:
            found = round(float(text) * unit)
    except ValueError:
        return _date(text)
    if abs(found) >= _FAR:
        raise ValueError(f"{text} is no time")
    return found


def _date(text: str) -> int:
    try:
        when = datetime.fromisoformat(_ZONE.sub(r"\1:\2", text))
    except ValueError:
        when = next((day for form in _DAYS if (day := _parsed(text, form))), None)  # type: ignore[assignment]
        if when is None:
            raise
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return round(when.timestamp() * 1e6) * 1000


def _parsed(text: str, form: str) -> datetime | None:
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        return None
