"""Which flows belong to no class of the task? Five draws of left-out classes, beside LightGBM's max-probability.

    python recipes/adapters/unknown.py --out runs/unknown [--steps 400] [--only DRAW] [--json docs/results/unknown.json]
    python recipes/adapters/unknown.py --out runs/unknown --task AAD --data shared/data [--json docs/results/unknown.json]

MTD, four classes left out a draw: bundled captures without their reserved part. The split's validation groups are this test; a fifth of
the training groups of each class (single flows where it has one group) are this validation, which alone fits the score. A draw's classes
are in neither training nor validation. The kind of score was chosen elsewhere (`trafficllm.evaluate.unknown`); all are shown. A finished
draw is kept in `--out`, so the same command goes on where it was cut off.

`--task`: tasks on which no setting of the unknown score was chosen, by developer data. Which ones was settled before any result, by the
data alone. Left out of the choice: MTD, EAC and EVD, on which kind and weights of the score were chosen; MDD, WAD and WF, on whose
validation captures the rule of its threshold was. Of the other folders two have six classes or more and seventy captures or more: AAD
(attack tactics, 84 captures) and CD (services after 2015, 73 captures). BND has 25 captures for twelve classes, VPN protocols 25 for five,
DoH 23 for four. Two classes are left out a draw, so that each class is left out at least once in five draws. Everything is as `adapter
register` does it with one member: training and validation captures calibrate, reserved captures are this test, of left-out classes as of
known ones, and nothing is chosen on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from scipy.stats import t as student

import trafficllm
from trafficllm.core import calibration as formulas
from trafficllm.core import metrics
from trafficllm.core.files import hash64, read_json, write_json
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import Scores, Silent
from trafficllm.evaluate import calibrate, unknown
from trafficllm.evaluate.baselines import table as baselines
from trafficllm.evaluate.baselines.learners import Data, Part
from trafficllm.infer import calibration as applied
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.lifecycle.adapters.learn import tune_data
from trafficllm.lifecycle.calibration import crossfit
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.studies.scoring import BANK
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tuning import job as tune
from trafficllm.model.tuning.augment import augment
from trafficllm.records import prompts
from trafficllm.records.catalog import get_task
from trafficllm.records.dataset.dataset import BuildOptions, Dataset, build_dataset, load

CAPTURES = Path(trafficllm.__file__).parent / "data" / "captures"
DRAWS, LEFT_OUT, CAP, SEED = 5, 4, 300, 0
SHOWN = ("auroc", "found_at_5", "macro_f1")
STATES = ("hidden", "pooled", "readout")
BUDGET_S = 30.0
"""Estimated search seconds of LightGBM: one point for each of its three sets of columns."""

SHIPPED = (*SHOWN, "found", "false", "false_by_capture")
PLAIN = ("max_probability", "faint")
"""Scores of the same adapter beside the one that is served."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A task of `--task`: its folder in the developer data, and how many classes a draw leaves out."""

    folder: str
    left_out: int


TASKS = {"AAD": Drawn("AAD_attack_tactics", 2), "CD": Drawn("CD_service_after_2015", 2)}


def data_set(out: Path) -> Dataset:
    """MTD from the bundled captures, as the quickstart builds it."""
    if not (out / "manifest.json").is_file():
        build_dataset(
            CAPTURES / "MTD", task=get_task("MTD"), out=out, options=BuildOptions(seed=SEED, reserved=CAPTURES / "reserved.csv", cap=CAP)
        )
    return load(out)


