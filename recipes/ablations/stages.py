"""D.10: one mixed stage against two stages, the original's ablation, at the same training time.

    python recipes/ablations/stages.py --runs runs --out runs/ablations --results docs/results/ablation_stages.json

Mixed: one adapter learns questions and records at once. Two stages: one adapter for questions, one for records, half the time
each. Neither has a readout, which an adapter that also answers questions cannot have: the label trie is compared. Scored: the
task's macro-F1 and the router's accuracy on training authors kept for validation; held-out authors are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import judge
from judge import PLAN, Arm, EvaluationSet

from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.router.router import Router
from trafficllm.lifecycle.adapters.learn_router import by_author, exact, instruct_data
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tuning.job import TuneData, tune_instruct, tune_task
from trafficllm.records import instructions
from trafficllm.records.catalog import load_tasks


def routed(base: Base, adapter: Path) -> float:
    """Share of questions of validation authors whose task set is answered exactly."""
    _, kept = by_author(instructions.load("train"))
    kept = kept[:: max(1, len(kept) // PLAN["routing_rows"])]
    engine = Engine(base)
    engine.add_adapter("router", adapter)
    routes = list(Router(engine, "router", sorted(load_tasks())).stream([row.text for row in kept]))
    return sum(exact(kept, routes)) / len(kept)


def mixed(judged: EvaluationSet, base: Base, out: Path, seconds: float, seed: int) -> dict[str, Any]:
    """One adapter for all of it."""
    asked, lesson = instruct_data(load_tasks(), instructions.load("train")), judged.lesson()
    both = TuneData([*asked.prompts, *lesson.prompts], [*asked.answers, *lesson.answers], (*asked.labels, *lesson.labels))
    report = tune_task(base, both, out, judge.options(seconds, seed, readout=0))
    return {"answers": judged.answers(base, out), "routing": routed(base, out), "steps": report.steps}


def two(judged: EvaluationSet, base: Base, out: Path, seconds: float, seed: int) -> dict[str, Any]:
    """An adapter for the questions, another for the records."""
    first = seconds * PLAN["stages"]["first"]
    asked = instruct_data(load_tasks(), instructions.load("train"))
    one = tune_instruct(base, asked, out / "router", judge.options(first, seed, readout=0))
    other = tune_task(base, judged.lesson(), out / "task", judge.options(seconds - first, seed, readout=0))
    return {"answers": judged.answers(base, out / "task"), "routing": routed(base, out / "router"), "steps": one.steps + other.steps}


def arms(runs: Path) -> list[Arm]:
    """Both ways from one base, opened anew for each run."""
    place = runs / PLAN["stages"]["base"]
    ways = {"one mixed stage": mixed, "two stages": two}
    return [
        Arm(
            name,
            way.__name__,
            place,
            lambda judged, seconds, seed, out, way=way: way(judged, load_base(place, dtype="float32"), out, seconds, seed),
        )
        for name, way in ways.items()
    ]


if __name__ == "__main__":
    judge.main(__doc__, "stages", arms, ("routing", "steps"))
