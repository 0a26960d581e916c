"""SmolLM2 (or any base) learns traffic: new rows first, then LoRA with the rows; saved as a small delta.

    trafficllm base get smollm2        # or: trafficllm base import FILE.gguf -o runs/llm/plain
    python recipes/llm/extend.py --data DATA --corpus runs/corpus --plain PLAIN --out runs/llm --seconds 3600
    python recipes/llm/extend.py ... --delta src/trafficllm/data/base/smollm2-delta

The same call goes on where it stopped; `--seconds` is processor time of one call. Only training parts are read, as for the embedded base
(recipes/nano/traffic.py). `figures.json` holds tokens, hours and the loss curves of every stage.
"""

from __future__ import annotations

import argparse
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import material
import numpy as np
import torch
from peft import LoraConfig, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file

from trafficllm.core.files import atomic_dir, read_json, write_json
from trafficllm.model.base.extend import make_traffic_base
from trafficllm.model.base.load import default_base, load_base
from trafficllm.model.tokenizer.extend import load_auto, traffic_ids

RECIPE = tomllib.loads(Path(__file__).with_name("extend.toml").read_text(encoding="utf-8"))


def with_rows(model: Any, ids: list[int], *, lora: bool) -> Any:
    """The model with trainable rows, and low-rank matrices beside every linear layer where `lora` says so."""
    model.config.use_cache = False
    if not lora:
        return get_peft_model(model, TrainableTokensConfig(token_indices=ids, target_modules=["embed_tokens"]))
    config = LoraConfig(
        r=RECIPE["rank"], lora_alpha=RECIPE["alpha"], target_modules="all-linear", trainable_token_indices={"embed_tokens": ids}
    )
    return get_peft_model(model, config)


def learnt(model: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, each once (the head shares the rows)."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def loss_on(model: Any, blocks: np.ndarray) -> float:
    """Nats a token."""
    total = 0.0
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(blocks), RECIPE["batch"]):
            ids = torch.from_numpy(blocks[start : start + RECIPE["batch"]].astype(np.int64))
            total += float(model(input_ids=ids, labels=ids).loss) * len(ids)
    model.train()
    return total / len(blocks)


