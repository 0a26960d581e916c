"""The arms of decision 0007 as base folders: language, language with untrained tokens, random weights, the same trained, shuffled layers.

    python recipes/llm/arms.py --plain PLAIN --language BASE --material runs/llm --out runs/comparison/arms

`PLAIN` is SmolLM2 as imported, `BASE` the same with the traffic extension that ships, `--material` the output folder of extend.py, of which
`traffic.npy` and `replay.npy` are read: the blocks that the shipped extension learnt, and their order, as at commit 8d213bd. Two arms are
trained on those blocks here: `scratch`, all weights from random ones, and `shuffled`, the traffic rows alone, as in the extension. Each
arm is a folder, written when it is done; a second call makes what is missing.
"""

from __future__ import annotations

import argparse
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import controls
import numpy as np
import torch

from trafficllm.core.files import write_json
from trafficllm.model.base.extend import make_traffic_base
from trafficllm.model.base.load import default_base, load_base
from trafficllm.model.tokenizer.extend import load_auto, traffic_ids

PLAN = tomllib.loads(Path(__file__).with_name("comparison.toml").read_text(encoding="utf-8"))
TRAINED = "trained.json"
"""Beside the arms: tokens, processor seconds and loss curve of each that is trained here."""


def blocks_of(material: Path, steps: int, first: int = 0) -> Iterator[np.ndarray]:
    """The blocks [4, tokens] of each step of the shipped extension: traffic in order, and at random places English of `replay.npy`."""
    plan = PLAN["training"]
    stored = {name: np.load(material / f"{name}.npy") for name in ("traffic", "replay")}
    for step in range(first, steps):
        chooser = np.random.default_rng((plan["seed"], step))
        rows = []
        for place in range(plan["batch"]):
            english = chooser.random() < plan["replay"]
            blocks = stored["replay" if english else "traffic"]
            rows.append(blocks[int(chooser.integers(len(blocks))) if english else (step * plan["batch"] + place) % len(blocks)])
        yield np.stack(rows)


def loss_of(model: Any, blocks: np.ndarray) -> torch.Tensor:
    """Nats a token of the next tokens of blocks [rows, tokens]."""
    ids = torch.from_numpy(blocks.astype(np.int64))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def held_loss(model: Any, material: Path) -> float:
    """Nats a token on the held-out traffic blocks of the extension's curve."""
    held = np.load(material / "held.npy")[: PLAN["training"]["held_blocks"]]
    with torch.inference_mode():
        return round(float(np.mean([float(loss_of(model, held[k : k + 4])) for k in range(0, len(held), 4)])), 4)


def train(model: Any, material: Path, steps: int, *, rows: list[int] | None, rate: float) -> dict[str, Any]:
    """Train all weights, or the embedding `rows` alone; the running average is left on the model. What it cost and gave."""
    plan = PLAN["training"]
    model.train()
    table = model.get_input_embeddings().weight
    for value in model.parameters():
        value.requires_grad_(rows is None or value is table)
    values = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(values, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    mean = [value.detach().clone() for value in values]
    frozen = None if rows is None else torch.ones(len(table), dtype=torch.bool).index_fill(0, torch.tensor(rows), False)
    curve, begun, tokens = [{"step": 0, "held": held_loss(model, material)}], time.process_time(), 0
    for step, blocks in enumerate(blocks_of(material, steps)):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / plan["warmup"])
        loss = loss_of(model, blocks)
        loss.backward()
        if frozen is not None:
            table.grad[frozen] = 0.0
        torch.nn.utils.clip_grad_norm_(values, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(plan["average"], (step + 1) / (step + 10))
        for average, value in zip(mean, values, strict=True):
            average.lerp_(value.detach(), 1 - decay)
        tokens += int(blocks.size)
        if (step + 1) % plan["looks"] == 0 or step + 1 == steps:
            curve.append({"step": step + 1, "loss": round(float(loss.detach()), 4)})
            print(curve[-1], round(time.process_time() - begun), flush=True)
    seconds = round(time.process_time() - begun)
    for average, value in zip(mean, values, strict=True):
        value.data.copy_(average)
    curve.append({"step": steps, "held": held_loss(model.eval(), material)})
    return {"tokens": tokens, "processor_seconds": seconds, "rate": rate, "curve": curve}


def trained_copy(source: Path, out: Path, material: Path, *, rows: bool) -> dict[str, Any]:
    """A copy of a base folder with trained weights."""
    plan = PLAN["training"]
    torch.manual_seed(plan["seed"])
    model = load_base(source, dtype="float32").model
    ids = list(traffic_ids(load_auto(source)).values()) if rows else None
    facts = train(model, material, plan["steps"], rows=ids, rate=plan["rows_rate" if rows else "rate"])
    weights = {name: value.detach().to(torch.bfloat16) for name, value in model.state_dict().items()}
    controls.write(source, weights, out, name=out.name)
    write_json(out.parent / f"{out.name}-{TRAINED}", facts)
    return facts


def make(
    plain: Path, language: Path, material: Path, out: Path, *, shuffled: bool = True, tokens: Sequence[str] | None = None
) -> dict[str, Path]:
    """Every arm's folder by its name, made where it is missing; `embedded` is the base of the package and is not made here.

    `tokens` are the traffic tokens, by default those of that base; without `shuffled` arm (d) is left for another call.
    """
    seed = PLAN["training"]["seed"]
    places = {name: out / name for name in ("untrained", "random", "scratch", "shuffled-untrained", "shuffled")}
    if not places["untrained"].is_dir():
        added = tokens or list(traffic_ids(load_auto(default_base())))
        make_traffic_base(plain, added, places["untrained"], init=PLAN["training"]["init"], name="untrained")
    if not places["random"].is_dir():
        controls.write(language, controls.random_weights(language, seed), places["random"], name="random")
    if not places["scratch"].is_dir():
        trained_copy(places["random"], places["scratch"], material, rows=False)
    if shuffled:
        _shuffle(places["untrained"], places["shuffled-untrained"], places["shuffled"], material)
    return {"language": language, **places, "embedded": default_base()}


def _shuffle(untrained: Path, before: Path, after: Path, material: Path) -> None:
    if not before.is_dir():
        weights = controls.shuffled_layers(untrained, PLAN["training"]["seed"])
        controls.write(untrained, weights, before, name=before.name)
    if not after.is_dir():
        trained_copy(before, after, material, rows=True)


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("plain", "language", "material", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--without-shuffled", action="store_true", help="leave arm (d) for another call")
    options = parser.parse_args()
    shuffled = not options.without_shuffled
    for name, place in make(options.plain, options.language, options.material, options.out, shuffled=shuffled).items():
        print(name, place)


if __name__ == "__main__":
    main()
