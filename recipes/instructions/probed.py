"""Stage 1 by a linear probe of frozen states: what a base knows of questions before any tuning, with and without the words beside it.

    python recipes/instructions/probed.py --base smollm2 --work runs/probed --name smollm2 --out docs/results/routing_probed.json
    python recipes/instructions/probed.py --base default --work runs/probed --name embedded --out docs/results/routing_probed.json

The states of a question (mean and maximum of its tokens, several layers, as a task's readout has them) are computed once and kept in
`--work`; then one multinomial logistic regression, a question for two tasks given once for each. Scored as `routed.py` (authors that were
never learnt from) and `left_out.py` (whole kinds of question left out, and questions written apart) do, the same lines in the same order.
Nothing is chosen here: strength and rule are those of a task's readout and of the router.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import left_out
import numpy as np
import numpy.typing as npt
import routed
import torch
from kinds import FACTS, act
from wording import columns, wanted_of

from trafficllm.core.files import atomic_dir, read_json, write_json
from trafficllm.core.types import NONE
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.router.phrases import phrases
from trafficllm.infer.router.router import Router
from trafficllm.infer.router.wording import Wording, shipped
from trafficllm.lifecycle.adapters.learn_router import answers
from trafficllm.lifecycle.adapters.learn_wording import fit_phrases
from trafficllm.model.adapter import readout
from trafficllm.model.base.load import load_base
from trafficllm.model.tuning.collate import common
from trafficllm.records import prompts
from trafficllm.records.catalog import load_tasks
from trafficllm.records.instructions import Instruction, load

TASKS = sorted(load_tasks())
LABELS = (*TASKS, NONE)
Probabilities = npt.NDArray[np.float64]


def states(engine: Engine, texts: Sequence[str]) -> tuple[torch.Tensor, int]:
    """Pooled states [texts, features] of questions and their tokens, both without what all of them begin with."""
    ids = engine.encoder.prompts([prompts.routing(text) for text in texts])
    with engine.using("") as model:
        layers = readout.layers_of(model)
    labels, width = (TASKS[0], NONE), 2 * len(layers) * int(engine.base.model.config.get_text_config().hidden_size)
    # A readout that says nothing: with it the engine gives its states, and reads what all questions begin with once.
    blank = readout.Readout(labels, layers, common(ids), 0.0, torch.zeros(width, 2), torch.zeros(2))
    engine.use_readouts("", [blank])
    features = engine.score_ids(ids, labels, features=True).features
    if features is None:
        raise ValueError("the engine gave no states")
    return torch.from_numpy(features), sum(map(len, ids)) - len(ids) * blank.first


def kept_states(base: str, place: Path, texts: Sequence[str]) -> torch.Tensor:
    """`states` on a base in its faster precision, from `place` where they are there already."""
    if not place.is_dir():
        engine, begun = Engine(load_base(base)), time.process_time()
        found, tokens = states(engine, texts)
        cost = {"questions": len(texts), "tokens": tokens, "processor_seconds": round(time.process_time() - begun, 1)}
        with atomic_dir(place) as folder:
            np.save(folder / "states.npy", found.numpy().astype(np.float16))
            write_json(folder / "cost.json", cost)
    return torch.from_numpy(np.load(place / "states.npy").astype(np.float32))


def probed(train: torch.Tensor, rows: Sequence[Instruction], asked: torch.Tensor) -> Probabilities:
    """Probabilities [asked, tasks + 1] of a probe fitted on questions with their tasks."""
    pairs = [(k, LABELS.index(label)) for k, row in enumerate(rows) for label in answers(row.tasks, TASKS)]
    at, y = (torch.tensor(side) for side in zip(*pairs, strict=True))
    matrix, bias = readout.logistic(train[at], y, torch.ones(len(LABELS)))
    return np.asarray((asked @ matrix + bias).double().softmax(1).numpy())


class Probe:
    """The lines of every part with their states, and the router's rules without its LLM."""

    def __init__(self, base: str, work: Path, every: int = 1, asked_every: int = 1) -> None:
        exam = {part: left_out.questions(part) for part in ("kind", "later")}
        self.parts = {
            "train": load("train")[::every],
            "heldout": load("heldout")[::asked_every],
            **{part: [row for _, row in exam[part]] for part in exam},
        }
        self.kinds = {part: [kind for kind, _ in exam[part]] for part in exam}
        self.engine = Engine(load_base("default", dtype="float32"))
        whole = kept_states(base, work, [row.text for rows in self.parts.values() for row in rows])
        self.states = dict(zip(self.parts, whole.split([len(rows) for rows in self.parts.values()]), strict=True))

    def routes(self, p: Probabilities, rows: Sequence[Instruction], words: Wording) -> dict[str, Any]:
        """Routes by the probe alone and with words beside it."""
        router = Router(self.engine, "", TASKS, wording=(words,))
        return {"probe": [router._choose(row) for row in p.tolist()], "probe and words": router.combined(p, [row.text for row in rows])}

    def held_out(self) -> dict[str, Any]:
        """Figures on authors that nothing was learnt from, and on the questions written apart, of one probe on all training lines."""
        train, out = self.parts["train"], {}
        asked = [part for part in self.parts if part != "train"]
        every = probed(self.states["train"], train, torch.cat([self.states[part] for part in asked]))
        for part, p in zip(asked, np.split(every, np.cumsum([len(self.parts[part]) for part in asked])[:-1]), strict=True):
            rows = self.parts[part]
            for way, routes in self.routes(p, rows, shipped()).items():
                if part == "heldout":
                    figures = routed.figures(routes, rows)
                else:
                    figures = left_out._scored(left_out.exact(rows, routes), self.kinds[part])
                out.setdefault(way, {})[{"heldout": "held-out authors", "kind": "exam", "later": "exam, later part"}[part]] = figures
        return out

    def kinds_left_out(self) -> dict[str, Any]:
        """As `left_out.left_out`: each fold's styles left out of the probe's and of the words' training, authors of `UNREAD` asked."""
        rows, vectors = self.parts["train"], self.states["train"]
        said, wanted = [phrases(row.text) for row in rows], wanted_of(rows)
        hits: dict[str, list[bool]] = {}
        kinds: list[str] = []
        for styles in left_out.FOLDS:
            train = [k for k, row in enumerate(rows) if row.style not in styles]
            asked = [k for k, row in enumerate(rows) if row.style in styles and row.author in left_out.UNREAD]
            words = fit_phrases([said[k] for k in train], wanted[train], columns())
            p, new = probed(vectors[train], [rows[k] for k in train], vectors[asked]), [rows[k] for k in asked]
            for way, routes in self.routes(p, new, words).items():
                hits.setdefault(way, []).extend(left_out.exact(new, routes))
            kinds += [f"{row.style}, {act(row.tasks, row.text, told=FACTS if row.facts else '')}" for row in new]
            print(styles, {way: round(float(np.mean(one[-len(new) :])), 4) for way, one in hits.items()}, flush=True)
        return {way: left_out._scored(one, kinds) for way, one in hits.items()}


def main() -> None:
    """Score one base and add it to the results file under a name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--name", required=True, help="under which the figures stand")
    parser.add_argument("--work", type=Path, required=True, help="where states are kept")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="learn from every n-th training line")
    parser.add_argument("--asked-every", type=int, default=1, help="ask every n-th line of the held-out authors")
    options = parser.parse_args()
    probe = Probe(options.base, options.work / options.name, options.every, options.asked_every)
    figures = probe.held_out()
    _add(options, probe, figures)
    for way, body in probe.kinds_left_out().items():
        figures[way]["kinds left out"] = body
    _add(options, probe, figures)


def _add(options: argparse.Namespace, probe: Probe, figures: dict[str, Any]) -> None:
    """Put what there is into the results file, and say it."""
    everything = dict(read_json(options.out)) if options.out.is_file() else {}
    cost = read_json(options.work / options.name / "cost.json")
    write_json(options.out, everything | {options.name: {"lines": len(probe.parts["train"]), "cost": cost, **figures}})
    for way, parts in figures.items():
        print(options.name, way, {part: body["accuracy"] for part, body in parts.items()}, flush=True)


if __name__ == "__main__":
    main()
