"""Results of the Python API: streams of flows and verdicts that become Arrow tables or data frames when asked.

Iterating reads the capture a batch at a time in constant memory; `to_arrow` and `to_pandas` keep what they read.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from trafficllm.core.errors import ResourceError
from trafficllm.core.escape import for_html, for_terminal
from trafficllm.surface.formats.columns import FLOW, VERDICT, Column

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from trafficllm.lifecycle.analyze.analysis import Analysis
    from trafficllm.surface.terminal.summary import Summary

_SHOWN = 10
Batches = Iterator[Sequence[Mapping[str, Any]]]


class _Rows:
    """Rows that can be asked for again: each iteration reads the capture anew, unless it is a table already."""

    columns: ClassVar[Sequence[Column]]
    noun: ClassVar[str]

    def __init__(self, source: str) -> None:
        self._source = source
        self._table: pa.Table | None = None

    def batches(self) -> Batches:
        """Lists of rows, as they are read."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for rows in self.batches():
            yield from rows

    def to_arrow(self) -> pa.Table:
        """All rows as one Arrow table; the capture is read once, however often this is asked."""
        import pyarrow as pa

        from trafficllm.surface.formats.columns import arrow_schema
        from trafficllm.surface.formats.writers import arrow_table

        if self._table is None:
            empty = arrow_schema(self.columns).empty_table()
            self._table = pa.concat_tables([empty, *(arrow_table(rows, self.columns) for rows in self.batches())])
        return self._table

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The Arrow PyCapsule interface: polars, duckdb and others read this object directly."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_pandas(self) -> pd.DataFrame:
        """All rows as a data frame; `probabilities` are dicts. Raises ResourceError where pandas (extra `pandas`) is not installed."""
        if importlib.util.find_spec("pandas") is None:
            hint = "`pip install 'trafficllm[pandas]'`, or `.to_arrow()`, which needs nothing more"
            raise ResourceError("resource.extra", "pandas is not installed", input="to_pandas", hint=hint)
        frame: pd.DataFrame = self.to_arrow().to_pandas(maps_as_pydicts="strict")
        return frame

    def _facts(self) -> str:
        return "" if self._table is None else f", {self._table.num_rows:,} rows"

    def __repr__(self) -> str:
        return for_terminal(f"<{type(self).__name__}: {self.noun} of {self._source}{self._facts()}>")

    def _repr_html_(self) -> str:
        """A notebook shows the first rows once they are read; before that it says how to get them."""
        if self._table is None:
            return f"<code>{for_html(repr(self))}</code>: iterate, or <code>.to_pandas()</code>"
        names = [column.name for column in self.columns if column.kind not in {"shares", "evidence", "frames", "splt"}]
        rows = self._table.slice(0, _SHOWN).to_pylist()
        return f"<p>{for_html(repr(self))}</p>{_html_table(names, [[_cell(row[name]) for name in names] for row in rows])}"


def _html_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; cells are escaped."""
    head = "".join(f"<th>{for_html(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{for_html(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


class Flows(_Rows):
    """Flows of captures in Zeek's words, times in seconds; `splt` lists the first packets (`dir`, `size`, `iat`).

    >>> import trafficllm
    >>> for flow in trafficllm.read("x.pcap"):
    ...     print(flow["proto"], flow["resp_p"], flow["splt"][0]["size"])
    udp 53 39
    udp 53 49
    """

    columns = FLOW
    noun = "flows"

    def __init__(self, source: str, start: Callable[[], Batches]) -> None:
        super().__init__(source)
        self._start = start

    def batches(self) -> Batches:
        """Lists of flow rows in the order of their first packets."""
        return self._start()


class Verdicts(_Rows):
    """A verdict a flow (contract: `analyze -f jsonl`), with the `tasks` that were chosen and the `route` to them.

    >>> import trafficllm
    >>> verdicts = trafficllm.analyze("x.pcap", task="EAC")
    >>> verdicts.tasks, sum(verdicts.counts().values())
    (('EAC',), 2)
    """

    columns = VERDICT
    noun = "verdicts"

    def __init__(self, source: str, start: Callable[[], Analysis]) -> None:
        super().__init__(source)
        self._start = start
        self._next: Analysis | None = start()  # what can be wrong is wrong now, not at the first row
        self.tasks: tuple[str, ...] = self._next.tasks
        self.route: Mapping[str, Any] | None = self._next.route.as_dict() if self._next.route else None
        self._summary: Summary | None = None

    def batches(self) -> Batches:
        """Lists of verdict rows, while the capture is read."""
        from trafficllm.surface.terminal.summary import Summary

        analysis, self._next = self._next or self._start(), None
        summary = Summary(analysis)
        for rows in analysis.batches:
            summary.add(rows)
            yield rows
        self._summary = summary

    def summary(self) -> str:
        """What `analyze` says first: a line of facts, then a sentence a task. Reads the capture where nobody has."""
        self.to_arrow()
        assert self._summary is not None
        return "\n".join(line for line in (self._summary.analysis.overview(), *self._summary.sentences()) if line)

    def _repr_html_(self) -> str:
        """A notebook shows the summary, flows by verdict, the hosts that raise an event, and the first rows."""
        said = "".join(f"<p>{for_html(line)}</p>" for line in self.summary().splitlines())
        assert self._summary is not None
        shares = [(label, f"{count:,}") for label, count in self.counts().items()]
        rows = self._summary.analysis.hosts.rows()
        hosts = [(row["host"], row["umbrella"], _cell(row["umbrella_probability"]), f"{row['flows']:,}") for row in rows[:_SHOWN]]
        tables = _html_table(("verdict", "flows"), shares)
        tables += _html_table(("host", "means", "probability", "flows"), hosts) if hosts else ""
        return said + tables + super()._repr_html_()

    def counts(self) -> dict[str, int]:
        """How many flows have each label, most first."""
        return dict(Counter(self.to_arrow()["label"].to_pylist()).most_common())

    def _facts(self) -> str:
        if self._table is None:
            return f" by {', '.join(self.tasks)}"
        shown = ", ".join(f"{label} {count:,}" for label, count in list(self.counts().items())[:_SHOWN])
        return f" by {', '.join(self.tasks)}, {self._table.num_rows:,} rows: {shown}"
