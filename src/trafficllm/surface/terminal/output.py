"""What the command line prints: data on stdout, the rest on stderr, captured text escaped on both."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.escape import for_terminal, visible

if TYPE_CHECKING:
    from rich.console import Console

    from trafficllm.core.results import Result
    from trafficllm.lifecycle.adapters.results import DamageRow

Answer = TypeVar("Answer", bound="Result | Mapping[str, Any]")
_LONGEST = 1 << 16
_COLUMNS = 80
"""Columns of a table where stdout is no terminal and COLUMNS says nothing else."""


class Said(str):
    """Text of our own, with line breaks: what is captured in it was escaped when it was put in."""

    __slots__ = ()


def plain(value: Any) -> Any:
    """The same value as JSON knows it: numpy and tuples unpacked, NaN as null, every string printable.

    >>> plain({"label": "a\\x1b[31m", "p": float("nan")})
    {'label': 'a\\\\x1b[31m', 'p': None}
    """
    if value is None or isinstance(value, bool | int | Said):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | PurePath):
        return visible(str(value), limit=_LONGEST)
    if isinstance(value, Mapping):
        return {visible(str(key)): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value)]
    return [plain(item) for item in value]


def json_line(value: Any, *, indent: int | None = None) -> str:
    """JSON text of `plain(value)`; `<`, `>` and `&` as JSON escapes, so that a page which embeds it stays inert."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def out() -> Console:
    """A console on stdout: colours on a terminal only and never under NO_COLOR."""
    from rich.console import Console

    told = os.environ.get("COLUMNS", "")
    width = None if sys.stdout.isatty() else int(told) if told.isdecimal() and int(told) else _COLUMNS
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)


def note(text: str) -> None:
    """One line to stderr: what a person should know, not data."""
    print(for_terminal(text), file=sys.stderr)


def note_failed(rows: Sequence[DamageRow] | None) -> None:
    """A line to stderr for each damaged task or version that a listing leaves out."""
    for row in rows or ():
        name = f"{row.task} {row.version}".strip()
        note(f"left out: {name}: {row.message} ({row.input}); {row.hint}")


def emit(command: str, result: Answer, *, as_json: bool, show: Callable[[Answer], None]) -> None:
    """Print a command's result: the `trafficllm.<command>/1` envelope with `--json`, else through `show`."""
    if as_json:
        body = _body(result)
        print(json_line({"schema": f"trafficllm.{command}/1", "ok": True, **body}, indent=1))
    else:
        show(result)


def _body(result: Result | Mapping[str, Any]) -> Mapping[str, Any]:
    return result if isinstance(result, Mapping) else result.as_dict()


def _given(result: Result | Mapping[str, Any]) -> Mapping[str, Any]:
    return result if isinstance(result, Mapping) else result.given()


_NARROW, _BETWEEN, _EDGES = 8, 3, 2
"""Characters of a column that folds, at least, those between two columns, and those at both edges of a table."""


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", right: Sequence[str] = (), whole: Sequence[str] = ()
) -> None:
    """A table on stdout; cells are escaped. Columns named in `right` are numbers: aligned right and never cut or folded, even where the
    table is then wider than the terminal; text beside them folds, that of columns named in `whole` last: only where the terminal is too
    narrow for it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, title=Text(for_terminal(title)) if title else None, title_justify="left", pad_edge=False)
    cells = [[for_terminal(_cell(value)) for value in row] for row in rows]
    longest = {name: max(map(len, (*name.split(), *(row[k] for row in cells)))) for k, name in enumerate(columns)}
    shares = _shares(longest, fixed={*right, *whole}, room=out().width - _EDGES - _BETWEEN * (len(columns) - 1)) if whole else {}
    for name in columns:
        number = name in right
        least = longest[name] if number or (name in whole and shares) else None
        side: Literal["right", "left"] = "right" if number else "left"
        table.add_column(Text(name), justify=side, overflow="fold", min_width=least, max_width=shares.get(name))
    for row in cells:
        table.add_row(*map(Text, row))
    out().print(table, crop=False)


def _shares(longest: Mapping[str, int], *, fixed: Collection[str], room: int) -> dict[str, int]:
    """Widths of the columns that fold, where those of `fixed` columns keep all of theirs; none where there is no room for that.

    >>> _shares({"from": 20, "verdict": 7, "frames": 30}, fixed=["from"], room=50)
    {'verdict': 7, 'frames': 23}
    """
    free = sorted((name for name in longest if name not in fixed), key=lambda name: longest[name])
    left = room - sum(width for name, width in longest.items() if name in fixed)
    if left < sum(min(longest[name], _NARROW) for name in free):
        return {}
    shares = {}
    for at, name in enumerate(free):
        shares[name] = min(longest[name], max(left // (len(free) - at), _NARROW))
        left -= shares[name]
    return shares


def show_pairs(values: Mapping[str, Any] | Result, *names: str) -> None:
    """Keys and values, one a line, nested objects in short; only those of `names` where any are given."""
    given = _given(values)
    body = {name: given[name] for name in names} if names else given
    width = max((len(key) for key in body), default=0)
    for key, value in body.items():
        print(f"{for_terminal(key):<{width}}  {for_terminal(_cell(value))}")


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    if hasattr(value, "given"):
        value = value.given()
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(_cell(item) for item in value) or "-"
    return str(value)


class ToldError(Exception):
    """A failure of a command whose one object stands on stdout already: the rest is said on stderr."""

    def __init__(self, failure: TrafficLLMError) -> None:
        super().__init__(failure.message)
        self.failure = failure


def report_failure(error: TrafficLLMError, *, as_json: bool) -> int:
    """Print an error: the envelope on stdout with `--json`, one line and the remedy on stderr without. Returns the exit code."""
    if as_json:
        print(json_line({"schema": "trafficllm.error/1", "ok": False, "error": error.as_dict()}, indent=1))
    else:
        tell(error)
    return error.exit_code


def tell(error: TrafficLLMError, *, as_answer: bool = False) -> None:
    """An error and its remedy as one line on stderr; in a conversation, `as_answer`, without the option that is at fault."""
    said = error.message if as_answer else str(error)
    note(f"error: {said}" + (f" ({error.hint})" if error.hint else ""))
