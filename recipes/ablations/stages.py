"""D.10: one mixed stage against two stages, the original's ablation, at the same training time.

    python recipes/ablations/stages.py --runs runs --out runs/ablations --results docs/results/ablation_stages.json

Mixed: one adapter learns questions and records at once. Two stages: one adapter for questions, one for records, half the time
each. Scored: the task's macro-F1 and the router's accuracy on training authors kept for validation; held-out authors are not read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import judge
from judge import PLAN, Exam

from trafficllm.core.files import write_json
from trafficllm.infer.engine import Engine
from trafficllm.infer.router import Router
from trafficllm.lifecycle.learn_router import by_author, instruct_data
from trafficllm.model.load import Base, load_base
from trafficllm.model.tune import TuneData, tune_instruct, tune_task
from trafficllm.records import instructions
from trafficllm.records.catalog import load_tasks
from trafficllm.records.dataset import load


def routed(base: Base, adapter: Path) -> float:
    """Share of questions of validation authors whose task set is answered exactly."""
    _, kept = by_author(instructions.load("train"))
    kept = kept[:: max(1, len(kept) // PLAN["routing_rows"])]
    engine = Engine(base)
    engine.add_adapter("router", adapter)
    routes = Router(engine, "router", sorted(load_tasks())).stream([row.text for row in kept])
    return sum({name for name, _ in route.tasks} == set(row.tasks) for row, route in zip(kept, routes, strict=True)) / len(kept)


def mixed(exam: Exam, base: Base, out: Path, seconds: float, seed: int) -> dict[str, Any]:
    """One adapter for all of it."""
    asked, lesson = instruct_data(load_tasks(), instructions.load("train")), exam.lesson()
    both = TuneData(
        [*asked.prompts, *lesson.prompts], [*asked.answers, *lesson.answers], (*asked.labels, *lesson.labels)
    )
    report = tune_task(base, both, out, judge.options(seconds, seed))
    return {"answers": exam.answers(base, out), "routing": routed(base, out), "steps": report.steps}


def two(exam: Exam, base: Base, out: Path, seconds: float, seed: int) -> dict[str, Any]:
    """An adapter for the questions, another for the records."""
    first = seconds * PLAN["stages"]["first"]
    asked = instruct_data(load_tasks(), instructions.load("train"))
    one = tune_instruct(base, asked, out / "router", judge.options(first, seed))
    other = tune_task(base, exam.lesson(), out / "task", judge.options(seconds - first, seed))
    return {
        "answers": exam.answers(base, out / "task"), "routing": routed(base, out / "router"), "steps": one.steps + other.steps
    }  # fmt: skip


ARMS = {"one mixed stage": mixed, "two stages": two}


def main() -> None:
    """All runs, then one table a task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=PLAN["seconds"])
    parser.add_argument("--tasks", nargs="+", default=list(PLAN["tasks"]))
    options = parser.parse_args()
    place = options.runs / PLAN["stages"]["base"]
    body: dict[str, Any] = {"seconds_a_run": options.seconds, "seeds": PLAN["seeds"], "scored": "validation part", "tasks": {}}
    for task in options.tasks:
        exam = Exam.of(load(options.runs / "traffic" / PLAN["tasks"][task]))
        rows: dict[str, Any] = {}
        for name, arm in ARMS.items():
            done = []
            for seed in PLAN["seeds"]:
                where = options.out / "stages" / f"{task}-{arm.__name__}-{seed}-{options.seconds:g}s"
                base = load_base(place, dtype="float32")
                done.append(judge.once(where.with_suffix(".json"), lambda: arm(exam, base, where, options.seconds, seed)))  # noqa: B023
                print(task, name, seed, f"routing {done[-1]['routing']:.3f}", flush=True)
            rows[name] = exam.quality([each["answers"] for each in done], PLAN["seeds"], place)
            rows[name] |= {key: [each[key] for each in done] for key in ("routing", "steps")}
        rows |= judge.once(options.out / "bases" / f"{task}-baselines.json", lambda: exam.baselines(place))  # noqa: B023
        body["tasks"][task] = rows
        write_json(options.results, body)
        print(f"{task}\n{judge.table(rows)}", flush=True)


if __name__ == "__main__":
    main()
