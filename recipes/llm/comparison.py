"""Decision 0007 at the size one processor core allows: do states of a language-pretrained model know more of traffic than others?

    python recipes/llm/arms.py --plain PLAIN --language BASE --material runs/llm --out runs/comparison/arms
    python recipes/llm/comparison.py --data DATA --language BASE --out runs/comparison readout
    python recipes/llm/comparison.py --data DATA --language BASE --out runs/comparison lora --arms language scratch --seeds 0
    python recipes/llm/comparison.py --data DATA --language BASE --out runs/comparison sources --arms language scratch embedded
    python recipes/llm/comparison.py --data DATA --language BASE --out runs/comparison page --results docs/results

Every piece of work is a file: states of one arm on one task, answers of one learner, one adapter. An interrupted call goes on where it
stopped. Which flows are learnt from and judged depends on data set, draw and plan (comparison.toml) alone, so every arm has the same. The
reserved part is judged; nothing is chosen on it.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comparison_page
import numpy as np
import numpy.typing as npt
import probing

from trafficllm.core.files import atomic_dir, write_json
from trafficllm.core.sampling import evenly_over_labels
from trafficllm.core.types import Silent
from trafficllm.evaluate.baselines import shots as few
from trafficllm.lifecycle.studies import scoring

if TYPE_CHECKING:
    from trafficllm.core.settings import CodecOptions
    from trafficllm.core.types import Record
    from trafficllm.model.base.load import Base
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset

HERE = Path(__file__).resolve().parent
PLAN: dict[str, Any] = tomllib.loads((HERE / "comparison.toml").read_text(encoding="utf-8"))
TREES = ("lightgbm", "random_forest")
CHOOSING = "EAC"
"""The task whose validation part chooses learning rates."""
sys.path.insert(0, str(HERE.parent / "results"))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared: folders of labelled captures in `data`, everything that is made in `out`, under one mask `profile`."""

    data: Path
    out: Path
    language: str
    profile: str = "strict"

    def base(self, arm: str) -> Base:
        """An arm's base, weights in bfloat16 for every arm alike."""
        from trafficllm.model.base.load import load_base

        places = {"language": self.language, "embedded": "default"}
        base = load_base(places.get(arm, str(self.out / "arms" / arm)), dtype="bfloat16")
        # A slice of positions is no contiguous block: torch then copies the whole output matrix for every row, a third of a step's time.
        base.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
        return base

    def file(self, kind: str, *parts: object, suffix: str = ".json") -> Path:
        """The file of a piece of work under these masks."""
        return self.out / kind / ("-".join([self.profile, *map(str, parts)]) + suffix)

    def rows(self, task: str) -> Rows:
        """The data set of a task, built where it is missing, and which of its rows count."""
        from trafficllm.records.dataset.dataset import load

        place = self.out / "data" / self.profile / task
        if not place.is_dir():
            self._build(task, place)
        return Rows(load(place))

    def _build(self, task: str, place: Path) -> None:
        import results

        entry = results.PLAN["task"][task]
        folder = self.data / entry["folder"]
        if "captures" in entry:
            folder = results.linked(folder, self.out / "labels" / task, captures=entry["captures"], flows=entry["flows"])
        self.build(folder, task, place, cap=entry.get("cap"))

    def build(self, folder: Path, task: str, place: Path, *, cap: int | None = None) -> None:
        """A data set of a folder of labelled captures, reserved ones in its test part."""
        from trafficllm.records.catalog import get_task
        from trafficllm.records.dataset.dataset import BuildOptions, build_dataset

        options = BuildOptions(profile=self.profile, cap=cap, reserved=self.data / "RESERVED.csv", workers=1)
        build_dataset(folder, task=get_task(task), out=place, options=options, progress=Silent())


class Rows:
    """Which rows of a data set are learnt from (`pool`, `y`) and judged (`judged`, `truth`)."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, plan = dataset, PLAN["readout"]
        self.labels = scoring.labels_of(dataset)
        self.pool, self.y = self._some("train", plan["pool"])
        self.judged, self.truth = self._some("test", plan["judged"])

    def _some(self, part: str, most: int) -> tuple[list[int], list[str]]:
        rows, y = scoring.rows(self.dataset, part, self.labels)
        thinned = evenly_over_labels(y, most)
        return [rows[k] for k in thinned], [y[k] for k in thinned]

    @cached_property
    def content(self) -> list[int]:
        """Hashes of the pool's masked contents."""
        return self.dataset.hashes(self.pool)

    def drawn(self, shots: int, draw: int) -> list[int]:
        """Places in the pool: so many flows a class with unlike contents, or all of them for 0."""
        return few.draw(self.y, self.content, shots, draw) if shots else list(range(len(self.pool)))

    def facts(self) -> dict[str, Any]:
        """What the figures are resampled by and counted over."""
        held = self.dataset
        groups = [meta.origin or group for meta, group in zip(held.meta(self.judged), held.groups(self.judged), strict=True)]
        sizes = {"pool": len(self.pool), "pool_contents": len(set(self.content)), "judged": len(self.judged)}
        return {"labels": list(self.labels), "truth": self.truth, "groups": groups, "content": held.hashes(self.judged), **sizes}


