"""Stage 1: the router's adapter, learnt from the instruction corpus and scored on authors it never read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trafficllm.core.files import sha256_bytes
from trafficllm.core.metrics import auroc
from trafficllm.core.sampling import every_nth
from trafficllm.core.types import NONE, ROUTER
from trafficllm.lifecycle.adapters.results import RouterReport

if TYPE_CHECKING:
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.model.base.load import Base
    from trafficllm.model.tuning.job import TuneData
    from trafficllm.records.instructions import Instruction

_VALIDATION_SHARE = 8
"""One author in eight of the training part is kept for validation: a router that knows only its authors' habits is not kept."""


def by_author(instructions: Sequence[Instruction]) -> tuple[list[Instruction], list[Instruction]]:
    """Training and validation instructions, parted by author."""
    authors = sorted({row.author for row in instructions})
    held = set(authors[::_VALIDATION_SHARE])
    train = [row for row in instructions if row.author not in held]
    return train, [row for row in instructions if row.author in held]


def instruct_data(tasks: Collection[str], rows: Sequence[Instruction]) -> TuneData:
    """Questions with their task, or "none"; a question for two tasks is given once for each, so that its probability is split.

    Validation has authors of its own.
    """
    from trafficllm.model.tuning.job import TuneData
    from trafficllm.records.prompts import routing

    train, val = ([(row.text, answer) for row in part for answer in answers(row.tasks, tasks)] for part in by_author(rows))
    return TuneData(
        [routing(text) for text, _ in train],
        [answer for _, answer in train],
        (*sorted(tasks), NONE),
        [routing(text) for text, _ in val],
        [answer for _, answer in val],
    )


def answers(wanted: Sequence[str], tasks: Collection[str]) -> list[str]:
    """The labels of a question that asks for the tasks `wanted` where only `tasks` can be routed to."""
    return [name for name in wanted if name in tasks] or [NONE]


def learn_router(training: Training, *, limit: int | None = None, held_out: int | None = None) -> RouterReport:
    """Tune stage 1, register it as the live router and return its figures on held-out authors.

    `limit` bounds the training instructions, `held_out` the scored ones (every n-th is taken). Figures are with the word model, as
    users get them; those of the LLM `alone` stand beside them.
    """
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.router.router import Router
    from trafficllm.infer.router.wording import shipped
    from trafficllm.model.tuning.job import tune_instruct
    from trafficllm.records.catalog import load_tasks
    from trafficllm.records.instructions import load

    base, out = training.base, training.workdir
    instructions = every_nth(load("train"), limit)
    data = instruct_data(load_tasks(), instructions)
    report = tune_instruct(base, data, out, training.options, training.progress)
    engine = Engine(base)
    engine.add_adapter(ROUTER, out)
    router = Router(engine, ROUTER, data.labels[:-1], wording=(shipped(),))
    held = every_nth(load("heldout"), held_out)
    alone, both = zip(*router.both([row.text for row in held]), strict=True)
    figures, bare = _figures(held, both), _figures(held, alone)
    figures["alone"] = {key: bare[key] for key in ("accuracy", "single_accuracy", "none_auroc")}
    manifest = {
        "task": ROUTER,
        "labels": list(data.labels),
        "profile": "strict",
        "stage": "instruct",
        "prompt_sha256": sha256_bytes(repr(data.prompts[0]).encode()),
        "data_sha256": sha256_bytes("\n".join(f"{row.text}\t{row.tasks}" for row in instructions).encode()),
        "rows": len(data.answers),
        "seed": training.seed,
        "routing": {key: figures[key] for key in ("accuracy", "majority", "none_auroc", "n", "alone")},
        "tuning": report.as_dict(),
        **base_facts(base),
    }
    version = training.registry.register(ROUTER, out, manifest, status="live")
    return RouterReport(
        **figures, rows=len(data.answers), seconds=report.seconds, tokens_per_second=report.tokens_per_second, version=version.version
    )


def base_facts(base: Base) -> dict[str, Any]:
    """What an adapter's manifest says of the base it was made on."""
    from trafficllm.records.codec.units import codec_hash

    keys = ("base_sha256", "tokenizer_sha256")
    return {**{key: base.manifest.get(key) for key in keys}, "codec_hash": codec_hash(), "base": base.path.name}


def exact(held: Sequence[Instruction], routes: Sequence[Any], tasks: Collection[str] | None = None) -> list[bool]:
    """Whether each question was routed to its tasks, all of them and no other; with `tasks`, of those alone."""
    wanted = [set(row.tasks) if tasks is None else set(row.tasks) & set(tasks) for row in held]
    return [{name for name, _ in route.tasks} == want for want, route in zip(wanted, routes, strict=True)]


def _figures(held: Sequence[Instruction], routes: Sequence[Any]) -> dict[str, Any]:
    right = exact(held, routes)
    none, foreign = np.array([route.none for route in routes]), np.array([not row.tasks for row in held], dtype=bool)
    commonest = Counter(frozenset(row.tasks) for row in held).most_common(1)[0][1] if held else 0
    single = [k for k, row in enumerate(held) if len(row.tasks) == 1]
    return {
        "n": len(held),
        "accuracy": sum(right) / max(len(right), 1),
        "single_accuracy": sum(right[k] for k in single) / max(len(single), 1),
        "majority": commonest / max(len(held), 1),
        "none_auroc": auroc(none[foreign], none[~foreign]),
        "by_style": _by_style(held, right),
        "examples": [{"question": held[k].text, **routes[k].row()} for k in _examples(held, right)],
    }


def _by_style(held: Sequence[Instruction], right: Sequence[bool]) -> dict[str, float]:
    hits: dict[str, list[bool]] = {}
    for row, hit in zip(held, right, strict=True):
        hits.setdefault(row.style, []).append(hit)
    return {style: sum(answered) / len(answered) for style, answered in sorted(hits.items())}


def _examples(held: Sequence[Instruction], right: Sequence[bool]) -> list[int]:
    """Six questions spread over the set, two wrong ones among them where there are any."""
    wrong = [k for k, hit in enumerate(right) if not hit and len(held[k].text) < 160]
    good = [k for k, hit in enumerate(right) if hit and len(held[k].text) < 160]
    return sorted(good[:: max(1, len(good) // 4)][:4] + wrong[:: max(1, len(wrong) // 2)][:2])
