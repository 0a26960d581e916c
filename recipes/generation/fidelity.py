"""How true to life generated flows are, label by label: `python recipes/generation/fidelity.py --data DATA --out runs/generation`.

Stages, each kept as files and not made again: data sets (`data/`), one joint adapter a task (`adapters/`, resumed from its last
checkpoint), captures of each label (`captures/`), comparisons (`MTG.json`, `MTG.html`), the table (`fidelity.md`). `--part val` while
choosing; the reserved part (`--part test`) is scored once a base. `--label`, `--steps`, `--seconds` and `--flows` make trials small.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import torch

from trafficllm.capture.compile.plans import CompileCounts
from trafficllm.capture.files.write import write_capture
from trafficllm.core.files import atomic_write, json_text, read_json, write_json
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import Silent
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.generator.generator import Generator
from trafficllm.lifecycle.adapters.learn_generator import generator_data, values_of
from trafficllm.lifecycle.generate.timeline import timeline
from trafficllm.lifecycle.studies.generation import COLUMNS, evaluate, table
from trafficllm.model.base.load import load_base
from trafficllm.model.tuning.job import tune_generation
from trafficllm.records.catalog import get_task
from trafficllm.records.dataset.dataset import Dataset, build_dataset, load

PLAN = tomllib.loads(Path(__file__).with_name("generation.toml").read_text(encoding="utf-8"))
START = 1_767_225_600_000_000_000
SECOND = 1_000_000_000


def opened(entry: dict[str, Any], data: Path, out: Path) -> Dataset:
    """The task's data set, built once."""
    place = out / "data" / entry["id"]
    build_dataset(data / entry["folder"], task=get_task(entry["id"]), out=place, progress=Silent())
    return load(place)


def tuned(entry: dict[str, Any], data: Dataset, base: Any, chosen: argparse.Namespace) -> Path:
    """The task's adapter over its labels; a finished one stands, and so does a version that is named."""
    if chosen.version:
        return Path(chosen.version)
    place = chosen.out / "adapters" / entry["id"]
    options = TuneOptions(
        max_steps=None if chosen.seconds else chosen.steps or entry["steps"],
        max_seconds=chosen.seconds,
        epochs=10_000,
        learning_rate=PLAN["rate"],
        r=PLAN["rank"],
        lora_alpha=2 * PLAN["rank"],
        looks=0,
        seed=chosen.seed,
    )
    begun = time.process_time()
    report = tune_generation(base, generator_data(data, task=get_task(entry["id"]), labels=entry["labels"]), place, options)
    if not report.reused:
        write_json(place / "spent.json", {"cpu_s": round(time.process_time() - begun, 1), **report.as_dict()})
    return place


def written(entry: dict[str, Any], data: Dataset, base: Any, adapter: Path, chosen: argparse.Namespace) -> Path:
    """A capture of each label under `captures/<task>/<label>`; those that stand are kept."""
    folder = chosen.out / "captures" / entry["id"]
    missing = [label for label in entry["labels"] if not (folder / label / f"{label}.pcapng").is_file()]
    engine = Engine(base)
    engine.add_adapter(entry["id"], adapter)
    values = read_json(chosen.version / "manifest.json")["values"] if chosen.version else values_of(data, entry["labels"])
    generator = Generator(engine, entry["id"], values=values)
    for label in missing:
        begun, before, past = time.process_time(), generator.sampled, sum(generator.prevented.values())
        counts = CompileCounts()
        n = chosen.flows or PLAN["flows"]
        plans = generator.plans(get_task(entry["id"]), label, n, seed=chosen.seed, temperature=chosen.temperature)
        frames = timeline(plans, n, seed=chosen.seed, start=START, duration=n * SECOND, counts=counts)
        path = folder / label / f"{label}.pcapng"
        path.parent.mkdir(parents=True, exist_ok=True)
        packets = write_capture(path, frames, format="pcapng", comment=f"synthetic traffic: task {entry['id']}, label {label}")
        said = {
            "flows": n,
            "packets": packets,
            "cpu_s": round(time.process_time() - begun, 2),
            "repairs": dict(counts.repairs),
            "choices": generator.sampled - before,
            "prevented": sum(generator.prevented.values()) - past,
        }
        write_json(folder / label / "made.json", said)
        print(f"{entry['id']} {label}: {said}", file=sys.stderr)
    return folder


def compared(entry: dict[str, Any], data: Dataset, made: Path, chosen: argparse.Namespace) -> tuple[dict[str, Any], list[list[Any]]]:
    """The comparison with the chosen part, kept as JSON and HTML, and its table's rows."""
    name = f"{entry['id']}_{chosen.part}"
    result = evaluate(
        data.path,
        made,
        part=chosen.part,
        captured=chosen.data / entry["folder"],
        labels=entry["labels"],
        seed=chosen.seed,
        html=chosen.out / f"{name}.html",
        progress=Silent(),
    )
    spent = chosen.out / "adapters" / entry["id"] / "spent.json"
    body = result.as_dict()
    body["made"] = {label: read_json(made / label / "made.json") for label in body["labels"]}
    body["tuning"] = read_json(spent) if spent.is_file() else {}
    atomic_write(chosen.out / f"{name}.json", json_text(body))
    return body, table(result)


def cell(value: Any) -> str:
    """Numbers with their digits, all else as it is."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def markdown(bodies: dict[str, tuple[dict[str, Any], list[list[Any]]]], part: str) -> str:
    """The table over all tasks, and what a detector trained on generated flows is worth."""
    lines = [f"| task | {' | '.join(COLUMNS)} |", f"|---|---|{'--:|' * (len(COLUMNS) - 1)}"]
    for name, (_, rows) in bodies.items():
        lines += [f"| {name} | {' | '.join(map(cell, row))} |" for row in rows]
    for name, (body, _) in bodies.items():
        lines.append(
            f"\n{name}, {part} part: trained on generated, tested on real {cell(body['tstr'])}, the reverse {cell(body['trts'])}, "
            f"real on real {cell(body['trtr'])}; valid {body['valid']['valid']}, "
            f"identifiers of training captures {sum(body['overlap'].values())}."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """All stages for all tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="labelled folders and RESERVED.csv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="default")
    parser.add_argument("--part", choices=("val", "test"), default="val")
    parser.add_argument("--task", action="append", help="only this task; may be repeated")
    parser.add_argument("--label", action="append", help="only these labels; may be repeated")
    parser.add_argument("--version", type=Path, help="a version's folder of the one --task: its weights and tables instead of a tuning")
    parser.add_argument("--steps", type=int, help="tuning steps instead of the plan's")
    parser.add_argument("--seconds", type=float, help="tuning time instead of steps")
    parser.add_argument("--flows", type=int, help="generated flows a label instead of the plan's")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    bodies = {}
    base = load_base(chosen.base)
    for entry in PLAN["task"]:
        labels = [label for label in entry["labels"] if not chosen.label or label in chosen.label]
        if not labels or (chosen.task and entry["id"] not in chosen.task):
            continue
        mine = {**entry, "labels": labels}
        data = opened(mine, chosen.data, chosen.out)
        adapter = tuned(mine, data, base, chosen)
        bodies[entry["id"]] = compared(mine, data, written(mine, data, base, adapter, chosen), chosen)
    text = markdown(bodies, chosen.part)
    atomic_write(chosen.out / f"fidelity_{chosen.part}.md", text)
    print(text)


if __name__ == "__main__":
    main()