# Frozen states


def states(comparison: Comparison, arm: str, task: str, rows: Rows) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Pooled states [rows, width] of the pool and of the judged rows."""
    vectors = vectors_of(comparison, arm, task, rows.dataset, [*rows.pool, *rows.judged])
    return vectors[: len(rows.pool)], vectors[len(rows.pool) :]


def vectors_of(comparison: Comparison, arm: str, name: str, dataset: Dataset, wanted: Sequence[int]) -> npt.NDArray[np.float32]:
    """Pooled states [rows, width] of rows of a data set, kept under its `name`."""
    place = comparison.file("states", name, arm, suffix="")
    if not place.is_dir():
        compute(Prompted(comparison.base(arm), dataset.task, dataset.codec), dataset.hashes(wanted), dataset.records(wanted), place)
    vectors: npt.NDArray[np.float32] = np.load(place / "vectors.npy")[np.load(place / "at.npy")]
    return vectors


@dataclass(frozen=True, slots=True)
class Prompted:
    """A base, the task whose prompt stands before records, and how these are spelled."""

    base: Base
    task: Task
    codec: CodecOptions


def compute(prompted: Prompted, contents: Sequence[int], records: Sequence[Record], place: Path) -> None:
    """Keep pooled states of masked records in `place`; those with the same number in `contents` are read once."""
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.engine.pooling import Pooled
    from trafficllm.infer.engine.scorer import LLMScorer

    places: dict[int, int] = {}
    at = [places.setdefault(content, len(places)) for content in contents]
    first = [records[at.index(k)] for k in range(len(places))]
    task = prompted.task
    scorer = LLMScorer(Engine(prompted.base), "", task, task.labels or ("yes", "no"), codec=prompted.codec)
    begun = (time.process_time(), time.monotonic())
    vectors = Pooled(scorer, "layers").embed(first)
    spent = (time.process_time() - begun[0], time.monotonic() - begun[1])
    tokens = sum(map(len, scorer.ids(first)))
    cost = {"flows": len(first), "tokens": tokens, "processor_seconds": round(spent[0], 2), "seconds": round(spent[1], 2)}
    with atomic_dir(place) as folder:
        np.save(folder / "vectors.npy", vectors)
        np.save(folder / "at.npy", np.asarray(at))
        write_json(folder / "cost.json", {**cost, "width": int(vectors.shape[1])})


def readout(comparison: Comparison, arms: Sequence[str], tasks: Sequence[str]) -> None:
    """Answers of both probes on every arm's states, of trees on the same rows, and what is judged."""
    for task in tasks:
        rows = comparison.rows(task)
        write_json(comparison.file("judged", task), rows.facts())
    for arm in [*arms, *TREES]:
        for task in tasks:
            path = comparison.file("answers", task, arm)
            if not path.is_file():
                rows = comparison.rows(task)
                begun = time.process_time()
                answers = _trees(arm, rows) if arm in TREES else _probes(comparison, arm, task, rows)
                write_json(path, {"answers": answers, "processor_seconds": round(time.process_time() - begun, 1)})
                print(comparison.profile, task, arm, round(time.process_time() - begun), flush=True)


def _draws(shots: int) -> range:
    return range(PLAN["readout"]["draws"] if shots else 1)


def _probes(comparison: Comparison, arm: str, task: str, rows: Rows) -> dict[str, dict[str, list[list[int]]]]:
    """Label numbers of the judged rows, by probe, shots and draw."""
    pool, judged = states(comparison, arm, task, rows)
    plan, y = PLAN["readout"], np.array([rows.labels.index(label) for label in rows.y])
    out: dict[str, dict[str, list[list[int]]]] = {"linear": {}, "knn": {}}
    for shots in plan["shots"]:
        shown = [rows.drawn(shots, draw) for draw in _draws(shots)]
        for name, learn in (("linear", probing.linear), ("knn", probing.knn)):
            settings = plan["strengths" if name == "linear" else "neighbours"]
            out[name][str(shots)] = [learn(pool[k], y[k], judged, settings).tolist() for k in shown]
    return out


def _trees(name: str, rows: Rows) -> dict[str, dict[str, list[list[int]]]]:
    """The same of LightGBM or a random forest on the record's own columns."""
    from trafficllm.evaluate.baselines.learners import Part

    dataset = rows.dataset
    judged = Part.of(dataset, rows.judged)
    out: dict[str, list[list[int]]] = {}
    for shots in PLAN["readout"]["shots"]:
        out[str(shots)] = []
        for draw in _draws(shots):
            shown = Part.of(dataset, [rows.pool[k] for k in rows.drawn(shots, draw)])
            out[str(shots)].append(few.trees(name, shown, judged, rows.labels, seed=draw).argmax(axis=1).tolist())
    return {name: out}


# LoRA


