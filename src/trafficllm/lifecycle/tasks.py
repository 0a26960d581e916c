"""The task catalogue as commands show it, and the router: which tasks a question asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trafficllm.core.results import Result
from trafficllm.core.types import ROUTER
from trafficllm.infer.router.results import TaskRoute
from trafficllm.lifecycle.adapters.results import DamageRow

if TYPE_CHECKING:
    from trafficllm.lifecycle.workspace import Workspace


class TaskRow(Result):
    """A task of the catalogue; `live` is its adapter's version."""

    id: str
    title: str
    kind: str
    granularity: str
    labels: list[str]
    live: str | None


class TaskList(Result):
    """The catalogue; `failed` only where an adapter is damaged."""

    tasks: list[TaskRow]
    failed: list[DamageRow] | None = None


class TaskShow(TaskRow):
    """One task."""

    instruction: str
    umbrella_question: str
    umbrella: dict[str, str]
    positive: str
    negative: str
    causal: dict[str, str]
    housekeeping: bool
    notable: list[str]
    priority: int
    dataset: str
    notes: str


def task_list(workspace: Workspace) -> TaskList:
    """Every task, with the labels and number of its live version (contract: `task list`); `failed` names damaged adapters."""
    rows, lives = [], workspace.registry.live_versions()
    for task in workspace.tasks().values():
        live = lives.get(task.id)
        labels = list(live.manifest.get("labels", task.labels)) if live else list(task.labels)
        version = live.version if live else None
        rows.append(TaskRow(id=task.id, title=task.title, kind=task.kind, granularity=task.granularity, labels=labels, live=version))
    from trafficllm.lifecycle.adapters.upkeep import failed

    return TaskList(tasks=rows, **failed(workspace))


def task_show(workspace: Workspace, name: str) -> TaskShow:
    """One task's whole file and its live version (contract: `task show`); UsageError with a suggestion for an unknown one."""
    task = workspace.task(name)
    live = workspace.registry.find_live(task.id)
    return TaskShow(**task.model_dump(mode="json"), live=live.version if live else None)


def route(workspace: Workspace, questions: Sequence[str], *, wording: bool = True) -> list[TaskRoute]:
    """Which tasks each question asks for (contract: `task route`); without `wording` the LLM answers without the linear word model.

    Raises ArtifactError where no router is registered.
    """
    version = workspace.load_router()
    from trafficllm.infer.router.router import Router
    from trafficllm.infer.router.wording import of_version

    word_models = of_version(version.path) if wording else ()
    router = Router.of(workspace.engine, ROUTER, version.manifest, wording=word_models)
    return [TaskRoute.model_validate(answer.row()) for answer in router.stream(questions)]
