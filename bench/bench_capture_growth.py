"""Time against size for input crafted to be slow: nothing may grow faster than the input itself.

    python bench/bench_capture_growth.py [--runs 5] [--json]

Each case is read at n, 2n, 4n and 8n; CPU seconds of the fastest run, and the exponent k of the line through them (t ~ n^k: 1 is linear,
2 quadratic, 0 a bound that stopped the parser).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from capture_crafted import FILES, PAYLOADS, smallest, work

STEPS = (1, 2, 4, 8)


def _seconds(name: str, n: int, folder: Path, runs: int) -> float:
    act = work(name, n, folder)
    act()
    best = math.inf
    for _ in range(runs):
        began = time.process_time()
        act()
        best = min(best, time.process_time() - began)
    return best


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Slope of log time over log size, by least squares."""
    xs, ys = [math.log(n) for n in sizes], [math.log(max(t, 1e-6)) for t in seconds]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def measure(names: Sequence[str], runs: int) -> list[dict[str, Any]]:
    """One row a case."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            sizes = [smallest(name) * step for step in STEPS]
            seconds = [_seconds(name, n, Path(folder), runs) for n in sizes]
            rows.append(
                {"case": name, "n": sizes, "cpu_s": [round(value, 5) for value in seconds], "exponent": round(exponent(sizes, seconds), 2)}
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="a trial of seconds: its figures mean nothing")
    options = parser.parse_args()
    names = [next(iter(kind)) for kind in (FILES, PAYLOADS)] if options.small else [*FILES, *PAYLOADS]
    rows = measure(names, 1 if options.small else options.runs)
    if options.json:
        print(json.dumps({"clock": "process_time", "best_of": options.runs, "cases": rows}, indent=1))
        return
    for row in rows:
        times = "  ".join(f"{n:>7} {value * 1000:8.1f} ms" for n, value in zip(row["n"], row["cpu_s"], strict=True))
        print(f"{row['case']:<30} {times}  n^{row['exponent']:.2f}")


if __name__ == "__main__":
    main()
