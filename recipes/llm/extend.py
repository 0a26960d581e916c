"""SmolLM2 (or any base) learns traffic: new rows first, then LoRA with the rows, English held by the plain model; saved as a small delta.

    trafficllm base get smollm2        # or: trafficllm base import FILE.gguf -o runs/llm/plain
    python recipes/llm/extend.py --data DATA --corpus runs/corpus --plain PLAIN --out runs/llm --seconds 3600
    python recipes/llm/extend.py ... --delta src/trafficllm/data/base/smollm2-delta

The same call goes on where it stopped; `--seconds` is processor time of one call. Only training parts are read, as for the embedded base
(recipes/nano/traffic.py). A quarter of every step's blocks is English (divergence of the plain model's next token from the extended
model's), the rest traffic (next-token loss). `figures.json` holds tokens, hours and the loss curves of every stage. With `--delta` the
weights that the rule in extend.toml allows are written as a delta, applied to the plain base, and the result is measured.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import material
import numpy as np
import quiet
import torch
from peft import LoraConfig, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file

from trafficllm.core.files import atomic_dir, read_json, write_json
from trafficllm.model.base.delta import Change, apply_delta, write_delta
from trafficllm.model.base.extend import make_traffic_base
from trafficllm.model.base.folder import read_manifest
from trafficllm.model.base.load import default_base, load_base
from trafficllm.model.tokenizer.extend import load_auto, traffic_ids

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RECIPE = tomllib.loads(Path(__file__).with_name("extend.toml").read_text(encoding="utf-8"))
HELD = {"traffic": "held", "english": "docs", "own": "own"}
"""Held-out blocks by measure: validation records, parts of the corpus that are not trained on, the plain model's own texts."""


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


def tensor_of(blocks: np.ndarray) -> torch.Tensor:
    """Blocks as token ids, int64, where the model is."""
    return torch.from_numpy(blocks.astype(np.int64)).to(DEVICE)


def next_token_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Nats a token of the blocks `ids` [blocks, tokens] under `logits` [blocks, tokens, entries]."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def loss_on(model: Any, blocks: np.ndarray) -> float:
    """Nats a token."""
    total = 0.0
    model.eval()
    with torch.inference_mode(), torch.autocast(DEVICE, torch.bfloat16):
        for start in range(0, len(blocks), RECIPE["batch"]):
            ids = tensor_of(blocks[start : start + RECIPE["batch"]])
            total += float(next_token_loss(model(input_ids=ids).logits, ids)) * len(ids)
    model.train()
    return total / len(blocks)


def divergence(model: Any, logits: torch.Tensor, ids: torch.Tensor, native: int) -> torch.Tensor:
    """Kullback-Leibler divergence of the plain model's next token from the extended model's, nats a token: the plain model is the
    extended one without its adapter and its new entries, from `native` on."""
    with torch.no_grad(), model.disable_adapter():
        plain = torch.log_softmax(model(input_ids=ids).logits[..., :native].float(), dim=-1)
    extended = torch.log_softmax(logits.float(), dim=-1)[..., :native]
    return (plain.exp() * (plain - extended)).sum(dim=-1).mean()


