"""Alerts of signatures (Suricata's EVE) by Community ID and time: what may corroborate a verdict."""

from __future__ import annotations

import ipaddress
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trafficllm.capture.flows.community import community_id
from trafficllm.capture.foreign.columns import Entry, number
from trafficllm.capture.foreign.labels import SLACK
from trafficllm.capture.foreign.logs import entries
from trafficllm.core.errors import InputError

_PORTED = frozenset({6, 17, 132})
"""Protocols whose Community ID an alert's addresses and ports suffice for; an ICMP alert needs type and code."""
_LEAST = 3


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """A signature that fired: its severity (1 is the highest, as in Suricata), generator and signature id, and its text."""

    severity: int
    gid: int
    sid: int
    text: str


class Signatures:
    """The alerts of EVE logs, looked up flow by flow; memory grows with the alerts. Events of generator `own` are passed over: a verdict
    that was written as an alert must not corroborate the next one.

    An alert without a Community ID gets that of its addresses and ports (seed 0). Raises InputError where a log has no EVE events.
    """

    def __init__(self, paths: Sequence[str | Path], *, own: int) -> None:
        self._times: dict[str, dict[Signature, list[int]]] = defaultdict(lambda: defaultdict(list))
        self.alerts = 0
        for path in paths:
            events = 0
            for entry, values in entries(path):
                events += "event_type" in values
                if values.get("event_type") == "alert" and (name := _name(entry)) and (fired := _signature(values)) and fired.gid != own:
                    self.alerts += 1
                    self._times[name][fired].append(_moment(entry))
            if not events:
                hint = "Suricata writes them to eve.json, alerts among them"
                raise InputError("input.signatures", "no EVE events", input=str(path), hint=hint)
        for fired_at in self._times.values():
            for times in fired_at.values():
                times.sort()

    def on(self, name: str, ts: float, duration: float) -> list[Signature]:
        """The signatures that fired on the flow of a Community ID, the most severe first; times in seconds.

        An alert may be a second off the flow; one without a time counts for every flow of its Community ID.
        """
        start, end = round(ts * 1e9) - SLACK, round((ts + duration) * 1e9) + SLACK
        return sorted(fired for fired, times in self._times.get(name, {}).items() if _any_within(times, start, end))


def _any_within(times: Sequence[int], start: int, end: int) -> bool:
    at = bisect_left(times, start)
    return times[0] < 0 or (at < len(times) and times[at] <= end)


def _moment(entry: Entry) -> int:
    return -1 if entry.ts is None else entry.ts


def _name(entry: Entry) -> str:
    if entry.community_id or not entry.has_tuple or entry.proto not in _PORTED:
        return entry.community_id
    orig, resp = (ipaddress.ip_address(host).packed for host in (entry.orig_h, entry.resp_h))
    return community_id(entry.proto, orig, entry.orig_p, resp, entry.resp_p) if len(orig) == len(resp) else ""


def _signature(values: Mapping[str, Any]) -> Signature | None:
    """The event's signature; None where it has no id that could be named."""
    try:
        gid, sid = number(values.get("alert.gid")) or 1, number(values.get("alert.signature_id"))
        severity = number(values.get("alert.severity")) or _LEAST
    except (ValueError, TypeError, OverflowError):
        return None
    return Signature(severity, gid, sid, str(values.get("alert.signature") or "")) if sid else None
