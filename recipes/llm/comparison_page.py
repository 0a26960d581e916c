"""The figures of the comparison, from answers to llm_comparison.json and .md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.core.files import atomic_write, read_json, write_json
from trafficllm.core.types import F64
from trafficllm.evaluate import bootstrap
from trafficllm.evaluate.quality import first_of_each

NAMES = {
    "language": "(a) language",
    "scratch": "(b) scratch",
    "embedded": "(c) embedded",
    "shuffled": "(d) shuffled",
    "untrained": "(a0) language, traffic tokens untrained",
    "random": "(b0) random, nothing trained",
    "lightgbm": "LightGBM",
    "random_forest": "random forest",
}
TREES = ("lightgbm", "random_forest")
ORDER, KINDS = tuple(NAMES), ("lora", "linear", "knn", *TREES)
RESAMPLES = 2000
MARGIN = 0.01
"""Of the pre-registration: what (a) - (b) has to reach."""
Runs = Sequence[Sequence[int]]
Body = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """The judged flows of one task, and resamples of their captures that every learner shares."""

    task: str
    labels: list[str]
    truth: list[str]
    groups: list[str]
    content: list[int]

    @classmethod
    def read(cls, path: Path, task: str) -> Judged:
        """What the recipe wrote down."""
        body = read_json(path)
        return cls(task, body["labels"], body["truth"], body["groups"], body["content"])

    @cached_property
    def weights(self) -> F64:
        """How often each capture is drawn [1 + resamples, captures]; first all of them once."""
        count = len(set(self.groups))
        return np.concatenate([np.ones((1, count)), *bootstrap.draws(count, RESAMPLES, sum(map(ord, self.task)))])

    def scores(self, runs: Runs) -> F64:
        """Mean macro-F1 over runs of all flows, then of each resample."""
        labels = sorted(set(self.truth))
        named = [[self.labels[k] for k in run] for run in runs]
        counts = [bootstrap.count_groups(labels, self.truth, run, self.groups) for run in named]
        return np.asarray(np.mean([count.macro_f1(self.weights) for count in counts], axis=0))

    @cached_property
    def first(self) -> list[int]:
        """Places of unique masked contents."""
        return first_of_each(self.truth, self.content)

    @cached_property
    def unique(self) -> Judged:
        """Unique masked contents alone."""
        return Judged(self.task, self.labels, *([side[k] for k in self.first] for side in (self.truth, self.groups, self.content)))


def interval(scores: F64) -> Body:
    """The figure on all flows and its 95 % interval over resampled captures."""
    low, high = np.percentile(scores[1:], [2.5, 97.5])
    return {"macro_f1": round(float(scores[0]), 4), "ci95": [round(float(low), 4), round(float(high), 4)]}


@dataclass(frozen=True, slots=True)
class Cell:
    """One learner on one task with so many flows a class: its runs' scores on all flows and on unique contents, and its figures."""

    scores: F64
    unique: F64
    body: Body


def difference(ours: Sequence[Cell], other: Sequence[Cell]) -> Body:
    """The mean over tasks of the paired difference of two learners, with its interval; the same on unique contents."""
    pairs = list(zip(ours, other, strict=True))
    body = interval(np.mean([a.scores - b.scores for a, b in pairs], axis=0))
    unique = interval(np.mean([a.unique - b.unique for a, b in pairs], axis=0))
    return {
        "difference": body["macro_f1"],
        "ci95": body["ci95"],
        "unique": {"difference": unique["macro_f1"], "ci95": unique["ci95"]},
        "tasks": len(pairs),
    }


Cells = dict[tuple[str, str, str, str], Cell]
"""By task, arm, way to learn ("linear", "knn", "lora", a tree's name) and flows a class."""


def cell(judged: Judged, runs: Runs) -> Cell:
    """Figures of one learner's runs."""
    scores, unique = judged.scores(runs), judged.unique.scores([[run[k] for k in judged.first] for run in runs])
    return Cell(scores, unique, {**interval(scores), "unique": round(float(unique[0]), 4), "runs": len(runs)})


