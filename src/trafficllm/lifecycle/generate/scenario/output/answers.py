"""Answers of a scenario: which flows are an event's, the frames to open, and a filter that shows them."""

from __future__ import annotations

import csv
import io
import json
from typing import BinaryIO

from typing_extensions import TypedDict

from trafficllm.core.results import closed
from trafficllm.lifecycle.generate.scenario.traffic import Flow

LABEL_COLUMNS = ("community_id", "label", "event", "ts", "orig_h", "orig_p", "resp_h", "resp_p", "proto")


@closed
class Answer(TypedDict):
    """One flow of an event: `frames` are its first ones in the capture, `filter` shows exactly its `packets` in Wireshark or tshark.

    `first` and `last` are seconds since 1970; `sender` and `receiver` the scenario's names of its hosts.
    """

    community_id: str
    label: str
    event: str
    frames: list[int]
    filter: str
    packets: int
    first: float
    last: float
    sender: str
    receiver: str


def display_filter(flow: Flow) -> str:
    """Wireshark's display filter for exactly the packets of a flow."""
    ip, transport = "ipv6" if flow.traffic.ip_version == 6 else "ip", "tcp" if flow.proto == 6 else "udp"
    (orig_h, orig_p), (resp_h, resp_p) = flow.ends

    def way(source: tuple[str, int], target: tuple[str, int]) -> str:
        ends = f"{ip}.src == {source[0]} && {transport}.srcport == {source[1]}"
        return f"({ends} && {ip}.dst == {target[0]} && {transport}.dstport == {target[1]})"

    return f"{way((orig_h, orig_p), (resp_h, resp_p))} || {way((resp_h, resp_p), (orig_h, orig_p))}"


def answer_of(flow: Flow) -> Answer:
    """The answer of a flow all of whose packets were written."""
    return {
        "community_id": flow.community_id,
        "label": flow.traffic.label,
        "event": flow.event,
        "frames": list(flow.frames),
        "filter": display_filter(flow),
        "packets": flow.packets,
        "first": flow.begin / 1e9,
        "last": flow.last / 1e9,
        "sender": flow.sender,
        "receiver": flow.receiver,
    }


def packet_comment(flow: Flow) -> str:
    """What a labelled packet says of itself (`frame.comment` in Wireshark)."""
    return f"label={flow.traffic.label} event={flow.event} community_id={flow.community_id}"


class AnswerFile:
    """answers.json as it grows: an array, a line an answer."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.count = stream, 0
        stream.write(b"[")

    def add(self, flow: Flow) -> None:
        """Write a flow's answer."""
        self._stream.write((b",\n" if self.count else b"\n") + json.dumps(answer_of(flow), sort_keys=True).encode())
        self.count += 1

    def close(self) -> None:
        """End the array."""
        self._stream.write(b"\n]\n")


class LabelFile:
    """labels.csv as it grows: the label of every flow, everyday traffic too; `capture flows --label` and `data build` read it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._row(LABEL_COLUMNS)

    def _row(self, cells: tuple[object, ...]) -> None:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow(cells)
        self._stream.write(buffer.getvalue().encode())

    def add(self, flow: Flow) -> None:
        """Write a flow's label."""
        (orig_h, orig_p), (resp_h, resp_p) = flow.ends
        where = (f"{flow.begin / 1e9:.6f}", orig_h, orig_p, resp_h, resp_p, {6: "tcp", 17: "udp"}[flow.proto])
        self._row((flow.community_id, flow.traffic.label, flow.event, *where))
