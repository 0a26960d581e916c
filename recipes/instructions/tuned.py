"""Stage 1 tuned on any base, an adapter of low rank: what `tune instruct` learns from every n-th training question, with words and without.

    python recipes/instructions/tuned.py --base smollm2 --name smollm2 --work runs/tuned --out docs/results/routing_probed.json --every 4
    python recipes/instructions/tuned.py --base default --name shipped --adapter ADAPTER --dtype float32 --out ...  # tune nothing

Learnt with the product's own tuner, which goes on where it was stopped; one training author in eight is its validation part, as in
`learn_router`, and is left unread: the last weights are kept. What all questions begin with (a chat template's system message, half of
SmolLM2's tokens) is read once a step, with its gradient, and not once a row: the loss is the same, a step costs half.

Scored as `probed.py` does: held-out authors (`--asked-every 4` gives the probe's lines), and the questions written apart. Kinds of
question left out would need a tuning a fold, so they are not here. Nothing is chosen on what is asked: the learning rate is that of the
shipped router, and of the language comparison.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import left_out
import routed
import torch

from trafficllm.core.files import read_json, write_json
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import Prompt, Silent
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.router.router import Route, Router
from trafficllm.infer.router.wording import shipped
from trafficllm.lifecycle.adapters.learn_router import exact, instruct_data
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tuning import run
from trafficllm.model.tuning.collate import common
from trafficllm.model.tuning.encode import Encoder
from trafficllm.model.tuning.job import tune_instruct
from trafficllm.records.catalog import load_tasks
from trafficllm.records.instructions import Instruction, load

KEY = "tuned"
"""Of the results file: the tuned routers by name, beside the probes."""
TASKS = sorted(load_tasks())
WAYS = ("tuned", "tuned and words")


def opened(name: str, dtype: str) -> Base:
    """A base, its last layer fed whole blocks: of a slice torch would copy the output matrix once a row."""
    base = load_base(name, dtype=dtype)
    base.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
    return base


class Shared:
    """While a run lasts, rows come without what all of them begin with, and the model reads that once a step and copies its keys and values
    to every row."""

    def __init__(self, base: Base, prefix: Sequence[int]) -> None:
        self.model, self.prefix, self.whole = base.model, list(prefix), base.model.forward

    def __enter__(self) -> None:
        self.model.forward, run.Encoder = self.forward, functools.partial(_Cut, self.prefix)  # type: ignore[misc, assignment]

    def __exit__(self, *_: object) -> None:
        self.model.forward, run.Encoder = self.whole, Encoder  # type: ignore[misc]

    def forward(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, **rest: Any) -> Any:
        """As the model's own over prefix and rows; `position_ids` count from the prefix's end."""
        rows, size = len(input_ids), len(self.prefix)
        begun = self.whole(input_ids=input_ids.new_tensor([self.prefix]), use_cache=True, logits_to_keep=1).past_key_values
        begun.batch_repeat_interleave(rows)
        mask = torch.cat([attention_mask.new_ones(rows, size), attention_mask], dim=1)
        return self.whole(input_ids=input_ids, attention_mask=mask, position_ids=position_ids + size, past_key_values=begun, **rest)


class _Cut(Encoder):
    """An encoder whose prompts come without a prefix that all of them have."""

    def __init__(self, prefix: Sequence[int], tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.prefix = list(prefix)

    def prompts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        rows = super().prompts(prompts)
        if any(row[: len(self.prefix)] != self.prefix for row in rows):
            raise ValueError("a question does not begin as all others do")
        return [row[len(self.prefix) :] for row in rows]


def tune(base: Base, place: Path, every: int, options: TuneOptions) -> dict[str, Any]:
    """What a router was learnt from and cost; its adapter lies in `place` afterwards."""
    lines = load("train")[::every]
    data, begun = instruct_data(TASKS, lines), time.process_time()
    prefix = _prefix(base, data.prompts)
    with Shared(base, prefix):
        report = tune_instruct(base, data, place, options, Silent())
    facts = {key: getattr(report, key) for key in ("steps", "tokens", "trainable", "precision")}
    # What a run took stands beside its adapter: asking again must not lose it.
    if not report.reused:
        spent = {"resumed_from": report.resumed_from, "processor_seconds": round(time.process_time() - begun, 1)}
        kept = options.model_dump(include={"r", "lora_alpha", "learning_rate", "batch_tokens", "epochs", "max_steps", "seed"})
        learnt = {"lines": len(lines), "rows": len(data.answers), "shared_tokens": len(prefix), "options": kept, "tuning": facts | spent}
        write_json(place / "learnt.json", learnt)
    return dict(read_json(place / "learnt.json"))


def _prefix(base: Base, asked: Sequence[Prompt]) -> list[int]:
    ids = Encoder(base.tokenizer).prompts(asked)
    return ids[0][: common(ids)]


def judged(base: Base, adapter: Path, asked_every: int, *, whole: bool) -> dict[str, Any]:
    """Figures of the adapter alone and with words, on each part of what is asked."""
    engine = Engine(base)
    engine.add_adapter("tuned", adapter)
    router = Router(engine, "tuned", TASKS, wording=(shipped(),))
    every = load("heldout")
    parts = {"held-out authors": every[::asked_every], **({"held-out authors, all lines": every} if whole else {})}
    routes = {name: _routes(router, rows) for name, rows in parts.items()}
    out = {way: {name: routed.figures(routes[name][way], rows) for name, rows in parts.items()} for way in WAYS}
    for part, name in (("kind", "exam"), ("later", "exam, later part")):
        kinds, rows = zip(*left_out.questions(part), strict=True)
        for way, found in _routes(router, rows).items():
            out[way][name] = left_out._scored(exact(rows, found), kinds)
    return out


def _routes(router: Router, rows: Sequence[Instruction]) -> dict[str, Sequence[Route]]:
    alone, heard = zip(*router.both([row.text for row in rows]), strict=True)
    return dict(zip(WAYS, (alone, heard), strict=True))


def main() -> None:
    """Tune one base where that is not done, score it and add it to the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--name", required=True, help="under which the figures stand")
    parser.add_argument("--work", type=Path, default=Path("runs/tuned"), help="where adapter and checkpoints are kept")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="of the base")
    parser.add_argument("--every", type=int, default=2, help="learn from every n-th training line")
    parser.add_argument("--asked-every", type=int, default=4, help="score every n-th line of the held-out authors, as the probe was")
    parser.add_argument("--whole", action="store_true", help="score all of their lines too")
    parser.add_argument("--adapter", type=Path, help="score this one and tune nothing")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--steps", type=int, help="at most; for trying it out")
    asked = parser.parse_args()
    base, place = opened(asked.base, asked.dtype), asked.adapter or asked.work / asked.name
    if asked.adapter:
        learnt: dict[str, Any] = {"adapter": asked.adapter.parent.name}
    else:
        options = {"learning_rate": asked.rate, "epochs": asked.epochs, "max_steps": asked.steps}
        learnt = tune(base, place, asked.every, TuneOptions(**options, looks=0, save_steps=50))
    figures = judged(base, place, asked.asked_every, whole=asked.whole)
    everything = dict(read_json(asked.out)) if asked.out.is_file() else {}
    routers = everything.get(KEY, {}) | {asked.name: {**learnt, **figures}}
    write_json(asked.out, everything | {KEY: routers})
    for way, parts in figures.items():
        print(asked.name, way, {part: body["accuracy"] for part, body in parts.items()}, flush=True)


if __name__ == "__main__":
    main()
