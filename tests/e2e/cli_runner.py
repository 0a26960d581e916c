"""Runs the real command line in this process: exit code, stdout, stderr."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from trafficllm.surface.cli.main import run
from trafficllm.surface.docs.schemas import VERSIONS

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def body(self, command: str) -> dict[str, Any]:
        """The `--json` object, checked against the committed schema of `command`."""
        found: dict[str, Any] = json.loads(self.out)
        jsonschema.validate(found, schema(command))
        return found

    def refused(self, code: int, error: str) -> None:
        """The command failed as it should: exit code, one line on stderr that names the error, nothing on stdout."""
        assert (self.code, self.out) == (code, ""), self
        assert len(self.said()) == 1, self.err
        assert error in self.err

    def said(self) -> list[str]:
        """The lines on stderr, without those that say how far a long command is ("3 s: reading 2/40")."""
        return [line for line in self.err.splitlines() if not re.match(r"\d+ s: ", line)]


Cli = Callable[..., Done]


@cache
def schema(name: str) -> dict[str, Any]:
    """A committed JSON Schema."""
    text = (REPO / "schemas" / f"trafficllm.{name}.{VERSIONS.get(name, 1)}.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def runner(capfd: pytest.CaptureFixture[str]) -> Cli:
    """A function that runs one command line."""

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        code = run([str(word) for word in arguments])
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return call