def sides(data: Dataset) -> dict[str, list[int]]:
    """Row indices of train, val and test; no reserved row is in any."""
    idx = data.indices("train")
    labels, groups, hashes = data.labels_of(idx), data.groups(idx), data.hashes(idx)
    names: dict[str, set[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        names.setdefault(label, set()).add(group)

    def held(k: int) -> bool:
        mine = sorted(names[labels[k]])
        return groups[k] in mine[:: max(2, min(5, len(mine)))] if len(mine) > 1 else hashes[k] % 5 == 0

    val = [idx[k] for k in range(len(idx)) if held(k)]
    return {"train": sorted(set(idx) - set(val)), "val": val, "test": data.indices("val")}


def left_out(labels: Sequence[str], draw: int, count: int = LEFT_OUT) -> tuple[str, ...]:
    """The classes of a draw, one draw after the other from one shuffled order that begins again at its end, one place on where draws would
    repeat: five draws of four leave out each of twenty classes once."""
    order = np.random.default_rng(SEED).permutation(len(labels))
    first = draw * count + (draw * count // len(labels) if len(labels) % count == 0 else 0)
    return tuple(sorted(labels[order[(first + k) % len(labels)]] for k in range(count)))


def known_rows(data: Dataset, rows: Mapping[str, list[int]], out: Sequence[str]) -> dict[str, list[int]]:
    """Rows without the left-out classes; these apart, as `strange`, from the test side."""
    kept = {name: [i for i, y in zip(idx, data.labels_of(idx), strict=True) if y not in out] for name, idx in rows.items()}
    return {**kept, "strange": sorted(set(rows["test"]) - set(kept["test"]))}


def tune_draw(
    base: Base, data: Dataset, rows: Mapping[str, list[int]], labels: tuple[str, ...], *, out: Path, steps: int
) -> tune.TuneReport:
    """The draw's adapter and readout, records changed as in `adapter register`; a fixed number of steps, so that a busy machine changes
    nothing."""

    def asked(idx: Sequence[int]) -> list[Any]:
        return [prompts.traffic_prompt(data.task, units) for units in data.units(idx)]

    train, val = rows["train"], rows["val"]
    answers, seen = data.labels_of(train), data.labels_of(val)
    table = tune.TuneData(
        asked(train),
        answers,
        labels,
        asked(val),
        seen,
        records=data.records(train),
        prompt_of=lambda record: prompts.detection(data.task, record, data.codec),
        augment=augment,
    )
    options = TuneOptions(max_steps=steps, epochs=100, looks=3, first_look=0.5, seed=SEED)
    return tune.tune_task(base, table, out, options, Silent())


def scored(base: Base, data: Dataset, rows: Mapping[str, list[int]], labels: tuple[str, ...], adapter: Path) -> dict[str, Scores]:
    """Scores, hidden states and readout logits of every side; of the training rows, BANK spread over the classes."""
    engine = Engine(base)
    engine.add_adapter("draw", adapter)
    scorer = LLMScorer(engine, "draw", data.task, labels, codec=data.codec)
    return {name: scorer.score(data.records(idx)) for name, idx in rows.items()}


def trees(data: Dataset, rows: Mapping[str, list[int]], labels: tuple[str, ...]) -> dict[str, Any]:
    """LightGBM on the same masked records: 1 - max probability of test and left-out rows."""
    parts = {name: Part(data.records(idx), data.labels_of(idx), codec=data.codec) for name, idx in rows.items()}
    fitted = baselines.fit("lightgbm", Data(labels, parts["train"], parts["val"], SEED, 1, BUDGET_S))
    p = {name: fitted.probabilities(parts[name]) for name in ("test", "strange")}
    strange, known = 1 - p["strange"].max(axis=1), 1 - p["test"].max(axis=1)
    guess = [labels[k] for k in p["test"].argmax(axis=1)]
    return {**figures(strange, known), "macro_f1": metrics.macro_f1(labels, parts["test"].y, guess), "params": dict(fitted.params)}


def figures(strange: Any, known: Any) -> dict[str, float]:
    """AUROC, and the share of strangers found where 5 % of known test flows are falsely called unknown."""
    return {"auroc": metrics.auroc(strange, known), "found_at_5": metrics.tpr_at_fpr(strange, known, unknown.FALSE_ALARMS)}


def spread(rows: Sequence[int], size: int) -> list[int]:
    """At most `size` rows, evenly over their order, which is by class."""
    return list(rows[:: -(-len(rows) // size)])


def one(base: Base, data: Dataset, draw: int, *, out: Path, steps: int) -> dict[str, Any]:
    """One draw: tuned, scored, the score chosen on validation, tested once."""
    strangers = left_out(data.labels, draw)
    labels = tuple(name for name in data.labels if name not in strangers)
    rows = known_rows(data, sides(data), strangers)
    start = time.process_time()
    report = tune_draw(base, data, rows, labels, out=out / "adapter", steps=steps)
    spent = time.process_time() - start
    by_class = sorted(rows["train"], key=lambda i: hash64(str(i).encode()))
    some = {**rows, "train": sorted(spread(by_class, BANK))}
    found = scored(base, data, some, labels, out / "adapter")
    facts = {name: (data.labels_of(idx), data.groups(idx)) for name, idx in some.items()}
    keep(found, facts, labels, out / "scores.safetensors")
    return {
        "draw": draw,
        "left_out": list(strangers),
        "rows": {name: len(idx) for name, idx in rows.items()},
        "tuning": {"steps": report.steps, "cpu_seconds": round(spent, 1), "validation": report.validation},
        "lightgbm": trees(data, rows, labels),
    }


def keep(found: Mapping[str, Scores], facts: Mapping[str, tuple[Sequence[str], Sequence[str]]], labels: Sequence[str], path: Path) -> None:
    """Log-probabilities, hidden states, readout logits, truths and captures of every side, to judge scores again without tuning."""
    tensors = {}
    for name, scores in found.items():
        tensors[f"{name}.logits"] = scores.logits
        for key in STATES:
            tensors[f"{name}.{key}"] = np.ascontiguousarray(getattr(scores, key))
        y, groups = facts[name]
        tensors[f"{name}.y"] = metrics.indices(labels, y)
        tensors[f"{name}.groups"] = np.unique(list(groups), return_inverse=True)[1].astype(np.int64)
    save_file(tensors, path)


def judged(path: Path, labels: Sequence[str]) -> dict[str, Any]:
    """The unknown scores of one draw from its kept rows, all of them shown on test: AUROC, found at 5 % false alarms there, and at the
    threshold that validation sets the share of strangers found and of known flows called unknown, by flow and by capture."""
    kept = load_file(path)

    def part(name: str) -> unknown.Rows:
        states = (kept[f"{name}.{key}"].astype(np.float64) for key in STATES)
        return unknown.Rows(kept[f"{name}.logits"], kept[f"{name}.y"], *states, groups=kept[f"{name}.groups"])

    side = {name: part(name) for name in ("train", "val", "test", "strange")}
    val = side["val"]
    temperature = calibrate.fit_temperature(val.logits, val.y)
    chosen = unknown.choose(side["train"], val, temperature=temperature, seed=SEED)

    def on_test(method: str) -> dict[str, float]:
        params = unknown.fit(method, side["train"], SEED, val=val, temperature=temperature)
        strange, known, seen = (formulas.unknown_score(method, params, side[name], temperature) for name in ("strange", "test", "val"))
        above = unknown.threshold(seen, val.groups)
        groups = side["test"].groups
        by_capture = [float((known[groups == k] > above).mean()) for k in np.unique(groups)]
        return {
            **figures(strange, known),
            "found": float((strange > above).mean()),
            "false": float((known > above).mean()),
            "false_by_capture": statistics.fmean(by_capture),
        }

    shown = {method: on_test(method) for method in unknown.METHODS}
    guess = [labels[k] for k in side["test"].logits.argmax(axis=1)]
    truth = [labels[k] for k in side["test"].y]
    return {
        "chosen": chosen["method"],
        **shown[chosen["method"]],
        "macro_f1": metrics.macro_f1(labels, truth, guess),
        "test": shown,
        "validation": chosen["trials"],
    }


def drawn_data(task: str, data: Path, strangers: Sequence[str], out: Path) -> Dataset:
    """The task's data set in which these classes are only tested, on reserved captures as the others are."""
    if not (out / "manifest.json").is_file():
        options = BuildOptions(seed=SEED, reserved=data / "RESERVED.csv", cap=CAP, unknown=strangers, workers=1)
        build_dataset(data / TASKS[task].folder, task=get_task(task), out=out, options=options)
    return load(out)


def tested(data: Dataset, labels: Sequence[str]) -> dict[str, list[int]]:
    """Test rows of classes that were learnt, and of those that were not as `strange`."""
    test = data.indices("test")
    of = dict(zip(test, data.labels_of(test), strict=True))
    return {"test": [i for i in test if of[i] in labels], "strange": [i for i in test if of[i] not in labels]}


def as_registered(base: Base, data: Dataset, *, out: Path, steps: int) -> dict[str, Any]:
    """One draw of a task of `TASKS`: tuned, calibrated across captures, tested once at the threshold that is served."""
    options = TuneOptions(max_steps=steps, epochs=100, looks=3, first_look=0.5, seed=SEED)
    start = time.process_time()
    report = tune.tune_task(base, tune_data(data), out / "adapter", options, Silent())
    calibration = crossfit.finish(base, data, data.task, out / "adapter", seed=SEED) or {}
    spent = time.process_time() - start
    labels = scoring.labels_of(data)
    rows = tested(data, labels)
    engine = Engine(base)
    engine.add_adapter("draw", out / "adapter")
    scorer = LLMScorer(engine, "draw", data.task, labels, codec=data.codec, calibration=calibration)
    scores = {name: scoring.score_rows(scorer, data, idx) for name, idx in rows.items()}
    sides = {name: data.indices(name) for name in ("train", "val")}
    return {
        "left_out": sorted({*data.labels} - {*labels}),
        "rows": {name: len(idx) for name, idx in (sides | rows).items()},
        "captures": {name: len(set(data.groups(idx))) for name, idx in rows.items()},
        "tuning": {"steps": report.steps, "cpu_seconds": round(spent, 1), "validation": report.validation},
        "adapter": at_threshold(scores, calibration, {name: (data.labels_of(idx), data.groups(idx)) for name, idx in rows.items()}),
        "lightgbm": trees(data, sides | rows, labels),
    }


def at_threshold(
    scores: Mapping[str, Scores], calibration: Mapping[str, Any], facts: Mapping[str, tuple[Sequence[str], Sequence[str]]]
) -> dict[str, Any]:
    """What the served unknown score tells of test and strange flows, and beside it PLAIN; `facts` are labels and captures of both."""
    params = dict(calibration)
    strange, known = (applied.unknown_score(params, scores[name]) for name in ("strange", "test"))
    above = applied.threshold(params)
    (truth, captures), (classes, _) = facts["test"], facts["strange"]
    guess = [scores["test"].labels[k] for k in scores["test"].probabilities.argmax(axis=1)]

    def plain(method: str) -> dict[str, float]:
        return figures(*(formulas.unknown_score(method, {}, scores[name], params["temperature"]) for name in ("strange", "test")))

    def of_class(label: str) -> dict[str, float]:
        own = strange[[name == label for name in classes]]
        return {"flows": len(own), "auroc": metrics.auroc(own, known), "found": float((own > above).mean())}

    return {
        "method": params["unknown"]["method"],
        **figures(strange, known),
        "found": float((strange > above).mean()),
        "false": float((known > above).mean()),
        "false_by_capture": statistics.fmean(
            float((known[[g == name for g in captures]] > above).mean()) for name in sorted(set(captures))
        ),
        "macro_f1": metrics.macro_f1(scores["test"].labels, truth, guess),
        "by_class": {label: of_class(label) for label in sorted(set(classes))},
        **{method: plain(method) for method in PLAIN},
    }


def over_draws(values: Sequence[float], least: float = 0.0) -> dict[str, Any]:
    """Mean over draws, their range, and the mean's 95 % interval by Student's t between `least` and 1. Draws share captures: it is the
    spread over left-out classes, not over data.

    >>> over_draws([0.5, 0.9])["range"]
    [0.5, 0.9]
    """
    mean, both = statistics.fmean(values), [min(values), max(values)]
    if len(values) < 2:
        return {"mean": mean, "range": both, "ci95": None}
    reach = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": mean, "range": both, "ci95": [max(mean - reach, least), min(mean + reach, 1.0)]}


def of_task(task: str, data: Path, out: Path, *, steps: int, only: Sequence[int]) -> dict[str, Any]:
    """The table of a task of `TASKS`; finished draws are read."""
    place = out / task
    whole = drawn_data(task, data, (), place / "data")
    found = []
    for draw in only or range(DRAWS):
        kept = place / f"draw{draw}-{steps}"
        if not (kept / "draw.json").is_file():
            mine = drawn_data(task, data, left_out(whole.labels, draw, TASKS[task].left_out), kept / "data")
            row = as_registered(load_base("default", dtype="float32"), mine, out=kept, steps=steps)
            write_json(kept / "draw.json", {"draw": draw, **row})
        found.append(read_json(kept / "draw.json"))
        print(json.dumps(found[-1]), flush=True)
    return {
        "command": f"python recipes/adapters/unknown.py --out OUT --task {task} --data DATA --steps {steps}",
        "data": {"folder": TASKS[task].folder, "sha256": whole.sha256, "mask": whole.profile, "cap": CAP, "test": "reserved captures"},
        "over_draws": {
            side: {key: over_draws([row[side][key] for row in found]) for key in keys}
            for side, keys in {"adapter": SHIPPED, "lightgbm": SHOWN}.items()
        },
        "ahead_of_lightgbm": {key: over_draws([row["adapter"][key] - row["lightgbm"][key] for row in found], -1.0) for key in SHOWN},
        "draws": found,
    }


def main() -> None:
    """Run what is not done yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", type=int, action="append", help="these draws alone, in processes of their own")
    parser.add_argument("--task", choices=sorted(TASKS), help="one of these instead of MTD")
    parser.add_argument("--data", type=Path, help="with --task: the folder of the developer data")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.task and not chosen.data:
        parser.error("--task needs --data")
    torch.set_num_threads(1)
    past = read_json(chosen.json) if chosen.json and chosen.json.is_file() else {}
    if chosen.task:
        mine = of_task(chosen.task, chosen.data, chosen.out, steps=chosen.steps, only=chosen.only or ())
        print(json.dumps(mine["over_draws"], indent=1))
        if chosen.json:
            write_json(chosen.json, past | {"tasks": past.get("tasks", {}) | {chosen.task: mine}})
        return
    data = data_set(chosen.out / "data")
    found = []
    for draw in chosen.only or range(DRAWS):
        place = chosen.out / f"draw{draw}-{chosen.steps}"
        if not (place / "draw.json").is_file():
            write_json(place / "draw.json", one(load_base("default", dtype="float32"), data, draw, out=place, steps=chosen.steps))
        facts = read_json(place / "draw.json")
        labels = [name for name in data.labels if name not in facts["left_out"]]
        found.append({**facts, "adapter": judged(place / "scores.safetensors", labels)})
        print(json.dumps({"draw": draw, "adapter": found[-1]["adapter"], "lightgbm": facts["lightgbm"]}), flush=True)
    table = {
        "command": f"python recipes/adapters/unknown.py --out OUT --steps {chosen.steps}",
        "data": {"sha256": data.sha256, "mask": data.profile, "split": "capture groups, reserved captures left out", "cap": CAP},
        "mean": {
            side: {key: statistics.fmean(row[side][key] for row in found) for key in keys}
            for side, keys in {"adapter": (*SHOWN, "found", "false", "false_by_capture"), "lightgbm": SHOWN}.items()
        },
        "draws": found,
    }
    print(json.dumps(table["mean"], indent=1))
    if chosen.json:
        write_json(chosen.json, table | ({"tasks": past["tasks"]} if "tasks" in past else {}))


if __name__ == "__main__":
    main()
