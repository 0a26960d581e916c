"""A running vLLM server against the in-process engine: requests for several adapters in turn, every answer compared.

    python recipes/serve/check.py URL EXPORT... [--requests 1000] [--in-flight 8] [--wait SECONDS [--process PID]] [--json]

Each request is one record by one adapter. An answer is another adapter's where it lies nearer to what another resident adapter says of the
same prompt than to its own; verdicts agree where the likeliest label is the in-process label tree's.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.errors import ResourceError
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.remote.client import Ask, Completions, Server
from trafficllm.infer.remote.served import served_task
from trafficllm.model.base.served import load_served
from trafficllm.records import prompts
from trafficllm.records.codec.flows import records_of

CAPTURES = Path(__file__).resolve().parents[2] / "src" / "trafficllm" / "data" / "captures"


def rows(count: int) -> list[Any]:
    """Raw records of the bundled captures, as many from each."""
    out: list[Any] = []
    for path in sorted(CAPTURES.rglob("*.pcap")):
        for batch in read_flows([path]):
            out += [record for record, _ in records_of(batch)[:4]]
        if len(out) >= count:
            break
    return out[:count]


def main() -> None:
    """Ask, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("exports", nargs="+", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="for a server that is starting")
    parser.add_argument(
        "--process", type=int, metavar="PID", help="the server's, where it is one of this machine: when it ends, so does waiting"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    until = time.monotonic() + options.wait
    with Completions(Server(options.url, seconds=10, deadline=10, tries=1)) as probe:
        while not _answers(probe) and time.monotonic() < until:
            if options.process and not _runs(options.process):
                raise SystemExit("the server has ended before it answered")
            time.sleep(2)
    base = load_served("default")
    engine = Engine(base)
    client = Completions(Server(options.url, in_flight=options.in_flight, prompts=1, seconds=300, deadline=3600))
    models = [served_task(folder, client, base) for folder in options.exports]
    for folder, model in zip(options.exports, models, strict=True):
        engine.add_adapter(model.task, folder / model.task)
    records = rows(-(-options.requests // len(models)))
    jobs = []
    for k, raw in enumerate(records):
        for model in models[k % len(models) :] + models[: k % len(models)]:
            record = model.masked(raw)
            jobs.append((model, engine.encoder.prompt(prompts.detection(model.scorer.task, record, model.scorer.codec))))
    began = time.monotonic()
    with ThreadPoolExecutor(options.in_flight) as pool:
        told = list(pool.map(lambda job: _remote(client, engine, *job), jobs))
    seconds = time.monotonic() - began
    client.close()
    wrong = differing = 0
    worst = 0.0
    for (model, ids), there in zip(jobs, told, strict=True):
        distance = {}
        for other in models:
            here = engine.score_ids([ids], model.scorer.labels, adapter=other.task).logits[0]
            distance[other.task] = float(np.abs(np.exp(here) - np.exp(there)).max())
            if other is model:
                differing += int(here.argmax() != there.argmax())
        worst = max(worst, distance[model.task])
        wrong += min(distance, key=lambda name: distance[name]) != model.task
    figures = {
        "requests": len(jobs),
        "adapters": len(models),
        "wrong_adapter": wrong,
        "verdicts_equal": round(1 - differing / len(jobs), 4),
        "largest_difference": round(worst, 5),
        "requests_per_second": round(len(jobs) / seconds, 1),
    }
    print(json.dumps(figures, indent=1) if options.json else "\n".join(f"{key:20s} {value}" for key, value in figures.items()))
    raise SystemExit(wrong > 0 or differing > len(jobs) / 100)


def _runs(process: int) -> bool:
    """Whether a process is there and has not ended (state Z or X of proc(5): its parent has not asked for its status yet)."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _answers(client: Completions) -> bool:
    try:
        return bool(client.models())
    except ResourceError:
        return False


def _remote(client: Completions, engine: Engine, model: Any, ids: list[int]) -> Any:
    """Log-probabilities [labels] of one prompt by the server, by the first member alone."""
    tree = engine.label_set(model.scorer.labels).tree
    asks = [Ask(model.scorer.models[0], ((*ids, *(tree.path(node) if node >= 0 else ())),), children) for node, children in tree.choices]
    return tree.log_probabilities(np.concatenate(client.log_probabilities(asks), axis=1))[0]


if __name__ == "__main__":
    main()
