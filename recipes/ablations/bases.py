"""D.3: what extending the tokenizer and training on traffic bring, at the same training time.

    python recipes/ablations/bases.py --runs runs --out runs/ablations --results docs/results/ablation_bases.json

The same stage 2 on the plain base (records spelt by its own tokenizer), on the extended one and on the extended and trained one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import judge
from judge import PLAN, Arm, EvaluationSet

from trafficllm.model.base.load import load_base
from trafficllm.model.tuning.job import tune_task


def run(judged: EvaluationSet, folder: Path, seconds: float, seed: int, out: Path) -> dict[str, Any]:
    """One run: its answers and cost."""
    base = load_base(folder, dtype="float32")
    report = tune_task(base, judged.lesson(), out, judge.options(seconds, seed))
    cost = {"steps": report.steps, "tokens": report.tokens, "seconds": report.seconds}
    return {"answers": judged.answers(base, out), **cost}


def arms(runs: Path) -> list[Arm]:
    """The same tuning from each of the bases that are made so far."""
    return [
        Arm(name, name, runs / place, lambda judged, seconds, seed, out, folder=runs / place: run(judged, folder, seconds, seed, out))
        for name, place in PLAN["bases"].items()
        if (runs / place / "model.safetensors").is_file()
    ]


if __name__ == "__main__":
    judge.main(__doc__, "bases", arms, ("steps", "tokens", "seconds"))
