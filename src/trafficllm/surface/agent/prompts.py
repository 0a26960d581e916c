"""Prompts that a client may offer: how to triage a capture, compare it with what is known, and report with evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from trafficllm.surface.agent import marks

if TYPE_CHECKING:
    from mcp.server import MCPServer

Named = Annotated[str, Field(description="A capture below the root.")]


def triage(capture: Named) -> str:
    """Decide whether a capture needs a person: what it is, whether it is bad, by which hosts."""
    return (
        f"Triage the capture {marks.name(capture)}.\n"
        "1. capture_info: how much it holds, and what could not be read.\n"
        "2. analyze_capture: the sentence, the hosts, the notable flows.\n"
        "3. For each of the three most notable flows: explain_flow.\n"
        "4. Say in three sentences: does a person have to look, at which host first, and what speaks against the verdict (confidence, "
        "unknown or not covered flows, laboratory_only, few packets).\n"
        f"Name flow ids and frames. {marks.NOTICE}"
    )


def is_it_known(capture: Named, known: Annotated[str, Field(description="Known captures or vectors below the root.")] = "") -> str:
    """Say whether traffic looks like something that is known."""
    where = f', known="{known}"' if known else ""
    return (
        f"Is the traffic of {marks.name(capture)} known?\n"
        f"1. compare_with_known(capture{where}): the nearest known flows and their similarity.\n"
        "2. analyze_capture: do its verdicts agree with the neighbours?\n"
        "3. Say for which flows both agree, for which they do not, and which have no near neighbour. A near neighbour is a hint, not a "
        f"match. {marks.NOTICE}"
    )


def report(capture: Named, flow: Annotated[str, Field(description="A flow's id; empty: the most notable ones.")] = "") -> str:
    """Write a report whose every claim names its evidence."""
    which = f"the flow {marks.name(flow)}" if flow else "the most notable flows (list_flows, order notable)"
    return (
        f"Write a report on {which} of {marks.name(capture)}.\n"
        "1. explain_flow and get_packets for each flow.\n"
        "2. For each: what it is, how sure that is, which frames and fields that rests on, its Community ID and Wireshark filter.\n"
        "3. Then what was not judged: unknown flows, flows not covered, frames not read (capture_info).\n"
        "4. Claim nothing that no tool answered. Quote captured names in quotation marks.\n"
        f"{marks.NOTICE}"
    )


def add(server: MCPServer[Any]) -> None:
    """Offer the prompts."""
    for function in (triage, is_it_known, report):
        server.prompt(name=function.__name__, description=function.__doc__)(function)
