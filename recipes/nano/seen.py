"""Write anew which contents the traffic base has seen, as the present parsers and masks show them.

    python recipes/nano/seen.py --data DATA --trained runs/traffic --base src/trafficllm/data/base/traffic

The flows a base was trained on are known by uid (Community ID and start time), which no parser change moves. Their contents are hashed
under plain strict masks and under every artefact mask of the recipe's data sets, so that a report recognises them whatever masks it has.
What the list held before stays in it: requests and cell sequences have no uid, and no parser reads them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import traffic

from trafficllm.core.files import read_json
from trafficllm.model.base.extend import load_seen, write_manifest
from trafficllm.model.base.folder import MANIFEST, SEEN
from trafficllm.records import masks
from trafficllm.records.dataset.dataset import load


def trained_uids(folder: Path) -> set[tuple[str, str]]:
    """(origin, uid) of every flow the run in `folder` learnt from: its data sets, its exclusions."""
    sets = {name: load(folder / "data" / name) for name in traffic.RECIPE["folders"]}
    bundled = [load(folder / "bundled" / task) for task in ("MTD", "EAC")]
    rows = traffic.training_rows(sets, bundled)
    return {(meta.origin, meta.uid) for name, kept in rows.items() for meta in sets[name].meta(kept) if meta.uid}


def main() -> None:
    """Rebuild the data sets with this version, hash the learnt flows, rewrite seen.bin and the manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trained", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    options = parser.parse_args()
    learnt = trained_uids(options.trained)
    fresh = traffic.data_sets(options.data, options.trained / "data-now")
    artefacts = {frozenset(data.manifest["also"]) for data in fresh.values()} | {frozenset()}
    seen: set[int] = set(load_seen(options.base).tolist())
    found = 0
    for data in fresh.values():
        rows = list(range(len(data)))
        known = [row for row, meta in zip(rows, data.meta(rows), strict=True) if (meta.origin, meta.uid) in learnt]
        found += len(known)
        for raw in data.raw_records(known):
            seen |= {traffic.content(masks.wiped(masks.apply(raw, "strict", also))) for also in artefacts}
    print(f"{len(learnt):,} flows learnt, {found:,} found again, {len(seen):,} contents")
    (options.base / SEEN).unlink(missing_ok=True)
    facts = {key: value for key, value in read_json(options.base / MANIFEST).items() if key == "training"}
    write_manifest(options.base, seen=sorted(seen), **facts)


if __name__ == "__main__":
    main()
