"""What a Ray cluster adds to captures by the thousand: the scheduler's part over 1, 2, 4, 8 nodes, and real work on this machine's cores.

    python bench/bench_ray.py [--tasks 96] [--seconds 1] [--nodes 1 2 4 8] [--captures DIR] [--json]

Nodes are simulated: raylets of this machine with one core each, whose workers sleep in place of computing, so that a fixed work list shows
what submitting, scheduling and collecting cost. `empty` is the rate of tasks that do nothing. With `--captures`, `capture flows` of a
folder with one and with all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from trafficllm.core.machine import cores
from trafficllm.lifecycle.cluster.session import Cluster

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
STORE = 80 << 20
INSIDE = "127.0.0.2"
"""Raylets of the bench listen on the loopback interface only."""


def nap(seconds: float) -> int:
    """What a sleeping worker does; who it was."""
    time.sleep(seconds)
    return os.getpid()


def seconds_of(nodes: Cluster, tasks: int, seconds: float) -> tuple[float, int]:
    """Wall seconds for a work list, and how many workers had a part in it."""
    start = time.perf_counter()
    workers = {outcome.value for outcome in nodes.finished(nap, [(seconds,)] * tasks)}
    return time.perf_counter() - start, len(workers)


def simulated(count: int, tasks: int, seconds: float, runs: int) -> dict[str, Any]:
    """The work list on `count` nodes of one core each, the median of several runs."""
    import ray
    from ray.cluster_utils import Cluster as Raylets

    raylets = Raylets(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False, "node_ip_address": INSIDE},
    )
    for _ in range(count - 1):
        raylets.add_node(num_cpus=1, object_store_memory=STORE, node_ip_address=INSIDE)
    ray.init(address=raylets.address, log_to_driver=False, configure_logging=False)
    try:
        nodes = Cluster()
        seconds_of(nodes, 4 * count, 0.2)  # workers start
        taken = [seconds_of(nodes, tasks, seconds) for _ in range(runs)]
        empty = [tasks / seconds_of(nodes, tasks, 0.0)[0] for _ in range(runs)]
    finally:
        ray.shutdown()
        raylets.shutdown()
    wall, ideal = statistics.median(each for each, _ in taken), tasks * seconds / count
    spread = [round(pick(each for each, _ in taken), 2) for pick in (min, max)]
    share = round(ideal / wall, 3)
    return {"nodes": count, "seconds": round(wall, 2), "range": spread, "ideal": ideal, "share": share, "workers": taken[-1][1]} | {
        "empty_per_s": round(statistics.median(empty), 1)
    }


def real(folder: str) -> dict[str, float]:
    """`capture flows` of a folder on one core and on all, wall seconds without the start of the cluster."""
    import ray

    from trafficllm.core.settings import load_config
    from trafficllm.core.types import Silent
    from trafficllm.lifecycle.analyze.captures import skipping
    from trafficllm.surface.parts.flows import FlowJob, write_flows

    taken = {}
    for count in (1, cores()):
        ray.init(address="local", num_cpus=count, object_store_memory=STORE, include_dashboard=False, log_to_driver=False)
        list(Cluster().finished(nap, [(0.2,)] * 4 * count))
        with tempfile.TemporaryDirectory() as place:
            warm = write_flows(
                [folder], Path(place) / "warm", FlowJob(load_config(None)), address="local", skipped=skipping(print), progress=Silent()
            )
            start = time.perf_counter()
            out = write_flows(
                [folder], Path(place) / "out", FlowJob(load_config(None)), address="local", skipped=skipping(print), progress=Silent()
            )
            taken[f"cores_{count}"] = round(time.perf_counter() - start, 2)
            assert out == warm
        ray.shutdown()
    return taken


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--captures", default="", help="a folder of captures for the real work")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="a trial of seconds: its figures mean nothing")
    options = parser.parse_args()
    tasks, seconds, counts = (8, 0.2, [1, 2]) if options.small else (options.tasks, options.seconds, options.nodes)
    figures: dict[str, Any] = {"curve": [simulated(count, tasks, seconds, options.runs) for count in counts]}
    figures |= {"real": real(options.captures)} if options.captures else {}
    print(json.dumps(figures, indent=1) if options.json else "\n".join(map(str, figures["curve"])) + f"\n{figures.get('real', '')}")


if __name__ == "__main__":
    main()
