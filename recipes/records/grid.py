"""How many packets and payload bytes a record should carry: each choice judged on validation, one axis at a time.

    python recipes/records/grid.py ../shared/data -o docs/results/records_grid.json [--only MTD_ustc2016] [--point 16,96]

Trees see exactly what the codec carries under each choice (`CodecOptions`): LightGBM on all columns, learnt from training flows
and judged on validation flows, three draws of training flows each. Test parts and reserved captures are never read. Tokens a flow
are those of the embedded traffic base. A point that has a result is not measured again; `--table PAGE` writes the table there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trafficllm.core import metrics
from trafficllm.core.files import atomic_write, hash64, json_text, read_json
from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import Record, Silent
from trafficllm.evaluate.baselines import features
from trafficllm.evaluate.baselines.learners import Data, Part, fit_booster
from trafficllm.lifecycle.datasets import pick_task
from trafficllm.records.codec.codec import encode
from trafficllm.records.dataset.dataset import BuildOptions, Dataset, build_dataset, load

POINTS = ((4, 96), (8, 96), (16, 96), (32, 96), (16, 0), (16, 32), (16, 64), (16, 160))
"""Packets and payload bytes a direction."""
SETS = ("MTD_ustc2016", "EAC_ndpi_app")
DRAWS, TRAIN, JUDGED, PER_CLASS, LEAST = 3, 900, 600, 60, 8
"""Draws, flows of each part at most, training flows a class at most; labels with fewer training or no validation flows stand aside."""
PARAMS = {"rounds": 60, "learning_rate": 0.15, "num_leaves": 15, "min_data_in_leaf": 5, "balanced": True}
BEGIN, END = "<!-- table: made by recipes/records/grid.py -->", "<!-- end of table -->"


def drawn(dataset: Dataset, part: str, labels: set[str], most: int, seed: int) -> list[int]:
    """Rows of a part by hash, at most PER_CLASS of a label where it is taught."""
    rows = dataset.indices(part)
    known = zip(dataset.hashes(rows), dataset.labels_of(rows), rows, strict=True)
    order = sorted(known, key=lambda row: hash64(f"{seed} {row[0]} {row[2]}".encode()))
    taken: Counter[str] = Counter()
    kept = []
    for _, label, row in order:
        if label in labels and (part == "val" or taken[label] < PER_CLASS):
            taken[label] += 1
            kept.append(row)
    return sorted(kept[:most])


def told(dataset: Dataset) -> set[str]:
    """Labels with flows enough to learn from, and some to judge by."""
    found = {part: Counter(dataset.labels_of(dataset.indices(part))) for part in ("train", "val")}
    return {label for label, count in found["train"].items() if count >= LEAST and found["val"][label]}


def scores(dataset: Dataset, codec: CodecOptions) -> list[float]:
    """Macro-F1 on validation of each draw."""
    labels = told(dataset)
    names = tuple(sorted(labels))
    judged = drawn(dataset, "val", labels, JUDGED, 0)
    out = []
    for seed in range(DRAWS):
        rows = drawn(dataset, "train", labels, TRAIN, seed)
        train, val = (Part(dataset.records(idx), dataset.labels_of(idx), codec=codec) for idx in (rows, judged))
        # Early stopping would look at the flows that judge: rounds are fixed, so the watched part stays empty.
        data = Data(names, train, Part([], [], codec=codec), seed=seed)
        model = fit_booster(data, "all", PARAMS)
        guess = model(features.everything(val.records, codec)).argmax(axis=1)
        out.append(metrics.macro_f1(names, val.y, [names[k] for k in guess]))
    return out


def tokens(records: Sequence[Record], codec: CodecOptions) -> float:
    """Mean tokens a flow with the embedded traffic base."""
    from trafficllm.model.base.load import default_base
    from trafficllm.model.tokenizer.extend import load_raw

    raw = load_raw(default_base())
    return statistics.mean(len(raw.encode(encode(record, codec), add_special_tokens=False).ids) for record in records)


def measure(dataset: Dataset, point: tuple[int, int]) -> dict[str, Any]:
    """One point: scores, tokens and units a flow, CPU seconds."""
    codec = CodecOptions(packets=point[0], payload=(point[1], point[1]))
    began = time.process_time()
    found = scores(dataset, codec)
    some = dataset.records(drawn(dataset, "val", told(dataset), 200, 0))
    return {
        "macro_f1": round(statistics.mean(found), 4),
        "draws": [round(value, 4) for value in found],
        "tokens": round(tokens(some, codec), 1),
        "units": round(statistics.mean(len(encode(r, codec)) for r in some), 1),
        "cpu_s": round(time.process_time() - began, 1),
    }


def table(results: dict[str, Any]) -> str:
    """The points as Markdown."""
    names = sorted(results["sets"])
    told_of = [f"{name.split('_')[0]} {what}" for name in names for what in ("macro-F1 (draws)", "tokens")]
    head = ["packets", "payload bytes a direction", *told_of]
    lines = [head, ["---"] * len(head)]
    for packets, payload in POINTS:
        cells = []
        for name in names:
            row = results["sets"][name]["points"].get(f"{packets},{payload}")
            if row:
                cells += [f"{row['macro_f1']:.3f} ({min(row['draws']):.3f} to {max(row['draws']):.3f})", f"{row['tokens']:.0f}"]
            else:
                cells += ["-", "-"]
        lines.append([str(packets), str(payload), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure what has no result yet; then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/grid"), help="where data sets are built")
    parser.add_argument("--only", nargs="*", default=SETS)
    parser.add_argument("--point", nargs="*", default=[f"{a},{b}" for a, b in POINTS])
    parser.add_argument("--table", type=Path)
    chosen = parser.parse_args()
    results: dict[str, Any] = read_json(chosen.out) if chosen.out.is_file() else {"schema": "trafficllm.records_grid/1", "sets": {}}
    for name in chosen.only:
        place = chosen.work / name
        build_dataset(
            chosen.data / name, task=pick_task(chosen.data / name, "", ()), out=place, options=BuildOptions(workers=1), progress=Silent()
        )
        dataset = load(place)
        about = {"classes": len(told(dataset)), "train": TRAIN, "judged": JUDGED, "learner": "lightgbm", "params": PARAMS, "part": "val"}
        entry = results["sets"].setdefault(name, {**about, "points": {}})
        for point in chosen.point:
            if point not in entry["points"]:
                packets, payload = map(int, point.split(","))
                entry["points"][point] = measure(dataset, (packets, payload))
                atomic_write(chosen.out, json_text(results))
                print(name, point, entry["points"][point], file=sys.stderr)
    if chosen.table:
        before, rest = chosen.table.read_text(encoding="utf-8").split(BEGIN, 1)
        atomic_write(chosen.table, f"{before}{BEGIN}\n{table(results)}\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    main()
