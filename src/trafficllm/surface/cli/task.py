"""`trafficllm task`: list, show, route."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from trafficllm.surface.terminal.options import Base, Config, Json, Registry, Tasks

if TYPE_CHECKING:
    from trafficllm.infer.router.results import TaskRoute
    from trafficllm.lifecycle.tasks import TaskList

app = typer.Typer(rich_markup_mode=None)


@app.command("list")
def list_(registry: Registry = "", config: Config = None, extra: Tasks = None, as_json: Json = False) -> None:
    """List the tasks of the catalogue and which of them have an adapter."""
    from trafficllm.lifecycle import tasks
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit, note_failed

    body = tasks.task_list(Workspace(registry=registry, extra_tasks=extra or (), config=config))
    note_failed(body.failed)
    emit("task.list", body, as_json=as_json, show=_show_list)


def _show_list(answer: TaskList) -> None:
    from trafficllm.surface.terminal.output import show_table

    rows = ([task.id, task.title, task.kind, len(task.labels), task.live] for task in answer.tasks)
    show_table(("id", "title", "kind", "labels", "live"), rows, right=("labels",))


@app.command()
def show(
    task: Annotated[str, typer.Argument(metavar="ID")],
    registry: Registry = "",
    config: Config = None,
    extra: Tasks = None,
    as_json: Json = False,
) -> None:
    """Show one task: its labels, instruction, causal fields and notes."""
    from trafficllm.lifecycle import tasks
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit, show_pairs

    emit(
        "task.show",
        tasks.task_show(Workspace(registry=registry, extra_tasks=extra or (), config=config), task),
        as_json=as_json,
        show=show_pairs,
    )


@app.command()
def route(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A question in plain language; - reads a line a question from stdin.")],
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    wording: Annotated[bool, typer.Option("--wording/--no-wording", help="Hear the linear model over words beside the LLM.")] = True,
    as_json: Json = False,
) -> None:
    """Say which tasks a question asks for; with - a line a question gives a line of JSON an answer."""
    from trafficllm.lifecycle import tasks
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.terminal.output import emit, json_line

    workspace = Workspace(base=base, registry=registry, config=config)
    if text != "-":
        emit("task.route", tasks.route(workspace, [text], wording=wording)[0], as_json=as_json, show=_show_route)
        return
    for questions in _lines():
        for answer in tasks.route(workspace, questions, wording=wording):
            print(json_line({"schema": "trafficllm.task.route/1", "ok": True, **answer.as_dict()}))
        sys.stdout.flush()


def _lines() -> Iterator[list[str]]:
    """Single lines from a terminal, up to 64 at once from a file or pipe that is ahead of the model."""
    if sys.stdin.isatty():
        for line in sys.stdin:
            yield [line.rstrip("\n")]
        return
    block: list[str] = []
    for line in sys.stdin:
        block.append(line.rstrip("\n"))
        if len(block) == 64:
            yield block
            block = []
    if block:
        yield block


def _show_route(answer: TaskRoute) -> None:
    from trafficllm.surface.terminal.output import show_table

    rows = [[task.id, task.probability] for task in answer.tasks]
    facts = [] if answer.facts is None else [["none: facts of the capture", answer.facts]]
    show_table(("task", "probability"), [*rows, ["none", answer.none], *facts], right=("probability",))
