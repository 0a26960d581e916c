"""Values of the registry: a version, and the pointer that says which version of a task is live.

The pointer is one small JSON file a task. Every change of the registry is one replacement of that file, so that
a reader, or a process that is killed, sees the state before or after, never between.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from trafficllm.core.errors import ArtifactError, TrafficLLMError, UsageError
from trafficllm.core.files import slug

Status = Literal["live", "candidate", "rejected"]
Source = Literal["registry", "shipped"]
"""Where a version lies: in the registry that one writes, or in the package."""
STATUSES: tuple[Status, ...] = ("live", "candidate", "rejected")
SCHEMA = "trafficllm.registry/1"
_NAME = re.compile(r"v([0-9]{4,9})")


def version_name(number: int) -> str:
    """`v0001` of 1."""
    return f"v{number:04d}"


def version_number(name: str) -> int:
    """1 of `v0001`; raises UsageError for anything that is no version name, paths among them."""
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise UsageError(
            "usage.version",
            f"'{name}' is no version name",
            input="version",
            hint="versions are called v0001, v0002...; `trafficllm adapter list` shows them",
        )
    return int(match[1])


ELSEWHERE = 0.01
"""Mean false-positive rate on sources left out up to which an adapter is for more than its laboratory."""


def laboratory_only(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest's task asks an umbrella question and nothing bounds its false alarms on sources it has not learnt.

    >>> laboratory_only({"task_definition": {"positive": "malicious"}})
    True
    """
    definition, calibration = manifest.get("task_definition"), manifest.get("calibration")
    if not isinstance(definition, Mapping) or not definition.get("positive"):
        return False
    step = calibration.get("umbrella") if isinstance(calibration, Mapping) else None
    rate = step["flow"]["rate"] if isinstance(step, Mapping) and isinstance(step.get("flow"), Mapping) else None
    return not isinstance(rate, float | int) or rate > ELSEWHERE


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable adapter version: its folder is a stock PEFT adapter plus `manifest.json` and `README.md`.

    `content` is the SHA-256 of its manifest, which holds the hash of every other file: what caches are keyed by. `source`: a shipped
    version is read only, and `promote` copies it.
    """

    task: str
    version: str
    status: Status
    path: Path
    manifest: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""
    source: Source = "registry"

    @property
    def resident(self) -> str:
        """What an engine holds it under: the task and its content, so that equal names of other weights never meet."""
        return f"{self.task}/{self.content or self.version}"

    @property
    def parent(self) -> str | None:
        """The version this one was tuned from, or None."""
        value = self.manifest.get("parent")
        return value if isinstance(value, str) else None

    @property
    def laboratory_only(self) -> bool:
        """Whether its task asks an umbrella question whose false-positive rate on other sources is unknown or above ELSEWHERE."""
        return laboratory_only(self.manifest)

    @property
    def experimental(self) -> str:
        """Why it is called experimental; empty where it is not."""
        why = self.manifest.get("experimental")
        return why if isinstance(why, str) else ""

    @property
    def provenance(self) -> str:
        """What a verdict says of where its adapter is from: its `source`, and that it is experimental."""
        return f"{self.source}, experimental" if self.experimental else self.source

    def as_dict(self) -> dict[str, Any]:
        """What `adapter list --json` prints for a version."""
        return {"task": self.task, "version": self.version, "status": self.status, "parent": self.parent}


@dataclass(frozen=True, slots=True)
class Damage:
    """A task (`version` "") or a version that cannot be read: named and left out, in the way of no other."""

    task: str
    version: str
    error: TrafficLLMError

    @property
    def name(self) -> str:
        """`MTD/v0001`, or `MTD` where no version of the task can be read."""
        return f"{self.task}/{self.version}" if self.version else self.task

    def as_dict(self) -> dict[str, str]:
        """A row of `failed` in `adapter list --json` and `task list --json`."""
        return {"task": self.task, "version": self.version, **self.error.as_dict()}


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which version is live, which were before it (oldest first), and what became of the others."""

    task: str
    live: str | None = None
    history: tuple[str, ...] = ()
    rejected: frozenset[str] = frozenset()
    last: int = 0

    def status(self, version: str) -> Status:
        """Status of an existing version; one that nothing is known of is a candidate."""
        if version == self.live:
            return "live"
        return "rejected" if version in self.rejected else "candidate"

    def promoted(self, version: str) -> Pointer:
        """`version` live, the one before it remembered for rollback."""
        if version == self.live:
            return self
        past = (*self.history, self.live) if self.live else self.history
        return replace(self, live=version, history=past, rejected=self.rejected - {version})

    def rolled_back(self, present: frozenset[str]) -> Pointer:
        """The latest earlier version that is still in `present` live; raises ArtifactError when there is none."""
        past = [name for name in self.history if name in present and name != self.live]
        if not past:
            raise ArtifactError(
                "artifact.no_earlier",
                f"task {self.task} has no earlier live version",
                input=self.task,
                hint="`trafficllm adapter list` shows the versions, `adapter promote` makes one live",
            )
        return replace(self, live=past[-1], history=tuple(past[:-1]))

    def refused(self, version: str) -> Pointer:
        """`version` marked rejected; the live one cannot be."""
        if version == self.live:
            raise UsageError("usage.live", f"{version} is live", input=self.task, hint="roll back or promote another version first")
        return replace(self, rejected=self.rejected | {version})

    def as_json(self) -> dict[str, Any]:
        """Plain form of the pointer file."""
        return {
            "schema": SCHEMA,
            "task": self.task,
            "live": self.live,
            "history": list(self.history),
            "rejected": sorted(self.rejected),
            "last": self.last,
        }


def pointer_of(raw: Any, source: Path) -> Pointer:
    """Parse a pointer file's JSON; raises ArtifactError naming the file when it is not ours or lies in another task's folder."""
    try:
        if raw["schema"] != SCHEMA:
            raise KeyError(raw["schema"])
        live, history, rejected, last = raw["live"], raw["history"], raw["rejected"], raw["last"]
        if not isinstance(history, list) or not isinstance(rejected, list) or type(last) is not int or not 0 <= last < 10**9:
            raise TypeError("history, rejected or last")
        for name in (*history, *rejected, *([] if live is None else [live])):
            version_number(name)
        if slug(str(raw["task"])) != source.parent.name:
            raise ValueError("another task's folder")
        return Pointer(str(raw["task"]), live, tuple(history), frozenset(rejected), last)
    except (KeyError, TypeError, ValueError, TrafficLLMError) as error:
        raise ArtifactError(
            "artifact.registry",
            "this is no pointer file of the registry",
            input=str(source),
            hint="restore it from a backup, or remove it and promote a version again",
        ) from error
