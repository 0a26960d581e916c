"""JSON Schemas of everything that other programs read, made from the results that commands answer with.

`schemas/` holds the generated files; a test regenerates and compares them.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, TypeAdapter, create_model

from trafficllm.capture.flows.rows import FlowRow
from trafficllm.core.results import ErrorEnvelope, Result
from trafficllm.evaluate.audit.results import DataAudit
from trafficllm.evaluate.results import EvaluateCompare
from trafficllm.infer.detector import VerdictRow
from trafficllm.lifecycle.analyze import results as captures
from trafficllm.lifecycle.generate.results import Generate
from trafficllm.lifecycle.studies import results as studies
from trafficllm.records.results import DataBuild, DataCheck
from trafficllm.surface.docs import shapes, shapes_learning
from trafficllm.surface.formats.eve import EveEvent

BODIES: dict[str, type[Result]] = {
    "adapter.export": shapes_learning.AdapterExport,
    "adapter.gc": shapes_learning.AdapterGc,
    "adapter.list": shapes.AdapterList,
    "adapter.register": shapes_learning.AdapterRegister,
    "adapter.promote": shapes.AdapterChange,
    "adapter.rollback": shapes.AdapterChange,
    "adapter.show": shapes.AdapterShow,
    "adapter.update": shapes_learning.AdapterUpdate,
    "adapter.verify": shapes_learning.AdapterVerify,
    "analyze": captures.Analyze,
    "capture.anonymize": captures.CaptureAnonymize,
    "capture.check": captures.CaptureCheck,
    "capture.convert": captures.CaptureConvert,
    "capture.info": captures.CaptureInfo,
    "config.show": shapes.Setting,
    "data.audit": DataAudit,
    "data.build": DataBuild,
    "data.check": DataCheck,
    "doctor": shapes.Doctor,
    "embed": studies.Embed,
    "evaluate.generation": studies.EvaluateGeneration,
    "evaluate.compare": EvaluateCompare,
    "evaluate.drift": studies.EvaluateDrift,
    "evaluate.robust": studies.EvaluateRobust,
    "evaluate.run": studies.EvaluateRun,
    "evaluate.transfer": studies.EvaluateTransfer,
    "generate": Generate,
    "quickstart": shapes_learning.Quickstart,
    "task.list": shapes.TaskList,
    "task.route": shapes.TaskRoute,
    "task.show": shapes.TaskShow,
    "tokenizer.compare": shapes_learning.TokenizerCompare,
    "tokenizer.extend": shapes_learning.TokenizerExtend,
    "tokenizer.show": shapes_learning.TokenizerShow,
    "tokenizer.train": shapes_learning.TokenizerTrain,
    "tune.base": shapes_learning.Tune,
    "tune.instruct": shapes_learning.Tune,
    "tune.plan": shapes_learning.TunePlan,
    "tune.task": shapes_learning.Tune,
}
"""Bodies of the `--json` envelopes, by command."""

LINES: dict[str, Any] = {"analyze.line": VerdictRow, "capture.flows.line": FlowRow, "eve.line": EveEvent}
"""Lines of the stream formats."""


def envelope(command: str) -> type[Result]:
    """The model of a command's `--json` object: its body with `schema` and `ok`."""
    name = f"trafficllm.{command}/1"
    body = BODIES[command]
    literal: Any = Literal  # a Literal of a computed name is beyond the type checker
    return create_model(
        body.__name__ + "Envelope",
        __base__=body,
        __doc__=body.__doc__,
        schema_=(literal[name], Field(alias="schema")),
        ok=(literal[True], ...),
    )


def all_schemas() -> dict[str, str]:
    """File name -> JSON Schema text, for every command, stream line and the error."""
    models = {**{command: envelope(command) for command in BODIES}, **LINES, "error": ErrorEnvelope}
    return {f"trafficllm.{name}.1.json": _text(name, model) for name, model in sorted(models.items())}


def _text(name: str, model: Any) -> str:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"trafficllm.{name}/1",
        **TypeAdapter(model).json_schema(by_alias=True),
    }
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
