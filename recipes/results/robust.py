"""How much the table's adapters lose when the same flows look as they would elsewhere, beside LightGBM: every task, every seed.

    python recipes/results/robust.py --data ../shared/data --out runs/results --results docs/results

`--out` is what `results.py` left. Where a task has captures, shifts act on packets that the reader reads again; reserved flows are judged.
Each run is a file: an interrupted call goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from results import PLAN, Run

from trafficllm.core.files import read_json, write_json
from trafficllm.core.types import Silent

NAMES = ("adapter", "lightgbm")


def judged(run: Run, task: str, seed: int) -> dict[str, Any]:
    """One adapter under all shifts, made where there is no file of it yet."""
    from trafficllm.lifecycle.studies.evaluation_set import EvalOptions
    from trafficllm.lifecycle.studies.robust import robust
    from trafficllm.lifecycle.workspace import Workspace

    path = run.place(task) / f"robust-seed{seed}.json"
    if not path.is_file():
        plan = PLAN["robust"][task]
        captures = run.data / run.entry(task)["folder"] if plan["wire"] else None
        result = robust(
            Workspace(base=run.base),
            run.dataset(task),
            adapter=run.place(task) / f"seed{seed}",
            captures=captures,
            options=EvalOptions(most=plan["most"], seed=seed, budget_s=run.budget),
            html=path.with_suffix(".html"),
            progress=Silent(),
        )
        write_json(path, result.as_dict())
    return dict(read_json(path))


def row(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds: macro-F1 under each shift, mean loss, the adapter's loss as a share of LightGBM's."""
    shifts = [r["name"] for r in runs[0]["perturbations"]]
    table = {name: {who: mean(_of(body, name)[who] for body in runs) for who in NAMES} for name in shifts}
    loss = {who: mean(body["mean_loss"][who] for body in runs) for who in NAMES}
    first = runs[0]
    return {
        "macro_f1": table,
        "mean_loss": loss,
        "ratio": loss["adapter"] / loss["lightgbm"] if loss["lightgbm"] > 0 else None,
        "ratio_per_seed": [body["goal"]["ratio"] for body in runs],
        "forge_delta": [body["forge"]["delta"] for body in runs],
        "above_lightgbm": sum(v["adapter"] >= v["lightgbm"] for v in table.values()),
        "shifts": len(table),
        "ci95": {name: _of(first, name, "ci95") for name in shifts},
        "on_wire": first["on_wire"],
        **{key: first[key] for key in ("n_test", "n_test_unique", "groups", "split", "mask", "leaky", "seen_by_base", "part")},
    }


def _of(body: Mapping[str, Any], name: str, key: str = "macro_f1") -> dict[str, Any]:
    return dict(next(r[key] for r in body["perturbations"] if r["name"] == name))


def markdown(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a shift, two columns a task."""
    names = list(dict.fromkeys(name for found in tasks.values() for name in found["macro_f1"]))
    head = [f"{task} {who}" for task in tasks for who in NAMES]
    lines = [f"| shift | {' | '.join(head)} |", f"|---|{'--:|' * len(head)}"]
    lines += [
        f"| {name} | {' | '.join(_cell(found['macro_f1'].get(name, {}).get(who)) for found in tasks.values() for who in NAMES)} |"
        for name in names
    ]
    lines.append(f"| **mean loss** | {' | '.join(_cell(found['mean_loss'][who]) for found in tasks.values() for who in NAMES)} |")
    shares = (f"{_cell(found['ratio'])} | " for found in tasks.values())
    return "\n".join([*lines, f"| share of LightGBM's loss (at most .5 wanted) | {' | '.join(shares)} |"]) + "\n"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main(words: Sequence[str] | None = None) -> int:
    """Run what is due, write `robust.json` and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="write robust.json here")
    parser.add_argument("--tasks", nargs="+", default=list(PLAN["robust"]), choices=list(PLAN["robust"]))
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of the plan's")
    parser.add_argument("--base", default="default")
    parser.add_argument("--seconds", type=float, default=0.0, help="what results.py was given; this and the next two name its folders")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--cap", type=int, default=0)
    parser.add_argument("--budget", type=float, default=60.0, help="estimated seconds of LightGBM's search")
    asked = parser.parse_args(words)
    given = {name: value for name, value in vars(asked).items() if name in Run.__slots__}
    run = Run(**given, part="test", threads=1, most=0, embedding=False)
    body: dict[str, Any] = {"command": "python recipes/results/robust.py --data DATA --out RUN", "tasks": {}}
    for task in asked.tasks:
        seeds = asked.seeds or PLAN["robust"][task].get("seeds", PLAN["seeds"])
        body["tasks"][task] = {"seeds": seeds, **row([judged(run, task, seed) for seed in seeds])}
        if asked.results:
            write_json(asked.results / "robust.json", body)
    print(markdown(body["tasks"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
