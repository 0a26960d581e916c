"""What a registered adapter says of harmless captures from sources that it has not learnt.

    python recipes/results/elsewhere.py --data ../shared/data --registry REGISTRY --task MTD [--out FILE] FOLDER/LABEL...

The folders hold harmless captures, `FOLDER/LABEL` below `--data`, whose manifest.csv says which source each is from. Captures of sources in
the adapter's background or of its own laboratory (`--not-from`), and those in RESERVED.csv, are not judged. Verdicts are those of
`trafficllm analyze`, of at most `--per-capture` flows of each capture. Shares are of all flows: what is not covered counts as not flagged.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from trafficllm.core.files import write_json
from trafficllm.core.types import NOT_COVERED, UNKNOWN
from trafficllm.infer.detector import Detector, TaskModel
from trafficllm.lifecycle.analyze.hosts import Hosts
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.records.record_shape import RecordShape
from trafficllm.records.sources.background import read_background


def main() -> None:
    """A line a source, then all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folders", nargs="+", help="FOLDER/LABEL below --data, harmless")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--registry", required=True)
    parser.add_argument("--task", default="MTD")
    parser.add_argument("--not-from", nargs="*", default=["echowei/DeepTraffic"])
    parser.add_argument("--per-capture", type=int, default=60)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    workspace = Workspace(registry=args.registry)
    version = workspace.registry.live(args.task)
    detector = Detector([TaskModel.of(workspace.engine, workspace.task(args.task), version)])
    learnt = {*(version.manifest["background"] or {"sources": {}})["sources"], *args.not_from}
    options, positive = RecordShape.of(version.manifest).flows(workspace.config.capture.table_size), workspace.task(args.task).positive
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    hosts: dict[str, Hosts] = defaultdict(lambda: Hosts(detector.questions()))
    flagged: dict[str, set[str]] = defaultdict(set)
    folders = [args.data / folder for folder in args.folders]
    read = read_background(folders, options=options, per_source=1_000_000, per_capture=args.per_capture)
    names = {file.name: file.source for file in read.files}
    rows = [k for k, meta in enumerate(read.meta) if names[meta.capture] not in learnt]
    for verdict in detector.judge([(read.raw[k], read.meta[k]) for k in rows], args.task):
        source = names[verdict.meta.capture]
        counts[source][str(verdict.umbrella)] += 1
        hosts[source].add(verdict)
        if verdict.umbrella == positive:
            flagged[source].add(verdict.meta.capture)
    captures = Counter(names[name] for name in {read.meta[k].capture for k in rows})
    table = {source: line(counts[source], hosts[source], positive, captures[source], len(flagged[source])) for source in sorted(counts)}
    for source, row in table.items():
        print(source, row, flush=True)
    whole = sum(counts.values(), Counter[str]())
    shares = {name: round(whole[answer] / whole.total(), 4) for name, answer in (("flagged", positive), ("unknown", UNKNOWN))}
    summary = {"flows": whole.total(), "sources": len(table), "reserved_left_out": read.reserved, **shares}
    print(summary)
    if args.out:
        write_json(args.out, {"task": args.task, "version": version.content, **summary, "each": table})


def line(answers: Counter[str], hosts: Hosts, positive: str, captures: int, flagged: int) -> dict[str, Any]:
    """One source's figures."""
    flows, clients = answers.total(), Counter(row["umbrella"] for row in hosts.rows())
    return {
        "flows": flows,
        "flagged": round(answers[positive] / flows, 4),
        "unknown": round(answers[UNKNOWN] / flows, 4),
        "not_covered": round(answers[NOT_COVERED] / flows, 4),
        "hosts": clients.total(),
        "hosts_flagged": clients[positive],
        "captures": captures,
        "captures_flagged": flagged,
    }


if __name__ == "__main__":
    main()