class Stage:
    """One stage: its weights, their running average, AdamW's moments, and a curve, kept in a folder that the next call goes on from."""

    def __init__(self, name: str, model: Any, run: Run, steps: int) -> None:
        self.name, self.model, self.place, self.work, self.steps = name, model, run.out / name, run, steps
        self.values = learnt(model)
        rates = {name: RECIPE["lora_rate" if "lora_" in name else "rows_rate"] for name in self.values}
        groups = [{"params": [value], "lr": rates[name], "base": rates[name]} for name, value in self.values.items()]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
        self.mean = {name: value.detach().clone() for name, value in self.values.items()}
        self.allowed = {name: value.clone() for name, value in self.mean.items()}
        self.about: dict[str, Any] = {"steps": 0, "tokens": 0, "seconds": 0.0, "curve": [], "ended": False, "allowed": None}
        if (self.place / "about.json").is_file():
            self._resume()

    def _resume(self) -> None:
        state = load_file(self.place / "state.safetensors")
        self.about = read_json(self.place / "about.json")
        for name, value in self.values.items():
            value.data.copy_(state[f"value.{name}"])
            self.mean[name].copy_(state[f"mean.{name}"])
            self.allowed[name].copy_(state[f"allowed.{name}"])
            moments = {key: state[f"{key}.{name}"].to(DEVICE) for key in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[value] = {"step": torch.tensor(float(self.about["steps"])), **moments}

    def save(self) -> None:
        """Write state and curve; nothing before the first step."""
        if not self.about["steps"]:
            return
        state: dict[str, torch.Tensor] = {}
        for name, value in self.values.items():
            moments = self.optimizer.state[value]
            state |= {f"value.{name}": value.detach(), f"mean.{name}": self.mean[name], f"allowed.{name}": self.allowed[name]}
            state |= {f"{key}.{name}": moments[key] for key in ("exp_avg", "exp_avg_sq")}
        with atomic_dir(self.place) as folder:
            save_file(state, folder / "state.safetensors")
            write_json(folder / "about.json", self.about)

    def look(self) -> dict[str, float]:
        """Held-out losses of the averaged weights."""
        raw = {name: value.detach().clone() for name, value in self.values.items()}
        self._put(self.mean)
        losses = {name: round(loss_on(self.model, rows[: RECIPE["look_blocks"]]), 4) for name, rows in self.work.held.items()}
        self._put(raw)
        return losses

    def _put(self, weights: dict[str, torch.Tensor]) -> None:
        for name, value in self.values.items():
            value.data.copy_(weights[name])

    def run(self, begin: int, deadline: float) -> bool:
        """Train to the last step or to the rule's end; False where the processor time ran out before. Each call ends with a saved state."""
        self.model.train()
        while self.about["steps"] < self.steps and not self.about["ended"] and time.process_time() < deadline:
            self._note(due=self.about["steps"] % RECIPE["looks"] == 0)
            if self.about["ended"]:
                break
            begun = time.process_time()
            self._step(begin)
            self.about["seconds"] += time.process_time() - begun
            if self.about["steps"] % RECIPE["save_steps"] == 0:
                self.save()
        self._note(due=self.about["steps"] == self.steps)
        self.save()
        return bool(self.about["ended"] or self.about["steps"] >= self.steps)

    def _step(self, begin: int) -> None:
        step = self.about["steps"]
        traffic, english = self.work.batch(step + begin)
        left = (1 + math.cos(math.pi * step / self.steps)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * min((step + 1) / RECIPE["warmup"], RECIPE["last"] + (1 - RECIPE["last"]) * left)
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = self.model(input_ids=torch.cat([traffic, english])).logits
            loss = next_token_loss(logits[: len(traffic)], traffic)
            drift = divergence(self.model, logits[len(traffic) :], english, self.work.native)
        (loss + RECIPE["kl"] * drift).backward()
        torch.nn.utils.clip_grad_norm_(list(self.values.values()), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = min(RECIPE["average"], (step + 1) / (step + 10))
        for name, value in self.values.items():
            self.mean[name].lerp_(value.detach(), 1 - decay)
        self.about |= {"steps": step + 1, "loss": float(loss.detach()), "divergence": float(drift.detach())}
        self.about["tokens"] += int(traffic.numel() + english.numel())

    def _note(self, *, due: bool) -> None:
        """A point of the curve; where the rule allows its weights they are kept, else the stage ends."""
        step = self.about["steps"]
        if not due or any(point["step"] == step for point in self.about["curve"]):
            return
        trained = {name: self.about.get(name) for name in ("tokens", "loss", "divergence")}
        point = {"step": step, **trained, **self.look()}
        self.about["curve"].append(point)
        if all(point[name] <= self.work.plain_loss[name] + RECIPE["english_limit"] for name in self.work.english):
            self.about["allowed"] = step
            self.allowed = {name: value.clone() for name, value in self.mean.items()}
        else:
            self.about["ended"] = self.about["allowed"] is not None
        print(self.name, {**point, "seconds": round(self.about["seconds"])}, flush=True)


class Run:
    """The material and the stages of one output folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.deadline = time.process_time() + options.seconds
        own = RECIPE["english"]["own_texts"] > 0
        self.measures = {name: file for name, file in HELD.items() if own or name != "own"}
        self.english = [name for name in self.measures if name != "traffic"]
        self.tokens = list(traffic_ids(load_auto(default_base())))
        inits = {RECIPE["init"], "description"} if options.ablation else {RECIPE["init"]}
        for init in sorted(inits):
            if not (self.out / init).is_dir():
                make_traffic_base(options.plain, self.tokens, self.out / init, init=init, name=options.plain.name)
        self.tokenizer = load_auto(self.out / RECIPE["init"])
        self.ids = list(traffic_ids(self.tokenizer).values())
        self.native = min(self.ids)
        self._material()
        self.held = {name: np.load(self.out / f"{file}.npy") for name, file in self.measures.items()}
        self.blocks = {name: np.load(self.out / f"{name}.npy") for name in ("traffic", "keep")}
        self.plain_loss = self._plain_loss()

    def _material(self) -> None:
        if not (self.out / "traffic.npy").is_file():
            material.traffic_blocks(self.options.data, self.out, self.tokenizer, RECIPE)
        if not (self.out / "keep.npy").is_file():
            material.english_blocks(self.options.corpus, self.out, self.tokenizer, RECIPE)
        if "own" in self.measures and not (self.out / "own.npy").is_file():
            material.own_text(load_base(self.options.plain, dtype="float32", device=DEVICE).model, self.tokenizer, self.out, RECIPE)

    def _plain_loss(self) -> dict[str, float]:
        """English losses of the plain model on the blocks of a look: what the rule compares with."""
        place = self.out / "plain.json"
        if not place.is_file():
            model = load_base(self.options.plain, dtype="float32", device=DEVICE).model
            write_json(place, {name: round(loss_on(model, self.held[name][: RECIPE["look_blocks"]]), 4) for name in self.english})
        losses: dict[str, float] = read_json(place)
        return losses

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(traffic blocks, English blocks) of a step: a quarter are English."""
        english = max(1, RECIPE["batch"] // 4)
        counts = {"traffic": RECIPE["batch"] - english, "keep": english}
        places = {name: (step * count + np.arange(count)) % len(self.blocks[name]) for name, count in counts.items()}
        return tensor_of(self.blocks["traffic"][places["traffic"]]), tensor_of(self.blocks["keep"][places["keep"]])

    def model(self, init: str, rows: Path | None = None, *, lora: bool = False) -> Any:
        """The extended model with its trainable parts; `rows` is a finished stage whose rows it begins with."""
        model = load_base(self.out / init, dtype="float32", device=DEVICE).model
        if rows is not None:
            state = load_file(rows / "state.safetensors")
            table = next(value for name, value in state.items() if name.startswith("mean.") and "trainable_tokens" in name)
            model.get_input_embeddings().weight.data[self.ids] = table
        return with_rows(model, self.ids, lora=lora)

    def stage(self, name: str, steps: int, init: str, rows: str = "", *, lora: bool = False, begin: int = 0) -> bool:
        """Train one stage; False where the time ran out."""
        model = self.model(init, self.out / rows if rows else None, lora=lora)
        return Stage(name, model, self, steps).run(begin, self.deadline)

    def all(self) -> bool:
        """Every stage in order; with --ablation those of the ablation instead."""
        steps, ablation, init = RECIPE["stages"], RECIPE["ablation"], RECIPE["init"]
        if self.options.ablation:
            first = ablation["rows"]
            return (
                self.stage("ablation-description", first, "description")
                and self.stage("ablation-mean", first, init)
                and self.stage("ablation-longer", ablation["longer"], init, "ablation-mean", begin=first)
                and self.stage("ablation-lora", ablation["longer"], init, "ablation-mean", lora=True, begin=first)
            )
        first = steps["rows"]
        return self.stage("rows", first, init) and self.stage("lora", steps["lora"], init, "rows", lora=True, begin=first)

    def figures(self) -> dict[str, Any]:
        """Tokens, hours and curves of the stages that have begun."""
        names = [path.parent.name for path in sorted(self.out.glob("*/about.json"))]
        stages = {name: read_json(self.out / name / "about.json") for name in names}
        return {"stages": stages, "plain": self.plain_loss, "records": read_json(self.out / "counts.json"), "recipe": RECIPE}


def change_of(run: Run, stage: str) -> Change:
    """What a stage has learnt, as far as the rule allows it, by the names of the plain base's tensors."""
    state = load_file(run.out / stage / "state.safetensors")
    values = {name.removeprefix("allowed."): value for name, value in state.items() if name.startswith("allowed.")}
    rows = next(value for name, value in values.items() if "trainable_tokens" in name)
    names = sorted({name.split(".lora_")[0] for name in values if ".lora_A." in name})
    pairs = {}
    for name in names:
        first, second = (next(value for key, value in values.items() if key.startswith(f"{name}.lora_{part}.")) for part in "AB")
        pairs[f"{name.removeprefix('base_model.model.')}.weight"] = (first, second)
    return Change(run.tokens, {"model.embed_tokens.weight": rows}, pairs, RECIPE["alpha"] / RECIPE["rank"])


def quiet_rows(run: Run, change: Change) -> tuple[Change, dict[str, Any]]:
    """A change of rows alone, made quiet after English (`quiet`)."""
    name, rows = next(iter(change.rows.items()))
    model = load_base(run.out / RECIPE["init"], dtype="float32", device=DEVICE).model
    model.get_input_embeddings().weight.data[run.ids] = rows.to(DEVICE)
    blocks = {
        "english": tensor_of(run.blocks["keep"][: RECIPE["quiet_blocks"]]),
        "traffic": tensor_of(run.blocks["traffic"][: RECIPE["quiet_blocks"]]),
    }
    less, facts = quiet.quiet(model, rows.to(DEVICE), run.native, blocks, RECIPE["quiet"])
    return replace(change, rows={name: less.cpu()}), facts


def save_delta(run: Run, out: Path) -> dict[str, Any]:
    """Write the delta of the last stage there is, apply it to the plain base as `base get` does, and measure the result."""
    plain, stage = run.options.plain, "lora" if (run.out / "lora").is_dir() else "rows"
    stages = [read_json(run.out / name / "about.json") for name in ("rows", "lora") if (run.out / name).is_dir()]
    point = next(point for point in stages[-1]["curve"] if point["step"] == stages[-1]["allowed"])
    facts = {"seen": np.load(run.out / "seen.npy").tolist(), "source": {"sha256": read_manifest(plain)["source"]["sha256"]}}
    training: dict[str, Any] = {
        "recipe": "recipes/llm/extend.py",
        "stage": stage,
        "tokens": point["tokens"] + sum(about["tokens"] for about in stages[:-1]),
        "processor_seconds": round(sum(about["seconds"] for about in stages)),
        "rank": RECIPE["rank"] if stage == "lora" else 0,
        "held_out_loss_before": stages[0]["curve"][0]["traffic"],
        "english_loss_before": run.plain_loss["english"],
    }
    change = change_of(run, stage)
    if stage == "rows":
        change, training["quiet"] = quiet_rows(run, change)
    write_delta(out, change, **facts, training=training)
    with tempfile.TemporaryDirectory() as work:
        apply_delta(plain, out, Path(work) / "base", name="measured")
        gives = read_manifest(Path(work) / "base")["base_sha256"]
        model = load_base(Path(work) / "base", dtype="float32", device=DEVICE).model
        after = {name: round(loss_on(model, rows[: RECIPE["look_blocks"]]), 4) for name, rows in run.held.items()}
    training |= {"held_out_loss": after["traffic"], "english_loss": after["english"]}
    write_delta(out, change, **facts, training=training, gives=gives)
    return {"plain": run.plain_loss, "extended": after, "bytes": sum(path.stat().st_size for path in out.iterdir())}


def changed(recipe: dict[str, Any], path: Path) -> None:
    """Put the values of another recipe file in the place of those of extend.toml."""
    for name, value in tomllib.loads(path.read_text(encoding="utf-8")).items():
        recipe[name] = {**recipe[name], **value} if isinstance(value, dict) else value


def main() -> None:
    """Material, stages, figures; with --delta what is there is saved as a delta instead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--plain", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3600.0, help="processor time of this call")
    parser.add_argument("--recipe", type=Path, help="a file of values that replace some of extend.toml")
    parser.add_argument("--ablation", action="store_true", help="the stages of the ablation instead")
    parser.add_argument("--delta", type=Path, help="write what was learnt to this folder, and measure it")
    options = parser.parse_args()
    if options.recipe is not None:
        changed(RECIPE, options.recipe)
    torch.manual_seed(RECIPE["seed"])
    run = Run(options)
    if options.delta is not None:
        measured = save_delta(run, options.delta)
        write_json(run.out / "figures.json", {**run.figures(), "delta": measured})
        print(measured)
        return
    done = run.all()
    write_json(run.out / "figures.json", run.figures())
    print("finished" if done else "goes on with the next call")


if __name__ == "__main__":
    main()
