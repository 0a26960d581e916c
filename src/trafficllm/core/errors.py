"""The error tree: every failure names its input, the place in it and the remedy.

TrafficLLMError (exit 1)
├── UsageError      (2)  wrong option, unknown task, bad config key
├── InputError      (3)  a capture, folder or data set that cannot be used
├── ArtifactError   (4)  a base, adapter or data set that does not fit the others
├── GateError       (5)  an update that may not be promoted
├── ResourceError   (6)  disk, memory, permission, missing extra
├── FailOnError     (7)  `--fail-on LABEL` was hit
└── UnreadError     (8)  `--strict`: part of a capture was not read
"""

from __future__ import annotations

from typing import ClassVar


class TrafficLLMError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns.

    `code` is stable and machine-readable (`input.missing`), `input` the file or option at fault, `where` the
    place in it (byte offset, line, frame number), `message` one sentence, `hint` what to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, message: str, *, input: str = "", where: str = "", hint: str = "") -> None:  # noqa: A002 - the contract's key
        super().__init__(message)
        self.code = code
        self.message = message
        self.input = input
        self.where = where
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """A copy that crosses to another process keeps its code, place and hint."""
        return _again, (type(self), self.as_dict())

    def as_dict(self) -> dict[str, str]:
        """The `error` object of the `trafficllm.error/1` envelope."""
        return {"code": self.code, "input": self.input, "where": self.where, "message": self.message, "hint": self.hint}

    def __str__(self) -> str:
        place = f"{self.input}: " if self.input else ""
        at = f" (at {self.where})" if self.where else ""
        return f"{place}{self.message}{at}"


def _again(kind: type[TrafficLLMError], parts: dict[str, str]) -> TrafficLLMError:
    return kind(**parts)


class UsageError(TrafficLLMError):
    """The command, option, task or config key is wrong."""

    exit_code = 2


class InputError(TrafficLLMError):
    """A capture, folder or data set cannot be used as it is."""

    exit_code = 3


class ArtifactError(TrafficLLMError):
    """A base, tokenizer, adapter or data set does not fit what it is used with."""

    exit_code = 4


class GateError(TrafficLLMError):
    """An adapter update was refused by its gate."""

    exit_code = 5


class ResourceError(TrafficLLMError):
    """Disk, memory, permission or an optional dependency is missing."""

    exit_code = 6


class FailOnError(TrafficLLMError):
    """A verdict named by `--fail-on` was given."""

    exit_code = 7


class UnreadError(TrafficLLMError):
    """With `--strict`: frames of a link type that is not read, or many frames without a flow."""

    exit_code = 8