def cells(out: Path, profile: str, plan: Mapping[str, Any]) -> Cells:
    """Every learner that there are answers of."""
    made: Cells = {}
    for path in sorted((out / "judged").glob(f"{profile}-*.json")):
        task = path.stem.split("-")[1]
        judged = Judged.read(path, task)
        for answers in sorted((out / "answers").glob(f"{profile}-{task}-*.json")):
            arm = answers.stem.split("-", 2)[2]
            for way, sizes in read_json(answers)["answers"].items():
                made |= {(task, arm, way, shots): cell(judged, runs) for shots, runs in sizes.items()}
        for arm, runs in tuned(out, profile, task).items():
            made[task, arm, "lora", str(plan["lora"]["shots"])] = cell(judged, runs)
    return made


def rates(out: Path, profile: str) -> Body:
    """Each arm's learning rate, and what validation of EAC says of every rate that was tried with the first seed."""
    tried: dict[str, dict[str, float]] = {}
    for path in sorted((out / "lora").glob(f"{profile}-EAC-*-0.json")):
        arm, rate = _arm_and_rate(path)
        body = read_json(path)
        labels = read_json(out / "judged" / f"{profile}-EAC.json")["labels"]
        named, rows = [labels[k] for k in body["val"]], range(len(body["val"]))
        counts = bootstrap.count_groups(sorted(set(body["val_truth"])), body["val_truth"], named, list(rows))
        tried.setdefault(arm, {})[rate] = round(float(counts.macro_f1(np.ones((1, len(rows))))[0]), 4)
    return {arm: {"rate": max(by_rate, key=lambda rate: by_rate[rate]), "validation_macro_f1": by_rate} for arm, by_rate in tried.items()}


def _arm_and_rate(path: Path) -> tuple[str, str]:
    """Of a file name profile-task-arm-rate-seed.json; a rate may hold a hyphen."""
    arm, rest = path.stem.split("-", 2)[2].split("-", 1)
    return arm, rest.rsplit("-", 1)[0]


def tuned(out: Path, profile: str, task: str) -> dict[str, Runs]:
    """Answers of the adapters of each arm at its rate, one run a seed."""
    chosen = rates(out, profile)
    runs: dict[str, list[list[int]]] = {}
    for path in sorted((out / "lora").glob(f"{profile}-{task}-*.json")):
        arm, rate = _arm_and_rate(path)
        if rate == chosen.get(arm, {}).get("rate", rate):
            runs.setdefault(arm, []).append(read_json(path)["answers"])
    return runs


def body_of(out: Path, plan: Mapping[str, Any]) -> Body:
    """Everything the page says."""
    profiles: Body = {}
    for profile in ("strict", "names"):
        made = cells(out, profile, plan)
        if not made:
            continue
        figures: Body = {}
        for (task, arm, way, shots), one in sorted(made.items()):
            figures.setdefault(task, {}).setdefault(arm, {}).setdefault(way, {})[shots] = one.body
        judged = {path.stem.split("-")[1]: _sizes(path) for path in sorted((out / "judged").glob(f"{profile}-*.json"))}
        profiles[profile] = {"judged": judged, "figures": figures, "differences": _differences(made), "rates": rates(out, profile)}
    trained = {path.stem.removesuffix("-trained"): read_json(path) for path in sorted((out / "arms").glob("*-trained.json"))}
    sources = [read_json(path) for path in sorted((out / "sources").glob("*.json"))]
    return {"plan": dict(plan), "arms_trained_here": trained, "profiles": profiles, "cost": _costs(out), "left_out_sources": sources}


def _sizes(path: Path) -> Body:
    body = read_json(path)
    counted = {key: body[key] for key in ("pool", "pool_contents", "judged")}
    return {**counted, "judged_contents": len(set(body["content"])), "captures": len(set(body["groups"])), "labels": len(body["labels"])}


def _differences(made: Cells) -> list[Body]:
    """(a) less every other arm, by way and flows a class: each task, and the mean over tasks that both have."""
    out = []
    names = sorted({key[0] for key in made})
    learners = {(arm, way, shots) for _, arm, way, shots in made}
    for arm, way, shots in sorted(learners, key=lambda one: (ORDER.index(one[0]), KINDS.index(one[1]), int(one[2]) or 1 << 30)):
        ways = {"linear": "linear", "knn": "knn", "lora": "lora"} if arm not in TREES else {way: "linear"}
        ours = ways.get(way, way)
        if arm == "language":
            continue
        tasks = [task for task in names if {(task, "language", ours, shots), (task, arm, way, shots)} <= set(made)]
        pairs = {task: (made[task, "language", ours, shots], made[task, arm, way, shots]) for task in tasks}
        if pairs:
            each = {task: difference([a], [b]) for task, (a, b) in pairs.items()}
            mean = difference([a for a, _ in pairs.values()], [b for _, b in pairs.values()])
            out.append({"other": arm, "way": ours, "shots": shots, "each": each, "mean": mean})
    return out


