"""JSON Schemas of everything that other programs read, made from `shapes`.

`schemas/` holds the generated files; a test regenerates and compares them.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model

from trafficllm.surface.docs import shapes, shapes_evaluation, shapes_generation, shapes_learning, shapes_lines

BODIES: dict[str, type[BaseModel]] = {
    "adapter.export": shapes_learning.AdapterExport,
    "adapter.gc": shapes_learning.AdapterGc,
    "adapter.list": shapes.AdapterList,
    "adapter.register": shapes_learning.AdapterRegister,
    "adapter.promote": shapes.AdapterChange,
    "adapter.rollback": shapes.AdapterChange,
    "adapter.show": shapes.AdapterShow,
    "adapter.update": shapes_learning.AdapterUpdate,
    "adapter.verify": shapes_learning.AdapterVerify,
    "analyze": shapes.Analyze,
    "capture.anonymize": shapes.CaptureAnonymize,
    "capture.check": shapes.CaptureCheck,
    "capture.convert": shapes.CaptureConvert,
    "capture.info": shapes.CaptureInfo,
    "config.show": shapes.Setting,
    "data.audit": shapes_learning.DataAudit,
    "data.build": shapes.DataBuild,
    "data.check": shapes.DataCheck,
    "doctor": shapes.Doctor,
    "embed": shapes_evaluation.Embed,
    "evaluate.generation": shapes_generation.EvaluateGeneration,
    "evaluate.compare": shapes_evaluation.EvaluateCompare,
    "evaluate.drift": shapes_evaluation.EvaluateDrift,
    "evaluate.robust": shapes_evaluation.EvaluateRobust,
    "evaluate.run": shapes_evaluation.EvaluateRun,
    "evaluate.transfer": shapes_evaluation.EvaluateTransfer,
    "generate": shapes.Generate,
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

LINES: dict[str, type[BaseModel]] = {
    "analyze.line": shapes_lines.Verdict,
    "capture.flows.line": shapes_lines.Flow,
    "eve.line": shapes_lines.Eve,
}
"""Lines of the stream formats."""


def envelope(command: str) -> type[BaseModel]:
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
    models: dict[str, type[BaseModel]] = {command: envelope(command) for command in BODIES}
    models |= LINES | {"error": shapes.ErrorEnvelope}
    return {f"trafficllm.{name}.1.json": _text(name, model) for name, model in sorted(models.items())}


def _text(name: str, model: type[BaseModel]) -> str:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"trafficllm.{name}/1",
        **model.model_json_schema(by_alias=True),
    }
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
