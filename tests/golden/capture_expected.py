"""What the reader should find in a capture, as JSON; run as a program it writes the expectations of all golden captures anew.

python tests/golden/capture_expected.py > tests/golden/expected.json
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from trafficllm.capture.facts.flow_facts import facts_of_flows
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.rows import flow_rows
from trafficllm.core.types import FlowBatch

HERE = Path(__file__).resolve().parent
CAPTURES = HERE / "captures"


def golden_captures() -> list[Path]:
    """All captures beside this file."""
    return sorted(path for path in CAPTURES.rglob("*") if path.suffix in {".pcap", ".pcapng"})


def describe(path: Path) -> dict[str, Any]:
    """Counts, every flow's row, and a hash of packet columns, payload prefixes and facts."""
    counts = CountsBuilder()
    rows: list[Any] = []
    digest = hashlib.sha256()
    for batch in read_flows([path], counts=counts):
        for row in flow_rows(batch):
            splt = row.pop("splt")
            row["splt"] = [[item["dir"], item["size"], item["iat"]] for item in splt[:4]]
            rows.append(row)
        _add(digest, batch)
    result = counts.build()
    kept = {name: getattr(result, name) for name in ("packets", "bytes", "truncated", "non_ip", "non_flow", "flows")}
    return {**kept, "links": dict(result.link_types), "malformed": dict(result.malformed), "rows": rows, "sha256": digest.hexdigest()}


def _add(digest: Any, batch: FlowBatch) -> None:
    names = "p_dir p_ts p_ip_len p_payload p_flags p_window p_ttl p_frame p_frame_len p_type vlan payload"
    for name in names.split():
        digest.update(getattr(batch, name).tobytes())
    for facts in facts_of_flows(batch):
        digest.update(repr((facts.service, sorted(facts.fields.items()), facts.spans)).encode("utf-8", "backslashreplace"))


def everything() -> dict[str, Any]:
    """Descriptions of all golden captures by their path below captures/."""
    return {str(path.relative_to(CAPTURES)): describe(path) for path in golden_captures()}


if __name__ == "__main__":
    json.dump(everything(), sys.stdout, indent=0, sort_keys=True)
    sys.stdout.write("\n")
