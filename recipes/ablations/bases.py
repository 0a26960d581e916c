"""D.3: what extending the tokenizer and training on traffic bring, at the same training time.

    python recipes/ablations/bases.py --runs runs --out runs/ablations --results docs/results/ablation_bases.json

The same stage 2 on the plain base (records spelt by its own tokenizer), on the extended one and on the extended and trained one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import judge
from judge import PLAN, Exam

from trafficllm.core.files import write_json
from trafficllm.model.load import load_base
from trafficllm.model.tune import tune_task
from trafficllm.records.dataset import load


def run(exam: Exam, folder: Path, out: Path, seconds: float, seed: int) -> dict[str, Any]:
    """One run: its answers and cost."""
    base = load_base(folder, dtype="float32")
    report = tune_task(base, exam.lesson(), out, judge.options(seconds, seed))
    cost = {"steps": report.steps, "tokens": report.tokens, "seconds": report.seconds}
    return {"answers": exam.answers(base, out), **cost}


def main() -> None:
    """All runs, then one table a task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=PLAN["seconds"])
    parser.add_argument("--tasks", nargs="+", default=list(PLAN["tasks"]))
    options = parser.parse_args()
    body: dict[str, Any] = {"seconds_a_run": options.seconds, "seeds": PLAN["seeds"], "scored": "validation part", "tasks": {}}
    for task in options.tasks:
        exam = Exam.of(load(options.runs / "traffic" / PLAN["tasks"][task]))
        rows: dict[str, Any] = {}
        for name, place in PLAN["bases"].items():
            folder, done = options.runs / place, []
            for seed in PLAN["seeds"]:
                where = options.out / "bases" / f"{task}-{name}-{seed}-{options.seconds:g}s"
                done.append(judge.once(where.with_suffix(".json"), lambda: run(exam, folder, where, options.seconds, seed)))  # noqa: B023
                print(task, name, seed, done[-1]["steps"], "steps", flush=True)
            rows[name] = exam.quality([each["answers"] for each in done], PLAN["seeds"], folder)
            rows[name] |= {key: [each[key] for each in done] for key in ("steps", "tokens", "seconds")}
        rows |= judge.once(options.out / "bases" / f"{task}-baselines.json", lambda: exam.baselines(folder))  # noqa: B023
        body["tasks"][task] = rows
        write_json(options.results, body)
        print(f"{task}\n{judge.table(rows)}", flush=True)


if __name__ == "__main__":
    main()
