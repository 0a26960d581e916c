"""Verdicts of a capture in one sentence: whether anything is to be noted, by which hosts, and what the rest is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trafficllm.core.escape import spoken

if TYPE_CHECKING:
    from trafficllm.lifecycle.analyze.verdict_table import VerdictTable

_NAMED = 3
WORDS = {
    "packet": "packet",
    "payload": "first payload bytes",
    "facts": "fields of TLS, DNS or HTTP",
    "service": "the protocol spoken",
    "iats": "times between packets",
    "flags": "TCP flags",
    "window": "TCP window",
    "ttl": "TTL",
    "proto": "transport protocol",
    "orig_port_class": "the client's kind of port",
    "resp_port_class": "the server's kind of port",
}
"""What a part of a record is called for people; names as in `infer.evidence`."""


def named(text: str) -> str:
    """A label or answer within a sentence: as `spoken`, but "not covered" and "not malicious" are words of ours.

    >>> named("not covered"), named("Neris")
    ('not covered', 'Neris')
    """
    rest = text.removeprefix("not ")
    return text if spoken(rest) == rest else spoken(text)


def summary(table: VerdictTable) -> str:
    """One sentence a task, hosts before flows; captured names in it are marked unless they are one plain word."""
    if not table.rows:
        return "The capture has no flow that can be judged."
    return " ".join(_of_task(table, task) for task in table.tasks)


def _of_task(table: VerdictTable, task: str) -> str:
    verdicts = table.verdicts().get(task, {})
    flows = sum(verdicts.values())
    hosts = [row for row in table.notable_hosts if row["task"] == task]
    notable = sum(row["task"] == task and severity == 1 for row, severity in zip(table.rows, table.severities, strict=True))
    parts = []
    if hosts:
        first = ", ".join(f"{row['host']} ({named(row['umbrella'])})" for row in hosts[:_NAMED])
        more = f" and {len(hosts) - _NAMED:,} more" if len(hosts) > _NAMED else ""
        parts.append(f"hosts to look at: {first}{more}")
    elif task in table.host_counts:
        parts.append("no host stands out")
    if notable:
        parts.append(f"{notable:,} of {flows:,} flows to be noted")
    parts.append(_counted(verdicts))
    return f"{spoken(task)}: {'; '.join(parts)}."


def _counted(counts: Mapping[str, int]) -> str:
    rows = list(counts.items())
    shown = len(rows) if len(rows) == _NAMED + 1 else _NAMED
    text = ", ".join(f"{named(name)} {count:,}" for name, count in rows[:shown])
    rest = sum(count for _, count in rows[shown:])
    return text + (f", {rest:,} of {len(rows) - shown} other labels" if rest else "")
