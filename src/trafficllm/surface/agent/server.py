"""The MCP server: tools, resources and prompts over one workbench, on stdio or on HTTP (extra `mcp`)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent, ToolAnnotations

from trafficllm import __version__
from trafficllm.core.errors import TrafficLLMError, UsageError
from trafficllm.core.escape import visible
from trafficllm.core.results import Result
from trafficllm.surface.agent import marks, pages, prompts, resources
from trafficllm.surface.agent.tools import Tools

if TYPE_CHECKING:
    from trafficllm.surface.agent.workbench import Workbench
    from trafficllm.surface.server.guard import Guard
    from trafficllm.surface.server.settings import Settings

P = ParamSpec("P")
NAME = "trafficllm"
READING = (
    "analyze_capture",
    "list_flows",
    "explain_flow",
    "get_packets",
    "capture_info",
    "check_capture",
    "compare_with_known",
    "list_tasks",
    "audit_dataset",
)
WRITING = ("generate_capture",)
PATH = "/mcp"
"""Where the server is over HTTP."""
_ERROR = 1000
_INSTRUCTIONS = (
    "TrafficLLM judges network captures (pcap, pcapng) below one folder on this machine. Begin with analyze_capture; go on with "
    "list_flows, explain_flow and get_packets by the flow ids it gives; capture_info and check_capture need no model. Verdicts may be "
    '"unknown" or "not covered": report them as such. A verdict is a probability, not proof: name the flow id, the label, its '
    "confidence and the frames when you report one. "
)


def create_server(bench: Workbench) -> MCPServer[Any]:
    """An MCP server over a workbench; `generate_capture` is there only where it may write.

    >>> [tool.name for tool in asyncio.run(create_server(bench).list_tools())][:2]  # doctest: +SKIP
    ['analyze_capture', 'list_flows']
    """
    server: MCPServer[Any] = MCPServer(
        NAME, title="TrafficLLM", version=__version__, instructions=_INSTRUCTIONS + marks.NOTICE, log_level="ERROR"
    )
    tools = Tools(bench)
    for name in (*READING, *(WRITING if bench.write_root is not None else ())):
        function = getattr(tools, name)
        reads = name in READING
        server.add_tool(
            _answering(function),
            name=name,
            description=inspect.getdoc(function),
            annotations=ToolAnnotations(
                title=name.replace("_", " "), read_only_hint=reads, destructive_hint=False, idempotent_hint=reads, open_world_hint=False
            ),
            structured_output=True,
        )
    resources.add(server, bench)
    prompts.add(server)
    return server


def _answering(function: Callable[P, Result]) -> Callable[P, CallToolResult]:
    """The tool as the SDK wants it: JSON text and the same structured, errors with their code and remedy, bugs without content."""

    @functools.wraps(function)
    def tool(*args: P.args, **kwargs: P.kwargs) -> CallToolResult:
        try:
            value = pages.body(function(*args, **kwargs))
        except TrafficLLMError as error:
            raise ToolError(failure(error)) from None
        return CallToolResult(content=[TextContent(type="text", text=pages.text(value))], structured_content=value)

    signature = inspect.signature(function, eval_str=True)
    answer: Any = Annotated[CallToolResult, signature.return_annotation]
    tool.__signature__ = signature.replace(return_annotation=answer)  # type: ignore[attr-defined]
    tool.__annotations__ = {**{name: part.annotation for name, part in signature.parameters.items()}, "return": answer}
    return tool


def failure(error: TrafficLLMError) -> str:
    """An error in one line: code, message, place and remedy; text that may come from a capture or a name is marked."""
    place = f" ({marks.value(error.input)})" if error.input else ""
    hint = f"; {visible(error.hint, limit=_ERROR)}" if error.hint else ""
    return f"{error.code}: {visible(error.message, limit=_ERROR)}{place}{hint}"


def run_stdio(bench: Workbench) -> None:
    """Serve one client over stdin and stdout until it closes them."""
    create_server(bench).run("stdio")


def http_app(bench: Workbench, settings: Settings) -> Guard:
    """The same server over Streamable HTTP at /mcp, behind the guard that every server of ours has: key, Host, Origin, size, deadline.

    Raises UsageError without a key, or for an address that other machines reach.
    """
    from mcp.server.transport_security import TransportSecuritySettings

    from trafficllm.surface.server.guard import Guard
    from trafficllm.surface.server.metrics import Metrics
    from trafficllm.surface.server.settings import is_loopback

    if not settings.key_hash:
        hint = "set TRAFFICLLM_API_KEY or --api-key-file"
        raise UsageError("usage.open_server", "MCP over HTTP needs an API key", input="--http", hint=hint)
    if not is_loopback(settings.host):
        hint = "listen on 127.0.0.1, and put a proxy before it"
        raise UsageError("usage.open_server", "MCP over HTTP listens on loopback only", input="--host", where=settings.host, hint=hint)
    own_checks = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # the guard has made them
    app: Any = create_server(bench).streamable_http_app(
        streamable_http_path=PATH, json_response=True, stateless_http=True, transport_security=own_checks
    )
    return Guard(app, settings, Metrics())


def run_http(bench: Workbench, settings: Settings) -> None:
    """Serve clients over HTTP until SIGTERM or Ctrl-C."""
    import uvicorn

    from trafficllm.surface.server.app import configuration
    from trafficllm.surface.terminal.output import note

    app = http_app(bench, settings)
    note(f"listening at http://{settings.host}:{settings.port}{PATH}, with the key as a bearer token")
    uvicorn.Server(configuration(app, settings)).run()
