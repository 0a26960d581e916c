"""Which shown fields tell sources apart: `python recipes/audits/sources.py FOLDER... [--least 30] [--profile strict]`.

A field that names the laboratory a flow comes from is no evidence of malice. Flows of every folder are read as background is, harmless
ones of as many sources as there are; of each source with `--least` captures or more every second capture is learnt, the others are judged.
One line a field: macro-F1 of a model that sees this field alone, on the source. Chance is 1 / sources.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from trafficllm.records import masks
from trafficllm.records.probe import artefact_probe
from trafficllm.records.sources.background import packaged, read_background


def main() -> None:
    """Every field on its own line, those that tell most first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of harmless captures; none: the package's background")
    parser.add_argument("--least", type=int, default=4, help="captures that a source must have")
    parser.add_argument("--profile", default="strict")
    args = parser.parse_args()
    read = read_background(args.folders or [packaged()])
    captures: dict[str, list[str]] = defaultdict(list)
    for file in sorted(read.files, key=lambda file: file.name):
        captures[file.source].append(file.name)
    sides = {name: k % 2 for names in captures.values() if len(names) >= args.least for k, name in enumerate(names)}
    rows = [k for k, meta in enumerate(read.meta) if meta.capture in sides]
    records = [masks.wiped(masks.apply(read.raw[k], args.profile)) for k in rows]
    sources = [read.sources[k] for k in rows]
    learnt = [place for place, k in enumerate(rows) if sides[read.meta[k].capture] == 0]
    judged = [place for place, k in enumerate(rows) if sides[read.meta[k].capture] == 1]
    scores = artefact_probe(records, sources, lambda _: None, learnt, judged)
    count = len(set(sources))
    print(f"{len(records)} flows, {len(sides)} captures, {count} sources; chance {1 / count:.3f}")
    for name, score in sorted(scores.items(), key=lambda item: -item[1].label):
        print(f"{name:32s} {score.label:.3f}")


if __name__ == "__main__":
    main()
