"""A new task's instructions, learnt by the router without forgetting the old ones.

The instructions are made from the task's title, instruction and labels; the shipped corpus is replayed beside them. The new router goes
live only where held-out authors' questions for the old tasks are answered as well as before, within a point. Beside the LLM the task gets
a column in the wording model (`infer.wording`), from the same instructions; the gate judges both together, as they answer.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.files import slug
from trafficllm.core.sampling import every_nth
from trafficllm.core.types import NONE, ROUTER
from trafficllm.lifecycle.adapters.learn_router import answers, base_facts, by_author, exact
from trafficllm.lifecycle.adapters.results import RouterGate
from trafficllm.records.prompts import routing

if TYPE_CHECKING:
    from trafficllm.core.settings import TuneOptions
    from trafficllm.infer.router.router import Router
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.model.base.load import Base
    from trafficllm.model.tuning.job import TuneData
    from trafficllm.records.catalog import Task
    from trafficllm.records.instructions import Instruction
    from trafficllm.registry.versions import Status, Version

STEPS, TOKENS = 160, 80_000
"""Optimizer steps, and the tokens in them: about half a minute of one thread of the embedded base."""
REPLAYED = 2400
"""Shipped instructions that are replayed, every n-th, so that all authors keep their share."""
WORDED = 8000
"""Shipped questions that the task's wording column is fitted against, every n-th: a linear model can afford more of them."""
HELD_OUT = 400
"""Held-out questions asked before and after, every n-th."""
MARGIN = 0.01
LEAST = 0.5
"""Where no router is live, the base must route this share of held-out questions by itself, or there is nothing to keep."""
RATE = 1e-3
"""Half the rate of a first learning: what is known stays."""
PATTERNS = (
    "what {title} is this?",
    "which {title} do you see in this capture?",
    "run {id} on the attached pcap",
    "{id}",
    "{id} please",
    "use the {id} adapter",
    "tell me the {title} of every flow",
    "label each flow with its {title}",
    "classify these flows by {title}",
    "can you do {title} on this trace",
    "I need {title} for the following traffic",
    "{title}?",
    "give me a {title} verdict",
    "please {title} this capture and say how sure you are",
    "is this {label} or {other}?",
    "does this traffic look like {label}?",
    "find the {label} flows",
    "is there any {label} in here",
    "how many flows are {label}?",
    "could this be {label}, {other} or something else?",
    "was that {label}?",
    "show me everything that is {label}",
)
"""`{label}` and `{other}` are two of the task's labels. Every fourth pattern is kept for validation."""
FILLINGS = 8
"""Texts a pattern with labels yields at most."""


def instructions(task: Task, labels: Sequence[str], *, held: bool = False) -> list[str]:
    """What people may ask of the task; with `held` the patterns that are kept for validation.

    >>> from trafficllm.records.catalog import get_task
    >>> instructions(get_task("MTD"), ["Zeus", "Neris"], held=True)[1]
    'MTD please'
    """
    title = _words(task.instruction or task.title)
    out: dict[str, None] = {}
    for number, pattern in enumerate(PATTERNS):
        if (number % 4 == 0) != held:
            continue
        for k, label in enumerate(labels[:FILLINGS] if "{label}" in pattern else ("",)):
            other = _words(labels[(k + 1) % len(labels)])
            out[pattern.format(id=task.id, title=title, label=_words(label), other=other)] = None
    return list(out)


def _words(text: str) -> str:
    return re.sub(r"[\s_]+", " ", text).strip()


def is_new(task: Task, training: Training) -> bool:
    """Whether what routes here does not know the task yet."""
    live = training.registry.find_live(ROUTER)
    manifest = _bare(training.base) if live is None else live.manifest
    return task.id not in manifest["labels"]


