"""Paths about adapters: versions, cards, and which version is live. Changes need a server with a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import APIRouter, Query, Request, Security
from fastapi.responses import Response
from fastapi.security import HTTPBearer

from trafficllm.core.results import Result
from trafficllm.core.types import ROUTER
from trafficllm.lifecycle.adapters import upkeep
from trafficllm.lifecycle.adapters.results import AdapterChange, AdapterList, AdapterShow
from trafficllm.surface.server.replies import RefusedError
from trafficllm.surface.server.routes import answers, as_json, inside, service_of
from trafficllm.surface.server.service import Service
from trafficllm.surface.web.results import Promotion

if TYPE_CHECKING:
    from trafficllm.lifecycle.workspace import Workspace

adapters = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False))])
R = TypeVar("R", bound=Result)


@adapters.get("/v1/adapters", responses=answers(AdapterList))
def adapter_list(request: Request) -> Response:
    """Every version with its score; folders of this machine are left out."""
    listed = upkeep.list_adapters(service_of(request).workspace)
    rows = [row.model_copy(update={"path": ""}) for row in listed.adapters]
    return as_json(listed.model_copy(update={"registry": "", "adapters": rows}))


@adapters.get("/v1/adapters/{task}", responses=answers(AdapterShow))
def adapter_show(request: Request, task: str, version: Annotated[str, Query(max_length=32)] = "") -> Response:
    """A version, by default the live one, with its manifest."""
    workspace = service_of(request).workspace
    return as_json(upkeep.show_adapter(workspace, _known(workspace, task), version).model_copy(update={"path": ""}))


@adapters.post("/v1/adapters/{task}/promote", responses=answers(AdapterChange))
async def adapter_promote(request: Request, task: str, body: Promotion) -> Response:
    """Make a version live; 403 on a server without a key."""
    return await _change(
        service_of(request), lambda service: upkeep.promote(service.workspace, _known(service.workspace, task), body.version)
    )


@adapters.post("/v1/adapters/{task}/rollback", responses=answers(AdapterChange))
async def adapter_rollback(request: Request, task: str) -> Response:
    """Make the previously live version live again; 403 on a server without a key."""
    return await _change(service_of(request), lambda service: upkeep.rollback(service.workspace, _known(service.workspace, task)))


def _known(workspace: Workspace, name: str) -> str:
    """A task's id, or the router, which has versions like a task; UsageError for another name."""
    return ROUTER if name.upper() == ROUTER else workspace.task(name).id


async def _change(service: Service, change: Callable[[Service], R]) -> Response:
    if not service.settings.key_hash:
        hint = "start it with TRAFFICLLM_API_KEY or --api-key-file, or use `trafficllm adapter promote`"
        raise RefusedError(403, "request.no_key", "a server without a key changes nothing", hint=hint)
    async with inside(service) as until:
        return as_json(await service.jobs.turn(until, lambda: change(service)))
