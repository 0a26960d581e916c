"""The task catalogue as commands show it, and the router: which tasks a question asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trafficllm.lifecycle.adapters.learn_router import ROUTER

if TYPE_CHECKING:
    from trafficllm.lifecycle.workspace import Workspace


def task_list(workspace: Workspace) -> dict[str, Any]:
    """Every task, with the labels and number of its live version (contract: `task list`)."""
    rows = []
    for task in workspace.tasks().values():
        live = workspace.registry.find_live(task.id)
        labels = list(live.manifest.get("labels", task.labels)) if live else list(task.labels)
        facts = {"id": task.id, "title": task.title, "kind": task.kind, "granularity": task.granularity}
        rows.append({**facts, "labels": labels, "live": live.version if live else None})
    return {"tasks": rows}


def task_show(workspace: Workspace, name: str) -> dict[str, Any]:
    """One task's whole file and its live version (contract: `task show`); UsageError with a suggestion for an unknown one."""
    task = workspace.task(name)
    live = workspace.registry.find_live(task.id)
    return {**task.model_dump(mode="json"), "live": live.version if live else None}


def route(workspace: Workspace, questions: Sequence[str], *, wording: bool = True) -> list[dict[str, Any]]:
    """Which tasks each question asks for (contract: `task route`); without `wording` the LLM answers without the linear word model.

    Raises ArtifactError where no router is registered.
    """
    version = workspace.load_router()
    from trafficllm.infer.router.router import Router
    from trafficllm.infer.router.wording import of_version

    word_models = of_version(version.path) if wording else ()
    router = Router.of(workspace.engine, ROUTER, version.manifest, wording=word_models)
    return [answer.row() for answer in router.stream(questions)]