def teach(task: Task, labels: Sequence[str], training: Training) -> RouterGate | None:
    """Teach the router a task; None where it knows the task already, or nothing routes here that could be taught.

    Where no router is live but the base answers questions itself (LEAST), the router that knows the new task is the first one.
    Returns the gate's figures. The task itself is registered already: it stays usable by name. Of `training` the options' seed counts.
    """
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.router.router import Router
    from trafficllm.infer.router.wording import of_version, shipped
    from trafficllm.model.tuning import job as tune
    from trafficllm.records.instructions import load

    base, registry, out = training.base, training.registry, training.workdir
    live = registry.find_live(ROUTER)
    old_manifest = _bare(base) if live is None else dict(live.manifest)
    if not is_new(task, training):
        return None
    training.progress.update("router", 0, None)
    old_tasks = [name for name in old_manifest["labels"] if name != NONE]
    questions, engine = every_nth(load("heldout"), HELD_OUT), Engine(base)
    if live is not None:
        engine.add_adapter("before", live.path)
    word_models = (shipped(),) if live is None else of_version(live.path)
    old = Router.of(engine, "before" if live else "", old_manifest, old_tasks, wording=word_models)
    before_alone, before = _shares(old, questions, old_tasks)
    if live is None and before_alone < LEAST:
        return None
    data = _data(task, labels, old_tasks, every_nth(load("train"), REPLAYED))
    options = _options(live, training.seed)
    report = tune.tune_task(base, data, out, options, training.progress, start_from=live.path if live else None)
    engine.add_adapter("after", out)
    _add_wording(task, labels, every_nth(load("train"), WORDED), out, live)
    new = Router.of(engine, "after", old_manifest, [*old_tasks, task.id], wording=of_version(out))
    after_alone, after = _shares(new, questions, new.tasks)
    routes = [dict(route.tasks) for route in new.stream(instructions(task, labels, held=True))]
    status: Status = "live" if after >= before - MARGIN else "rejected"
    figures = {
        "before": before,
        "after": after,
        "before_alone": before_alone,
        "after_alone": after_alone,
        "new": _share([task.id in row for row in routes]),
        "n": len(questions),
    }
    manifest = {
        **{key: value for key, value in old_manifest.items() if key not in ("files", "version", "task", "routing")},
        "labels": list(data.labels),
        "parent": live.version if live else None,
        "learnt_task": task.id,
        "rows": len(data.answers),
        "seed": training.seed,
        "routing": figures,
        "tuning": report.as_dict(),
        **base_facts(base),
    }
    registry.register(ROUTER, out, manifest, status=status)
    return RouterGate(**figures, live=float(status == "live"))


def _bare(base: Base) -> dict[str, Any]:
    """What a router's manifest would say of the base without an adapter: it is asked for the whole catalogue."""
    from trafficllm.records.catalog import load_tasks

    return {"labels": [*sorted(load_tasks()), NONE], "profile": "strict", "stage": "instruct", **base_facts(base)}


def _data(task: Task, labels: Sequence[str], old_tasks: Sequence[str], replayed: Sequence[Instruction]) -> TuneData:
    """Replayed questions and the new task's, these as often as a usual task's questions occur; validation has patterns of its own."""
    from trafficllm.model.tuning.job import TuneData

    old, old_val = ([(row.text, answer) for row in part for answer in answers(row.tasks, old_tasks)] for part in by_author(replayed))
    mine, held = (instructions(task, labels, held=side) for side in (False, True))
    share = max(1, len(old) // (len(old_tasks) + 1) // len(mine))
    train = [*old, *((text, task.id) for text in mine * share)]
    val = [*old_val, *((text, task.id) for text in held)]
    return TuneData(
        [routing(text) for text, _ in train],
        [answer for _, answer in train],
        (*old_tasks, task.id, NONE),
        [routing(text) for text, _ in val],
        [answer for _, answer in val],
    )


def _options(live: Version | None, seed: int) -> TuneOptions:
    from trafficllm.core.settings import TuneOptions
    from trafficllm.lifecycle.adapters.update import same_shape

    options = TuneOptions(max_steps=STEPS, epochs=100, learning_rate=RATE, looks=3, seed=seed)
    return options if live is None else same_shape(options, live)


def _add_wording(task: Task, labels: Sequence[str], others: Sequence[Instruction], out: Path, live: Version | None) -> None:
    """The task's own column into `out`, beside those that the live router learnt earlier. `others` are what it is not."""
    from trafficllm.infer.router.wording import OWN, write
    from trafficllm.lifecycle.adapters.learn_wording import fit, targets

    if live is not None and (live.path / OWN).is_dir():
        shutil.copytree(live.path / OWN, out / OWN, dirs_exist_ok=True)
    mine = instructions(task, labels)
    answers_of = [*((task.id,) for _ in mine), *(tuple(name for name in row.tasks if name != task.id) for row in others)]
    columns = (task.id,)
    write(fit([*mine, *(row.text for row in others)], targets(answers_of, columns), columns), out / OWN / slug(task.id))


def _shares(router: Router, questions: Sequence[Instruction], tasks: Sequence[str]) -> tuple[float, float]:
    """Share of questions routed to exactly their tasks among `tasks`: by the LLM alone, and with the word model."""
    alone, both = zip(*router.both([row.text for row in questions]), strict=True)
    return _share(exact(questions, alone, tasks)), _share(exact(questions, both, tasks))


def _share(right: Sequence[bool]) -> float:
    return sum(right) / max(len(right), 1)
