"""Training beside another program that keeps one core busy: one thread, as many as cores, and those that the run chooses; in turn.

    python bench/bench_busy.py [--base PATH] [--data D] [--rows 100] [--epochs 2] [--runs 3] [--json]

The other program is a process that computes without pause. Each way trains the same rows alone and beside it; `slower` is how many times
longer the wall takes beside it. The figures mean something only where nothing else runs, or where this runs before everything else
(`nice -n -15`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from bench_training import rows, timed

from trafficllm.core.machine import cores
from trafficllm.core.settings import TuneOptions
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tuning.job import TuneData, tune_task

RUNS = 3
WAYS = ("one thread", "a thread a core", "chosen")
Figures = dict[str, float]
_SPIN = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(10000))"
"""The other program; it ends with this one."""


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """Another program on one core, or nothing."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-S", "-c", _SPIN]) as other:
        try:
            yield
        finally:
            other.kill()


def threads_of(way: str) -> None:
    """What a way states, and torch's threads with it."""
    stated = {"one thread": 1, "a thread a core": cores()}.get(way)
    os.environ.pop("OMP_NUM_THREADS", None)
    if stated is not None:
        os.environ["OMP_NUM_THREADS"] = str(stated)
    torch.set_num_threads(stated or cores())


def measure(base: Base, data: TuneData, options: TuneOptions, folder: Path, runs: int) -> dict[str, Any]:
    """Wall and CPU seconds of each way, alone and beside the other program, and the threads at the end."""
    found: dict[tuple[str, bool], list[Figures]] = {(way, other): [] for way in WAYS for other in (False, True)}
    for run in range(runs + 1):
        for (way, other), runs_of in found.items():
            out = folder / f"{WAYS.index(way)}-{other}-{run}"
            ended: list[int] = []

            def work(out: Path = out, ended: list[int] = ended) -> int:
                report = tune_task(base, data, out, options)
                ended.append(report.threads)
                return report.tokens

            threads_of(way)
            with busy(other):
                figures = timed(work)
            if run or runs == 1:  # the first round warms up
                runs_of.append({**figures, "threads": ended[0]})
        if runs == 1:
            break
    return {way: _way(found[way, False], found[way, True]) for way in WAYS}


def _way(alone: Sequence[Figures], beside: Sequence[Figures]) -> dict[str, Any]:
    sides = {"alone": alone, "beside": beside}
    figures = {name: {key: _spread([run[key] for run in side]) for key in ("wall", "cpu", "threads")} for name, side in sides.items()}
    return {**figures, "slower": round(figures["beside"]["wall"]["median"] / figures["alone"]["wall"]["median"], 2)}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(values), 3), "range": [round(min(values), 3), round(max(values), 3)]}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="default")
    parser.add_argument("--data", type=Path, help="a data set made by `data build`; default: built from the bundled captures")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", action="store_true", help="one line instead of indented text")
    parser.add_argument("--small", action="store_true", help="a trial of seconds: its figures mean nothing")
    options = parser.parse_args()
    if options.small:
        options.rows, options.epochs, options.runs = 2, 1, 1
    base = load_base(options.base, dtype="float32")
    with tempfile.TemporaryDirectory() as name:
        data, sha256 = rows(options.rows, options.data, Path(name))
        tune = TuneOptions(epochs=options.epochs, looks=0, learning_rate=1e-3, readout=0)
        found = measure(base, data, tune, Path(name), options.runs)
    settings = {"base": base.path.name, "cores": cores(), "rows": options.rows, "epochs": options.epochs, "runs": options.runs}
    print(json.dumps({"settings": {**settings, "dataset_sha256": sha256}, "ways": found}, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
