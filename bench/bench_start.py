"""What starting costs: processor seconds of `import trafficllm` and of `trafficllm --help`, the median of several processes.

    python bench/bench_start.py [--runs 9] [--kernels] [--json]

Limits of the design: 150 ms for the import, 300 ms for the help. `--kernels` adds the first reading of a capture, with an empty
cache: by the code that comes with the package, by numba with the short pipeline of capture/kernels/pipeline.py, and with numba's own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CAPTURES = Path(__file__).resolve().parents[1] / "src" / "trafficllm" / "data" / "captures"


def seconds(arguments: list[str]) -> float:
    """User and system time of one process."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {' '.join(arguments)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def measure(runs: int) -> dict[str, float]:
    """Median processor seconds of each command; the import is less the bare interpreter."""
    arguments = {"python": ["-c", "pass"], "import": ["-c", "import trafficllm"], "help": ["-m", "trafficllm", "--help"]}
    taken = {name: statistics.median(seconds(words) for _ in range(runs)) for name, words in arguments.items()}
    return {"import": round(taken["import"] - taken["python"], 4), "help": round(taken["help"], 4), "python": round(taken["python"], 4)}


READ = """
import sys
if sys.argv[1] == "numba":
    sys.modules["trafficllm.capture.kernels.pipeline"] = None
from trafficllm.capture.kernels import shipped
shipped.enabled = sys.argv[1] == "shipped"
from trafficllm.capture.flows.assembly import read_flows
assert sum(map(len, read_flows([sys.argv[2]])))
"""


def first_reading() -> dict[str, float]:
    """Processor seconds of reading a small capture with an empty cache, by each pipeline."""
    capture = next(CAPTURES.rglob("Zeus_04.pcap"))
    taken = {}
    for pipeline in ("shipped", "short", "numba"):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["NUMBA_CACHE_DIR"] = cache
            taken[f"kernels_{pipeline}"] = round(seconds(["-c", READ, pipeline, str(capture)]), 1)
    return taken


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--kernels", action="store_true", help="also the first reading of a capture")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="a trial of seconds: its figures mean nothing")
    options = parser.parse_args()
    figures = measure(1 if options.small else options.runs) | (first_reading() if options.kernels else {})
    if options.json:
        print(json.dumps(figures, indent=1))
    else:
        print(*(f"{name:8s} {value * 1000:6.0f} ms" for name, value in figures.items()), sep="\n")


if __name__ == "__main__":
    main()