def _costs(out: Path) -> Body:
    """Of every arm: tokens, processor seconds and flows a second of frozen states, of tuning, of scoring with an adapter."""
    costs: Body = {}
    for path in sorted((out / "states").glob("strict-*/cost.json")):
        arm = path.parent.name.split("-", 2)[2]
        body, row = read_json(path), costs.setdefault(arm, {"flows": 0, "tokens": 0, "processor_seconds": 0.0, "width": 0})
        for key in ("flows", "tokens", "processor_seconds"):
            row[key] = round(row[key] + body[key], 2)
        row["width"] = body["width"]
    for path in sorted((out / "lora").glob("strict-*.json")):
        body, row = read_json(path), costs.setdefault(_arm_and_rate(path)[0], {})
        tuning = row.setdefault("tuning", {"adapters": 0, "tokens": 0, "processor_seconds": 0.0})
        tuning["adapters"] += 1
        tuning["tokens"] += body["tokens"]
        tuning["processor_seconds"] = round(tuning["processor_seconds"] + body["processor_seconds"], 1)
    for row in costs.values():
        if row.get("processor_seconds"):
            row["flows_a_second"] = round(row["flows"] / row["processor_seconds"], 1)
            row["tokens_a_second"] = round(row["tokens"] / row["processor_seconds"])
    return costs


# The page


def verdict(body: Body) -> str:
    """The sentence that the pre-registration asks for, from the deciding figure."""
    shots = str(body["plan"]["lora"]["shots"])
    found = [
        row
        for row in body["profiles"].get("strict", {}).get("differences", [])
        if (row["other"], row["way"], row["shots"]) == ("scratch", "lora", shots)
    ]
    if not found or found[0]["mean"]["tasks"] < len(body["plan"]["lora"]["tasks"]):
        return "The deciding figure, LoRA at 20 flows a class, is not there yet."
    mean = found[0]["mean"]
    low, high = mean["ci95"]
    helped = mean["difference"] >= MARGIN and low > 0
    words = "Pretraining on language helped here" if helped else "Pretraining on language did not help here"
    return (
        f"{words}: with LoRA on {shots} flows a class SmolLM2 less the same architecture from random weights is {mean['difference']:+.3f} "
        f"macro-F1 [{low:+.3f}, {high:+.3f}], mean of {mean['tasks']} tasks; on unique contents {_gain(mean['unique'])}."
    )


def _gain(one: Body) -> str:
    return f"{one['difference']:+.3f} [{one['ci95'][0]:+.3f}, {one['ci95'][1]:+.3f}]"


def _shown(one: Body | None) -> str:
    return "" if one is None else f"{one['macro_f1']:.3f} [{one['ci95'][0]:.3f}, {one['ci95'][1]:.3f}], {one['unique']:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}", *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def _ways(figures: Body) -> list[tuple[str, str]]:
    """(arm, way) that any task has, arms in the order of NAMES."""
    ways = {(arm, way) for arms in figures.values() for arm, body in arms.items() for way in body}
    return sorted(ways, key=lambda pair: (KINDS.index(pair[1]), ORDER.index(pair[0])))


def _figures(figures: Body, shots: str, ways: Sequence[str]) -> list[str]:
    tasks = [task for task, arms in figures.items() if any(shots in body.get(way, {}) for body in arms.values() for way in ways)]
    rows = []
    for arm, way in _ways(figures):
        ones = [figures[task].get(arm, {}).get(way, {}).get(shots) for task in tasks]
        if way in ways and any(ones):
            mean = f"{np.mean([one['macro_f1'] for one in ones]):.3f}" if all(ones) else ""
            rows.append([f"{NAMES[arm]}, {way}" if arm != way else NAMES[arm], *map(_shown, ones), mean])
    return _table(["", *tasks, "mean"], rows) if rows else []


