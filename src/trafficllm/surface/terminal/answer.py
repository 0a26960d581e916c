"""A fact on its way out: one sentence and its table for a person, or the table as JSONL or CSV."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from trafficllm.core.errors import UsageError
from trafficllm.core.escape import for_csv, for_terminal
from trafficllm.surface.terminal.output import json_line, note, show_table

if TYPE_CHECKING:
    from trafficllm.lifecycle.facts.results import FactAnswer

FORMS = ("table", "jsonl", "csv")
ALL = 1 << 16
"""Rows of a table for a program: as many as are counted apart."""
_RIGHT = frozenset({"flows", "packets", "bytes", "sent", "received", "seconds", "port", "flows opened", "flows answered"})


def write_fact(fact: FactAnswer, form: str, out: str) -> None:
    """The answer to `out` ("-": stdout). Raises UsageError for a form that has no flows to show."""
    if form not in FORMS:
        message = f"'{fact.asked}' is answered by numbers of the capture, not by a row a flow"
        raise UsageError("usage.format", message, input="--format", where=form, hint=f"one of {', '.join(FORMS)}, or --json")
    if form == "table" and out == "-":
        _show(fact)
        return
    text = _csv(fact) if form == "csv" else f"{json_line(fact.as_dict())}\n" if form == "jsonl" else f"{for_terminal(fact.sentence)}\n"
    if out == "-":
        print(text, end="")
        return
    from trafficllm.core.files import atomic_write

    atomic_write(out, text)


def _show(fact: FactAnswer) -> None:
    note(f"understood as: {fact.asked} (probability {fact.probability:.2f}); answered from the capture, no model takes part")
    print(for_terminal(fact.sentence))
    if fact.filters:
        print(for_terminal(f"Counted: flows {fact.filters}."))
    if fact.rows:
        show_table(fact.columns, fact.rows, right=[name for name in fact.columns if name in _RIGHT])
    if fact.total > fact.shown:
        note(f"the first {fact.shown:,} of {fact.total:,}: -f csv and --json have all of them")


def _csv(fact: FactAnswer) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    rows = fact.rows or [[fact.value]]
    writer.writerow(fact.columns or [fact.fact])
    writer.writerows([["" if cell is None else for_csv(cell) if isinstance(cell, str) else cell for cell in row] for row in rows])
    return buffer.getvalue()
