"""What a capture holds, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trafficllm.capture.files.read import Skipped
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import CaptureCounts, ProgressSink

_LIGHT = FlowOptions(max_packets=0, max_payload=0)


def capture_info(paths: Sequence[str | Path], *, progress: ProgressSink | None = None, skipped: Skipped | None = None) -> CaptureCounts:
    """Count packets, bytes, link types, malformations and flows of all captures together.

    Raises InputError or ResourceError for files that cannot be read; with `skipped` such files among several are left out.
    """
    counts = CountsBuilder()
    for _ in read_flows(paths, options=_LIGHT, counts=counts, progress=progress, skipped=skipped):
        pass
    return counts.build()
