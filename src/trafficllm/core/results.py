"""Typed results: what a command answers is one frozen value with exactly the keys that its class names."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, with_config

Captured: TypeAlias = Annotated[str, Field(json_schema_extra={"x-captured": True})]
"""Text that a capture, a folder or a file was named by: escaped on output, marked in the schema as data, never an instruction."""
Share: TypeAlias = float
"""A number from 0 to 1: a probability, a score, a part of a whole."""
Counts: TypeAlias = dict[str, int]
"""How many of each kind."""
closed = with_config(ConfigDict(extra="forbid"))
"""Decorator of a row (a TypedDict), the form of what comes by the million: its schema allows no key beside those it names."""


class Result(BaseModel):
    """A frozen value that becomes one JSON object. JSON Schemas, OpenAPI and `--json` are written from its fields.

    Keys may be added by later versions, never renamed or dropped (contract). Fields that were not given are left out of the
    JSON form, so that an optional key appears only where it has a meaning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: plain dictionaries, lists, strings and numbers."""
        return self.model_dump(by_alias=True, exclude_unset=True)

    def given(self) -> dict[str, Any]:
        """The fields that were given, as they are, in the order of the class."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    @classmethod
    def of(cls, other: Result, **more: Any) -> Self:
        """This result from the fields that it shares with another one, and `more`, which go before them."""
        return cls(**{name: value for name, value in other.given().items() if name in cls.model_fields and name not in more}, **more)


class Failure(Result):
    """What went wrong, where, and what to do."""

    code: str
    input: str
    where: str
    message: str
    hint: str


class ErrorEnvelope(Result):
    """What every command prints with `--json` when it fails."""

    schema_: Literal["trafficllm.error/1"] = Field(alias="schema")
    ok: Literal[False]
    error: Failure
