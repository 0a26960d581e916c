"""JSON Schemas of everything that other programs read, made from the results that commands answer with.

`schemas/` holds the generated files; a test regenerates and compares them.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, TypeAdapter, create_model

from trafficllm.capture.flows.rows import FlowRow
from trafficllm.core.results import ErrorEnvelope, Result
from trafficllm.core.settings import Setting
from trafficllm.evaluate.audit.results import DataAudit
from trafficllm.evaluate.results import EvaluateCompare
from trafficllm.infer.detector import VerdictRow
from trafficllm.infer.router.results import TaskRoute
from trafficllm.lifecycle import tasks
from trafficllm.lifecycle.adapters import results as adapters
from trafficllm.lifecycle.analyze import results as captures
from trafficllm.lifecycle.analyze.hosts import HostRow
from trafficllm.lifecycle.bases import results as bases
from trafficllm.lifecycle.doctor import Doctor
from trafficllm.lifecycle.generate.results import Generate
from trafficllm.lifecycle.generate.scenario.output.answers import Answer
from trafficllm.lifecycle.generate.scenario.results import GenerateScenario
from trafficllm.lifecycle.quickstart.results import Quickstart
from trafficllm.lifecycle.studies import results as studies
from trafficllm.records.results import DataBuild, DataCheck
from trafficllm.surface.agent import clients
from trafficllm.surface.formats.eve import EveEvent, EveHostEvent

BODIES: dict[str, type[Result]] = {
    "adapter.export": adapters.AdapterExport,
    "adapter.gc": adapters.AdapterGc,
    "adapter.list": adapters.AdapterList,
    "adapter.register": adapters.AdapterRegister,
    "adapter.promote": adapters.AdapterChange,
    "adapter.rollback": adapters.AdapterChange,
    "adapter.show": adapters.AdapterShow,
    "adapter.update": adapters.AdapterUpdate,
    "adapter.sign": adapters.AdapterSign,
    "adapter.verify": adapters.AdapterVerify,
    "analyze": captures.Analyze,
    "base.get": bases.BaseGet,
    "base.import": bases.BaseImport,
    "base.list": bases.BaseList,
    "base.show": bases.BaseShow,
    "capture.anonymize": captures.CaptureAnonymize,
    "capture.check": captures.CaptureCheck,
    "capture.convert": captures.CaptureConvert,
    "capture.info": captures.CaptureInfo,
    "config.show": Setting,
    "data.audit": DataAudit,
    "data.build": DataBuild,
    "data.check": DataCheck,
    "doctor": Doctor,
    "embed": studies.Embed,
    "evaluate.generation": studies.EvaluateGeneration,
    "evaluate.compare": EvaluateCompare,
    "evaluate.drift": studies.EvaluateDrift,
    "evaluate.openworld": studies.EvaluateOpenworld,
    "evaluate.robust": studies.EvaluateRobust,
    "evaluate.run": studies.EvaluateRun,
    "evaluate.transfer": studies.EvaluateTransfer,
    "generate": Generate,
    "generate.scenario": GenerateScenario,
    "mcp.doctor": clients.McpDoctor,
    "mcp.install": clients.Install,
    "quickstart": Quickstart,
    "task.list": tasks.TaskList,
    "task.route": TaskRoute,
    "task.show": tasks.TaskShow,
    "tokenizer.compare": bases.TokenizerCompare,
    "tokenizer.extend": bases.TokenizerExtend,
    "tokenizer.show": bases.TokenizerShow,
    "tokenizer.train": bases.TokenizerTrain,
    "tune.base": bases.Tune,
    "tune.instruct": bases.Tune,
    "tune.plan": bases.TunePlan,
    "tune.task": bases.Tune,
}
"""Bodies of the `--json` envelopes, by command."""

LINES: dict[str, Any] = {
    "analyze.hosts.line": HostRow,
    "analyze.line": VerdictRow,
    "capture.flows.line": FlowRow,
    "eve.hosts.line": EveHostEvent,
    "eve.line": EveEvent,
    "generate.scenario.answer": Answer,
}
"""Lines of the stream formats."""

VERSIONS = {"eve.hosts.line": 2, "eve.line": 2}
"""Versions of the shapes that have changed otherwise than by a key more; 1 of all others."""


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
    return {f"trafficllm.{name}.{VERSIONS.get(name, 1)}.json": _text(name, model) for name, model in sorted(models.items())}


def _text(name: str, model: Any) -> str:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"trafficllm.{name}/{VERSIONS.get(name, 1)}",
        **TypeAdapter(model).json_schema(by_alias=True),
    }
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
