"""What tuning a large base will need on one device and on eight, by `tune plan`'s own count: shapes alone, no weights at hand.

    python recipes/distributed/plan.py [--plan FILE] [--devices 1 8] [--json FILE]

Memory is a device's: the base, states of the optimizer, activations, and parameters gathered from the other devices. Of several devices
LoRA splits the base (`shard = true`, FSDP2), QLoRA keeps a copy on each, since 4-bit weights cannot be sharded here. A base in 8 bits is
counted and not offered. Hours are `work / (flops x devices)` with the plan's assumed speed of a device: no GPU was measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trafficllm.core.settings import TuneOptions
from trafficllm.model.results import Forecast
from trafficllm.model.tuning import plan as planning

HERE = Path(__file__).resolve().parent
COLUMNS = ("base", "bits", "devices", "layout", "weights", "states", "activations", "gathered", "total", "fits", "hours")
BF16_BYTES, INT8_BYTES = 2.0, 1.0
"""Of a weight; in 8 bits of linear layers (Dettmers et al. 2022, arXiv 2208.07339), its scales aside."""


def forecast(folder: Path, plan: dict[str, Any], method: str, devices: int) -> Forecast:
    """The plan of one way on so many devices."""
    shard = method == "lora" and devices > 1
    options = TuneOptions(**plan["tune"], method=method, shard=shard, batch_tokens=plan["batch_tokens"] * devices)
    lengths = [plan["tokens"]] * plan["rows"]
    return planning.plan(folder, lengths, options, precision="bfloat16", world=devices, speed=plan["device"]["flops"])


def in_8_bits(full: int, four: int) -> int:
    """Bytes of the base with the linear layers in 8 bits, from those with 16 and 4 bits."""
    linear = (full - four) / (BF16_BYTES - planning.NF4_BYTES)
    return round(full - linear * (BF16_BYTES - INT8_BYTES))


def rows(name: str, folder: Path, plan: dict[str, Any], devices: list[int]) -> Iterator[dict[str, Any]]:
    """The rows of one base: 16, 8 and 4 bits on each number of devices."""
    one = forecast(folder, plan, "lora", 1)
    for count in devices:
        full = one if count == 1 else forecast(folder, plan, "lora", count)
        four = forecast(folder, plan, "qlora", count)
        eight = in_8_bits(one.memory.weights, four.memory.weights)
        yield row((name, 16, count), full, full.memory.weights, plan)
        yield row((name, 8, count), four, eight, plan)
        yield row((name, 4, count), four, four.memory.weights, plan)


def row(way: tuple[str, int, int], planned: Forecast, weights: int, plan: dict[str, Any]) -> dict[str, Any]:
    """One line of the table; gigabytes of 10^9 bytes. What the CPU program itself holds is no memory of a device and left out."""
    (name, bits, devices), memory = way, planned.memory
    parts = {"weights": weights, "states": memory.states, "activations": memory.activations, "gathered": memory.gathered}
    total = sum(parts.values())
    layout = "one" if devices == 1 else "split" if bits == 16 else "copies"
    cells = {"base": name, "bits": bits, "devices": devices, "layout": layout} | {
        key: round(value / 1e9, 1) for key, value in parts.items()
    }
    fits = total <= plan["device"]["memory_gb"] * 1e9
    return cells | {"total": round(total / 1e9, 1), "fits": fits, "hours": round(planned.seconds / 3600, 2)}


def main() -> None:
    """Count, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=HERE / "plan.toml")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    plan = tomllib.loads(options.plan.read_text(encoding="utf-8"))
    out = []
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for name, shape in plan["base"].items():
        with tempfile.TemporaryDirectory() as folder:
            config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False, **shape}
            (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            for cells in rows(name, Path(folder), plan, options.devices):
                out.append(cells)
                print(f"| {' | '.join(str(cells[key]) for key in COLUMNS)} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"plan": plan, "rows": out}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
