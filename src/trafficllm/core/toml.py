"""TOML files of other people, read within bounds: size, depth, and what `tomllib` would take minutes for."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

LARGEST = 1 << 18
_DOTS = 256
"""In one line: tables are opened one inside the other, in time that grows with the square of their number."""


class BadTomlError(ValueError):
    """What is wrong with a file, for the caller to say where it came from."""


def read_toml(path: str | Path) -> Any:
    """A TOML file of at most 256 KiB. Raises OSError where it cannot be read, BadTomlError where it is none or could not be bounded."""
    with Path(path).open("rb") as stream:
        data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise BadTomlError(f"more than {LARGEST >> 10} KiB")
    if any(line.count(b".") > _DOTS for line in data.splitlines()):
        raise BadTomlError(f"a line with more than {_DOTS} dots")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except RecursionError:
        raise BadTomlError("nested too deeply") from None
    except ValueError as error:  # of TOML, of UTF-8, of integers with thousands of digits
        raise BadTomlError(str(error)[:200]) from error
