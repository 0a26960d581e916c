"""The task catalogue: one TOML file a task, read alike by training, serving and evaluation.

>>> load_tasks()["MTD"].umbrella_of("Zeus")
'malicious'
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.toml import BadTomlError, read_toml


class Task(BaseModel):
    """One task. `labels` are the documented ones; a data set brings its own.

    `umbrella` maps labels, or patterns of them ("Vpn_*"), to the answer of `umbrella_question`; `causal` names fields
    that may decide the answer although they stand alone, with the reason; `housekeeping` keeps ARP, DHCP, mDNS...
    `positive` is the umbrella answer that the question asks for (malicious, botnet, attack, vpn, tor), `negative` the other one.
    `own_kinds` are kinds of flows (`records.coverage`) that the positive side is by definition: one source of them is enough to answer.
    `others` is the folder of the package's data with captures of the positive side from other sources, which no label names.
    `notable` are the labels and umbrella answers that raise an event; where no question is asked, the live detection task of
    the highest `priority` answers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    title: str
    kind: Literal["detection", "generation", "understanding"]
    granularity: Literal["flow", "packet", "http", "cells"] = "flow"
    instruction: str
    labels: tuple[str, ...] = ()
    umbrella_question: str = ""
    umbrella: Mapping[str, str] = {}
    positive: str = ""
    negative: str = ""
    own_kinds: tuple[str, ...] = ()
    others: Literal["", "malware"] = ""
    causal: Mapping[str, str] = {}
    housekeeping: bool = False
    notable: tuple[str, ...] = ()
    priority: int = 0
    dataset: str = ""
    notes: str = ""

    def umbrella_of(self, label: str) -> str | None:
        """The umbrella answer of a label, or None where the task knows none."""
        if label in self.umbrella:
            return self.umbrella[label]
        return next((answer for pattern, answer in self.umbrella.items() if fnmatchcase(label, pattern)), None)

    @model_validator(mode="after")
    def _answers(self) -> Task:
        """`positive` and `negative` are two answers of the umbrella, or neither is given."""
        if not self.positive and not self.negative:
            return self
        answers = set(self.umbrella.values())
        if self.positive == self.negative or not {self.positive, self.negative} <= answers:
            said = ", ".join(sorted(answers)) or "none"
            raise ValueError(f"positive and negative must be two different umbrella answers, which are: {said}")
        return self

    @property
    def asks_malice(self) -> bool:
        """Whether the umbrella's positive answer raises an event: malware, botnet, attack or DNS tunnel, but not VPN or Tor."""
        return bool(self.positive) and self.positive in self.notable

    def is_positive(self, label: str) -> bool | None:
        """Whether a label's umbrella answer is the positive one, or the negative one; None where it is neither or the task asks nothing.

        >>> load_tasks()["EVD"].is_positive("Vpn_Chat"), load_tasks()["EAC"].is_positive("DNS")
        (True, None)
        """
        answer = self.umbrella_of(label)
        return {self.positive: True, self.negative: False}.get(answer) if answer else None

    def notable_among(self, labels: Sequence[str]) -> frozenset[str]:
        """Which of these labels, and of the umbrella answers above them, raise an event."""
        answers = {*labels, *(self.umbrella_of(label) for label in labels)}
        return frozenset(name for name in self.notable if name in answers)


SERVING = frozenset({"notable", "priority", "positive", "negative", "own_kinds", "others"})
"""Fields of a task that say how verdicts are used: they shape no record, so a data set's key leaves them out."""


def read_task(path: Path) -> Task:
    """One task file. Raises InputError with the key at fault."""
    try:
        return Task.model_validate(read_toml(path))
    except FileNotFoundError as error:
        raise InputError("input.missing", "no such task file", input=str(path), hint="check the path") from error
    except BadTomlError as error:
        raise InputError("input.task", f"not valid TOML: {error}", input=str(path), hint="see `task show MTD`") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError("input.task", first["msg"], input=str(path), where=where, hint="see `task show MTD`") from error


@lru_cache(maxsize=1)
def _shipped() -> tuple[Task, ...]:
    folder = resources.files("trafficllm.records").joinpath("tasks")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return tuple(Task.model_validate(tomllib.loads(folder.joinpath(name).read_text(encoding="utf-8"))) for name in names)


def load_tasks(extra: Sequence[Path] = ()) -> dict[str, Task]:
    """All tasks by id, the shipped ones first; `extra` are task files or folders of them.

    Raises InputError where two files claim one id.
    """
    tasks = {task.id: task for task in _shipped()}
    files = [f for path in extra for f in (sorted(path.glob("*.toml")) if path.is_dir() else [path])]
    for path in files:
        task = read_task(path)
        if task.id in tasks:
            raise InputError("input.task", f"task {task.id!r} exists already", input=str(path), hint="choose another id")
        tasks[task.id] = task
    return tasks


def get_task(name: str, extra: Sequence[Path] = ()) -> Task:
    """The task with this id, upper or lower case. Raises UsageError with a suggestion."""
    tasks = load_tasks(extra)
    task = tasks.get(name) or tasks.get(name.upper())
    if task is None:
        near = difflib.get_close_matches(name.upper(), tasks, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"tasks are {', '.join(tasks)}"
        raise UsageError("usage.task", f"no task {name!r}", input=name, hint=hint)
    return task