def rates_of(comparison: Comparison, arm: str) -> list[float]:
    """An arm's own learning rate, or what validation of EAC chose for it, for (d) what it chose for (a), or all that are to be tried."""
    if arm in PLAN["lora"]["own"]:
        return [PLAN["lora"]["own"][arm]]
    chosen = comparison_page.rates(comparison.out, comparison.profile).get("language" if arm == "shuffled" else arm)
    return [float(chosen["rate"])] if chosen else list(PLAN["lora"]["rates"])


def lora(comparison: Comparison, arms: Sequence[str], tasks: Sequence[str], seeds: Sequence[int], rates: Sequence[float]) -> None:
    """One adapter a seed, task, arm and learning rate, and its answers on the judged rows and on validation."""
    for seed in seeds:
        for task in tasks:
            write_json(comparison.file("judged", task), comparison.rows(task).facts())
            for arm in arms:
                for rate in rates or rates_of(comparison, arm):
                    path = comparison.file("lora", task, arm, f"{rate:g}", seed)
                    if not path.is_file():
                        body = _tuned(comparison, arm, comparison.rows(task), rate, seed)
                        write_json(path, body)
                        print(task, arm, rate, seed, {k: body[k] for k in ("steps", "tokens", "processor_seconds")}, flush=True)


def _tuned(comparison: Comparison, arm: str, rows: Rows, rate: float, seed: int) -> dict[str, Any]:
    from trafficllm.core.settings import TuneOptions
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.engine.scorer import LLMScorer
    from trafficllm.model.tuning.job import TuneData, tune_task
    from trafficllm.records import prompts

    plan, dataset, begun = PLAN["lora"], rows.dataset, time.process_time()
    base = comparison.base(arm)
    shown = [rows.pool[k] for k in rows.drawn(plan["shots"], seed)]
    learnt = [prompts.traffic_prompt(dataset.task, units) for units in dataset.units(shown)]
    data = TuneData(prompts=learnt, answers=dataset.labels_of(shown), labels=rows.labels)
    keys = {"r": plan["rank"], "lora_alpha": plan["alpha"], "batch_tokens": plan["batch_tokens"]}
    options = TuneOptions(**keys, max_steps=plan["steps"][dataset.task.id], learning_rate=rate, looks=0, seed=seed)
    place = comparison.file("adapters", dataset.task.id, arm, f"{rate:g}", seed, suffix="")
    report = tune_task(base, data, place, options, Silent())
    trained = time.process_time() - begun
    engine = Engine(base)
    engine.add_adapter("tuned", place)
    scorer = LLMScorer(engine, "tuned", dataset.task, rows.labels, codec=dataset.codec)
    val, y = scoring.rows(dataset, "val", rows.labels) if dataset.task.id == CHOOSING else ([], [])
    chosen = evenly_over_labels(y, PLAN["readout"]["judged"] // 2)
    begun = time.process_time()
    parts = {"answers": rows.judged, "val": [val[k] for k in chosen]}
    named = {name: _named(scorer, dataset, part) for name, part in parts.items()}
    cost = {"processor_seconds": round(trained, 1), "scoring_seconds": round(time.process_time() - begun, 1)}
    return {**named, "val_truth": [y[k] for k in chosen], "steps": report.steps, "tokens": report.tokens, **cost}


def _named(scorer: Any, dataset: Dataset, rows: Sequence[int]) -> list[int]:
    """Label numbers of rows, equal contents scored once."""
    content = dataset.hashes(rows)
    if not rows:
        return []
    first = dict(zip(reversed(content), reversed(rows), strict=True))
    best = scoring.score_rows(scorer, dataset, list(first.values())).probabilities.argmax(axis=1).tolist()
    by_content = dict(zip(first, best, strict=True))
    return [by_content[value] for value in content]


def main(words: Sequence[str] | None = None) -> int:
    """One stage, or the page of what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("readout", "lora", "sources", "page"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--language", required=True, help="the base of arm (a)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--profile", default="strict", choices=("strict", "names"))
    parser.add_argument("--arms", nargs="+", default=PLAN["readout"]["arms"])
    parser.add_argument("--tasks", nargs="+", help="default: those that comparison.toml has for the stage")
    parser.add_argument("--studies", nargs="+", default=PLAN["sources"]["studies"], help="of recipes/results/openworld.toml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rates", nargs="+", type=float, default=[], help="default: what validation of EAC chose")
    parser.add_argument("--results", type=Path, help="where llm_comparison.json and .md go")
    asked = parser.parse_args(words)
    comparison = Comparison(asked.data, asked.out, asked.language, asked.profile)
    if asked.stage == "readout":
        readout(comparison, asked.arms, asked.tasks or PLAN["readout"]["tasks"])
    elif asked.stage == "lora":
        lora(comparison, asked.arms, asked.tasks or PLAN["lora"]["tasks"], asked.seeds, asked.rates)
    elif asked.stage == "sources":
        import left_out

        for name in asked.studies:
            left_out.study(comparison, name, asked.arms)
    else:
        print(comparison_page.write(asked.out, asked.results or asked.out, PLAN))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
