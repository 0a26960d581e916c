"""Verdicts of a capture in one sentence: whether anything is to be noted, by which hosts, and what the rest is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trafficllm.core.escape import spoken

if TYPE_CHECKING:
    from trafficllm.lifecycle.analyze.verdict_table import VerdictTable

_NAMED = 3


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
        named = ", ".join(f"{row['host']} ({spoken(row['umbrella'])})" for row in hosts[:_NAMED])
        more = f" and {len(hosts) - _NAMED:,} more" if len(hosts) > _NAMED else ""
        parts.append(f"hosts to look at: {named}{more}")
    elif task in table.host_counts:
        parts.append("no host stands out")
    if notable:
        parts.append(f"{notable:,} of {flows:,} flows to be noted")
    parts.append(_counted(verdicts))
    return f"{spoken(task)}: {'; '.join(parts)}."


def _counted(counts: Mapping[str, int]) -> str:
    rows = list(counts.items())
    named = ", ".join(f"{spoken(name)} {count:,}" for name, count in rows[:_NAMED])
    rest = sum(count for _, count in rows[_NAMED:])
    return named + (f", {rest:,} of {len(rows) - _NAMED} other labels" if rest else "")