class Stage:
    """One stage: its weights, their running average, AdamW's moments, and a curve, kept in a folder that the next call goes on from."""

    def __init__(self, name: str, model: Any, out: Path, held: dict[str, np.ndarray]) -> None:
        self.name, self.model, self.place, self.held = name, model, out / name, held
        self.values = learnt(model)
        rates = {name: RECIPE["lora_rate" if "lora_" in name else "rows_rate"] for name in self.values}
        groups = [{"params": [value], "lr": rates[name], "base": rates[name]} for name, value in self.values.items()]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
        self.mean = {name: value.detach().clone() for name, value in self.values.items()}
        self.about: dict[str, Any] = {"steps": 0, "tokens": 0, "seconds": 0.0, "curve": []}
        if (self.place / "about.json").is_file():
            self._resume()

    def _resume(self) -> None:
        state = load_file(self.place / "state.safetensors")
        self.about = read_json(self.place / "about.json")
        for name, value in self.values.items():
            value.data.copy_(state[f"value.{name}"])
            self.mean[name].copy_(state[f"mean.{name}"])
            moments = {key: state[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[value] = {"step": torch.tensor(float(self.about["steps"])), **moments}

    def save(self) -> None:
        """Write state and curve."""
        state: dict[str, torch.Tensor] = {}
        for name, value in self.values.items():
            moments = self.optimizer.state[value]
            state |= {f"value.{name}": value.detach(), f"mean.{name}": self.mean[name]}
            state |= {f"{key}.{name}": moments[key] for key in ("exp_avg", "exp_avg_sq")}
        with atomic_dir(self.place) as folder:
            save_file(state, folder / "state.safetensors")
            write_json(folder / "about.json", self.about)

    def average(self) -> None:
        """Put the running average in the place of the weights; what is measured and handed on."""
        for name, value in self.values.items():
            value.data.copy_(self.mean[name])

    def look(self, blocks: int) -> dict[str, float]:
        """Held-out losses of the averaged weights."""
        kept = {name: value.detach().clone() for name, value in self.values.items()}
        self.average()
        found = {name: round(loss_on(self.model, rows[:blocks]), 4) for name, rows in self.held.items()}
        for name, value in self.values.items():
            value.data.copy_(kept[name])
        return found

    def run(self, batch: Callable[[int], np.ndarray], steps: int, deadline: float) -> bool:
        """Train up to `steps`; False where the processor time ran out before. Each call ends with a saved state."""
        self.model.train()
        while self.about["steps"] < steps and time.process_time() < deadline:
            self._note(at_all=self.about["steps"] % RECIPE["looks"] == 0)
            begun = time.process_time()
            step = self.about["steps"]
            ids = torch.from_numpy(batch(step).astype(np.int64))
            for group in self.optimizer.param_groups:
                group["lr"] = group["base"] * min(1.0, (step + 1) / RECIPE["warmup"])
            with torch.autocast("cpu", torch.bfloat16):
                loss = self.model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(self.values.values()), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            decay = min(RECIPE["average"], (step + 1) / (step + 10))
            for name, value in self.values.items():
                self.mean[name].lerp_(value.detach(), 1 - decay)
            self.about["steps"] += 1
            self.about["tokens"] += int(ids.numel())
            self.about["seconds"] += time.process_time() - begun
            self.about["loss"] = float(loss.detach())
            if self.about["steps"] % RECIPE["save_steps"] == 0:
                self.save()
        self._note(at_all=True)
        self.save()
        return bool(self.about["steps"] >= steps)

    def _note(self, *, at_all: bool) -> None:
        step = self.about["steps"]
        if at_all and not any(point["step"] == step for point in self.about["curve"]):
            point = {"step": step, "tokens": self.about["tokens"], "loss": self.about.get("loss"), **self.look(RECIPE["look_blocks"])}
            self.about["curve"].append(point)
            print(self.name, {**point, "seconds": round(self.about["seconds"])}, flush=True)


class Run:
    """The material and the stages of one output folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.deadline = time.process_time() + options.seconds
        self.tokens = list(traffic_ids(load_auto(default_base())))
        for init in ("description", "mean"):
            if not (self.out / init).is_dir():
                make_traffic_base(options.plain, self.tokens, self.out / init, init=init, name=options.plain.name)
        self.tokenizer = load_auto(self.out / "description")
        self.ids = list(traffic_ids(self.tokenizer).values())
        self._material()
        names = {"traffic": "held", "english": "english"}
        self.held = {name: np.load(self.out / f"{file}.npy") for name, file in names.items()}
        self.blocks = {name: np.load(self.out / f"{name}.npy") for name in ("traffic", "replay")}

    def _material(self) -> None:
        if not (self.out / "traffic.npy").is_file():
            material.traffic_blocks(self.options.data, self.out, self.tokenizer, RECIPE)
        if not (self.out / "english.npy").is_file():
            material.english_blocks(self.options.corpus, self.out, self.tokenizer, RECIPE)
        if not (self.out / "replay.npy").is_file():
            material.own_text(load_base(self.options.plain, dtype="float32").model, self.tokenizer, self.out, RECIPE)

    def batch(self, step: int) -> np.ndarray:
        """The blocks of a step: traffic, and at random places a block that the model wrote itself."""
        chooser = np.random.default_rng((RECIPE["seed"], step))
        rows = []
        for place in range(RECIPE["batch"]):
            own = chooser.random() < RECIPE["replay"]
            blocks = self.blocks["replay" if own else "traffic"]
            rows.append(blocks[int(chooser.integers(len(blocks))) if own else (step * RECIPE["batch"] + place) % len(blocks)])
        return np.stack(rows)

    def model(self, init: str, rows: Path | None = None, *, lora: bool = False) -> Any:
        """The extended model with its trainable parts; `rows` is a finished stage whose rows it begins with."""
        model = load_base(self.out / init, dtype="float32").model
        if rows is not None:
            state = load_file(rows / "state.safetensors")
            table = next(value for name, value in state.items() if name.startswith("mean.") and "trainable_tokens" in name)
            model.get_input_embeddings().weight.data[self.ids] = table
        return with_rows(model, self.ids, lora=lora)

    def stage(self, name: str, steps: int, init: str, rows: str = "", *, lora: bool = False, begin: int = 0) -> bool:
        """Train one stage; False where the time ran out."""
        made = Stage(name, self.model(init, self.out / rows if rows else None, lora=lora), self.out, self.held)
        return made.run(lambda step: self.batch(step + begin), steps, self.deadline)

    def all(self) -> bool:
        """Every stage in order, the ablation among them."""
        steps, ablation = RECIPE["stages"], RECIPE["ablation"]
        first = steps["rows"]
        return (
            self.stage("rows", first, "description")
            and self.stage("lora", ablation["longer"], "description", "rows", lora=True, begin=first)
            and self.stage("ablation-mean", ablation["rows"], "mean")
            and self.stage("ablation-longer", ablation["longer"], "description", "rows", begin=first)
            and self.stage("lora", steps["lora"], "description", "rows", lora=True, begin=first)
        )

    def figures(self) -> dict[str, Any]:
        """Tokens, hours and curves of the stages that have begun."""
        names = [path.parent.name for path in sorted(self.out.glob("*/about.json"))]
        return {"stages": {name: read_json(self.out / name / "about.json") for name in names}, "recipe": RECIPE}


def main() -> None:
    """Material, stages, figures; with --delta what is there is saved as a delta instead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--plain", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3600.0, help="processor time of this call")
    torch.manual_seed(RECIPE["seed"])
    run = Run(parser.parse_args())
    done = run.all()
    write_json(run.out / "figures.json", run.figures())
    print("finished" if done else "goes on with the next call")


if __name__ == "__main__":
    main()