def _gains(differences: Sequence[Body]) -> list[str]:
    rows = [
        [
            NAMES[row["other"]],
            row["way"],
            "all" if row["shots"] == "0" else row["shots"],
            _gain(row["mean"]),
            "; ".join(f"{task} {one['difference']:+.3f}" for task, one in row["each"].items()),
            _gain(row["mean"]["unique"]),
            "; ".join(f"{task} {one['unique']['difference']:+.3f}" for task, one in row["each"].items()),
        ]
        for row in differences
    ]
    return _table(
        ["(a) less", "by", "flows a class", "mean over tasks", "each task", "mean, unique contents", "each, unique contents"], rows
    )


def _profile(name: str, body: Body, shots: Sequence[str]) -> list[str]:
    lines = [f"## Masks `{name}`", ""]
    sizes = "; ".join(
        f"{task} {row['labels']} classes, {row['judged']} flows of {row['captures']} captures judged ({row['judged_contents']} contents)"
        for task, row in body["judged"].items()
    )
    lines += [f"{sizes}.", ""]
    tuned = [line for size in shots for line in _figures(body["figures"], size, ["lora"])]
    if tuned:
        lines += ["### LoRA", "", *tuned]
    for size in shots:
        words = "all flows of the pool" if size == "0" else f"{size} flows a class"
        table = _figures(body["figures"], size, ["linear", "knn", *TREES])
        lines += [f"### Frozen states, {words}", "", *table] if table else []
    return [*lines, "### (a) less the others, paired over captures", "", *_gains(body["differences"])]


def _cost_table(costs: Body) -> list[str]:
    rows = []
    for arm, row in costs.items():
        tuning = row.get("tuning", {})
        rate = f"{tuning['tokens'] / max(tuning['processor_seconds'], 1e-9):.0f}" if tuning else ""
        rows.append([NAMES[arm], *(row.get(key, "") for key in ("width", "flows_a_second", "tokens_a_second")), rate])
    return _table(["", "state's width", "flows a second", "tokens a second", "tokens a second, LoRA"], rows)


def _source_lines(sources: Sequence[Body]) -> list[str]:
    """A table a study: every arm's figures, and what (a) has more than it."""
    lines: list[str] = []
    for body in sources:
        names = body["measures"]
        rows = []
        for arm in sorted(body["arms"], key=ORDER.index):
            own, less = body["arms"][arm], body["language_less"].get(arm, {})
            spans = [_span(less[key], "+") if less else "" for key in names]
            rows.append([NAMES[arm], *(_span(own[key]) for key in names), *spans])
        head = ["", *names.values(), *(f"(a) less it, {name}" for name in names.values())]
        lines += [f"### {body['title']}", "", body["says"], "", *_table(head, rows)]
    return ["## Sources left out", "", *lines] if lines else []


def _span(figures: Sequence[float], sign: str = "") -> str:
    """A figure and its interval."""
    value, low, high = (f"{one:{sign}.3f}" for one in figures)
    return f"{value} [{low}, {high}]"


INTRO = """# Does pretraining on language help with traffic?

Written by `recipes/llm/comparison.py`; [decision 0007](../decisions/0007-language-pretrained-or-not.md) says what was to be compared before
it was, and what of it was reduced. Figures are macro-F1 on captures of the reserved part, in brackets the 95 % interval over resampled
captures (of WAD: groups of like requests; of WF there is one, so no width); of several draws or seeds their mean, whose spread the interval
leaves out. Every arm sees the same records, the same flows to learn from and the same prompts. After the bracket stands the figure on
unique masked contents.
"""


def markdown(body: Body) -> str:
    """The page."""
    shots = [str(size) for size in body["plan"]["readout"]["shots"]]
    lines = [INTRO, f"**{verdict(body)}**", ""]
    for name, part in body["profiles"].items():
        lines += _profile(name, part, shots)
    lines += _source_lines(body["left_out_sources"])
    lines += ["## Cost", "", "One thread, bfloat16, processor time.", "", *_cost_table(body["cost"])]
    return "\n".join(lines).rstrip() + "\n"


def write(out: Path, results: Path, plan: Mapping[str, Any]) -> str:
    """Write both files; the page's text."""
    body = body_of(out, plan)
    text = markdown(body)
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / "llm_comparison.json", body)
    atomic_write(results / "llm_comparison.md", text.encode())
    return text
