"""What scenario traffic is worth to a detector: `python recipes/generation/usefulness.py --data DATA --out runs/usefulness`.

Trained on scenarios, on real flows, and on both; tested on real flows of sources left out of training (train-synthetic/test-real). One
question a scenario: is a flow of the event's kind, or everyday traffic? Each fold leaves out one source of each side. LightGBM on strictly
masked columns, nothing chosen on the test flows; sources reserved for scoring are only read with `--part test`.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.files import write_json
from trafficllm.core.metrics import macro_f1
from trafficllm.core.types import Record
from trafficllm.evaluate.baselines.features import everything
from trafficllm.lifecycle.generate.scenario.scenario import Wish, generate_scenario
from trafficllm.records import masks
from trafficllm.records.codec.canonical import canonical
from trafficllm.records.codec.flows import records_in

SEEDS = 4
"""Scenarios written for training, each of another seed."""
MOST = 400
"""Flows of one source at most, the first ones: a long capture must not be the class."""


@dataclass(frozen=True, slots=True)
class Question:
    """A scenario, its labels by side, and the real folder with its labels by side; other labels stay out."""

    scenario: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    folder: str
    benign: str


QUESTIONS = (
    Question("lab-dns-tunnel", ("DnsTunnel",), ("DNS",), "MDD_dns_tunnel", "Benign_DNS"),
    Question("shop-web-attack", ("WebProbes", "LoginGuessing"), ("Customers", "Staff"), "WAD_pcap", "Benign_HTTP"),
)

Flows = dict[tuple[bool, str], list[Record]]
"""Records by side (is it an event's?) and source."""


def strict(capture: Path) -> list[tuple[str, Record]]:
    """Community ID and strictly masked record of every flow."""
    found = []
    for batch in read_flows([capture]):
        for record, meta in records_in(batch, 0, len(batch)):
            found.append((meta.community_id, canonical(masks.apply(record))))
    return found


def synthetic(question: Question, out: Path) -> Flows:
    """Flows of scenarios of several seeds."""
    flows: Flows = defaultdict(list)
    for seed in range(SEEDS):
        place = out / f"{question.scenario}-{seed}"
        generate_scenario(question.scenario, out=place, wish=Wish(seed=seed, rate=0.5), conn_log=lambda _capture, log: log.touch())
        with (place / "labels.csv").open(encoding="utf-8", newline="") as stream:
            labels = {row["community_id"]: row["label"] for row in csv.DictReader(stream)}
        for community, record in strict(place / "capture.pcapng"):
            if labels[community] in {*question.positive, *question.negative}:
                flows[labels[community] in question.positive, "scenario"].append(record)
    return flows


def real(question: Question, data: Path, part: str) -> Flows:
    """Real flows by source; reserved captures are those of `test`, all others of `val`."""
    with (data / "RESERVED.csv").open(encoding="utf-8", newline="") as stream:
        reserved = {row["file"]: row["part"] for row in csv.DictReader(stream)}
    with (data / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        files = [row for row in csv.DictReader(stream) if row["task"] == question.folder]
    flows: Flows = defaultdict(list)
    for row in files:
        kept_back = reserved.get(row["file"])
        if (kept_back is None) != (part == "val") or (kept_back is not None and kept_back != "all"):
            continue
        # Tools write a class in their own way: a fold leaves out a whole tool, of benign traffic an origin's half of the captures.
        name = f"{row['origin'].split('@')[0].split(' ')[0]}/{row['label']}"
        if row["label"] == question.benign:
            name += f"/{sum(row['file'].encode()) % 4}"
        flows[row["label"] != question.benign, name] += [record for _, record in strict(data / row["file"])]
    return {key: records[:MOST] for key, records in flows.items() if records}


def model_of(flows: Flows) -> Any:
    """LightGBM with both sides weighing the same."""
    from lightgbm import LGBMClassifier

    x = np.asarray(everything([record for records in flows.values() for record in records]))
    y = [side for (side, _), records in flows.items() for _ in records]
    model = LGBMClassifier(
        n_estimators=120,
        num_leaves=15,
        min_child_samples=3,
        colsample_bytree=0.5,
        random_state=0,
        n_jobs=1,
        verbosity=-1,
        class_weight="balanced",
    )
    return model.fit(x, y)


def judged(model: Any, held: Flows) -> dict[str, float]:
    """Macro-F1, and the shares of each side that were found."""
    truth = [side for (side, _), records in held.items() for _ in records]
    found = [bool(side) for side in model.predict(np.asarray(everything([r for records in held.values() for r in records])))]
    names = {True: "event", False: "everyday"}
    shares = {
        f"{names[side]}_found": sum(one == side for one, other in zip(found, truth, strict=True) if other == side)
        / max(truth.count(side), 1)
        for side in (True, False)
    }
    return {"macro_f1": macro_f1(["event", "everyday"], [names[s] for s in truth], [names[s] for s in found]), **shares}


def folds(flows: Flows) -> list[tuple[Flows, Flows]]:
    """(train, held): each positive source is left out once, with one negative source."""
    positive = sorted(name for side, name in flows if side)
    negative = sorted(name for side, name in flows if not side)
    made = []
    for k, name in enumerate(positive):
        out = {(True, name), (False, negative[k % len(negative)])}
        made.append(({key: r for key, r in flows.items() if key not in out}, {key: r for key, r in flows.items() if key in out}))
    return made


def measure(question: Question, data: Path, out: Path, part: str) -> dict[str, Any]:
    """Every fold by what the detector was trained on; medians over folds."""
    scenario, development = synthetic(question, out), real(question, data, "val")
    pairs = folds(development) if part == "val" else [(development, real(question, data, "test"))]
    own = model_of(scenario)
    rows = []
    for train, held in pairs:
        models = {"scenario": own, "real": model_of(train), "both": model_of({**train, **scenario})}
        rows.append(
            {
                "held": sorted(f"{'event' if side else 'everyday'} {name}" for side, name in held),
                **{way: judged(model, held) for way, model in models.items()},
            }
        )
    return {
        "flows": {"scenario": sum(map(len, scenario.values())), "real": sum(map(len, development.values()))},
        "folds": rows,
        "median": {
            way: {key: statistics.median(row[way][key] for row in rows) for key in rows[0][way]} for way in ("scenario", "real", "both")
        },
    }


def main() -> None:
    """Print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("val", "test"), default="val")
    chosen = parser.parse_args()
    found = {question.scenario: measure(question, chosen.data, chosen.out, chosen.part) for question in QUESTIONS}
    write_json(chosen.out / f"usefulness_{chosen.part}.json", found)
    print(json.dumps({name: entry["median"] for name, entry in found.items()}, indent=1))


if __name__ == "__main__":
    main()
