"""The whole path on bundled real captures: data, tokens, two stages, results, unseen captures, generation, report."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm import __version__
from trafficllm.core.files import free_space, sha256_file
from trafficllm.core.types import ProgressSink, Silent
from trafficllm.lifecycle.quickstart.stages import Stages, stage_key

if TYPE_CHECKING:
    from trafficllm.core.settings import TuneOptions
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.model.base.load import Base

HERE = Path(__file__).resolve().parent
CAPTURES = HERE.parents[1] / "data" / "captures"
PLAN = tomllib.loads((HERE / "quickstart.toml").read_text(encoding="utf-8"))
TASKS = ("MTD", "EAC")
ROOM = 300_000_000
"""Bytes of free disk the work folder needs: data sets, adapters, an extended model, the report."""


@dataclass(frozen=True, slots=True)
class Run:
    """One quickstart: where it works, with which seed and sizes."""

    workdir: Path
    seed: int
    sizes: Mapping[str, Any]
    stages: Stages
    app: Workspace

    @property
    def base(self) -> Base:
        """The shipped traffic base."""
        return self.app.base

    def key(self, stage: str, **more: Any) -> str:
        """The stage's key: version, seed, sizes, base and what the stage adds."""
        facts = {"base": self.base.manifest.get("base_sha256"), "version": __version__, "seed": self.seed}
        return stage_key(stage=stage, sizes=dict(self.sizes), **facts, **more)

    def options(self, name: str) -> TuneOptions:
        """Tuning options of a stage from the plan."""
        from trafficllm.core.settings import TuneOptions

        return TuneOptions(seed=self.seed, **self.sizes[name])


def run(workdir: Path, *, seed: int = 0, quick: bool = False, progress: ProgressSink | None = None) -> dict[str, Any]:
    """Run the path and return the `quickstart` object of CONTRACTS.md; what is done in `workdir` is reused.

    Nothing but the bundled captures, the shipped base and this machine takes part: no adapter, result or metric is shipped.
    """
    from trafficllm.lifecycle.workspace import Workspace

    free_space(workdir, ROOM)
    sink = progress or Silent()
    size = "quick" if quick else "full"
    home = workdir / size / f"seed{seed}"
    app = Workspace(registry=str(home / "registry"))
    job = Run(home, seed, PLAN[size], Stages(home, sink), app)
    data = {task: _data(job, task, sink) for task in TASKS}
    tokens = _tokens(job)
    family = _family(job, sink)
    routing = _router(job, sink)
    tasks = [_task(job, task, data[task], sink) for task in TASKS]
    generated = _generate(job, sink)
    unseen = _unseen(job, sink)
    return _finish(
        job,
        {
            "size": size,
            "data": data,
            "tasks": tasks,
            "tokens_per_flow": tokens,
            "family": family,
            "routing": routing,
            "unseen": unseen,
            "generated": generated,
            "curves": _curves(job),
        },
    )


def _data(job: Run, task: str, progress: ProgressSink) -> dict[str, Any]:
    """Leak-safe data set of one task; reserved flows are its test part."""
    from trafficllm.records.catalog import get_task
    from trafficllm.records.dataset.dataset import BuildOptions, build_dataset

    def work() -> dict[str, Any]:
        report = build_dataset(
            CAPTURES / task,
            task=get_task(task),
            out=job.workdir / "data" / task,
            options=BuildOptions(seed=job.seed, reserved=CAPTURES / "reserved.csv", cap=job.sizes["cap"]),
            progress=progress,
        )
        return {**report.result().as_dict(), "made": [f"data/{task}"]}

    return dict(job.stages.run(f"data {task}", job.key("data", task=task), work))


def _tokens(job: Run) -> dict[str, float]:
    """Tokens a flow on validation records: the plain base's tokenizer against the extended one."""
    from trafficllm.lifecycle.bases.bases import tokens_per_flow
    from trafficllm.model.base.load import plain_base
    from trafficllm.records.dataset.dataset import load

    def work() -> dict[str, float]:
        records = []
        for task in TASKS:
            dataset = load(job.workdir / "data" / task)
            records += dataset.records(dataset.indices("val"))
        return tokens_per_flow(plain_base(), job.base.path, records).as_dict()

    return dict(job.stages.run("tokens", job.key("tokens"), work))


def _family(job: Run, progress: ProgressSink) -> dict[str, Any]:
    """The extension command on a small fresh random-weight model of another family (GPT-2)."""
    from trafficllm.lifecycle.bases.bases import extend
    from trafficllm.lifecycle.quickstart.fresh_model import write_gpt2

    def work() -> dict[str, Any]:
        base, out = job.workdir / "fresh-gpt2", job.workdir / "fresh-gpt2-traffic"
        write_gpt2(base, seed=job.seed)
        data = job.workdir / "data" / "EAC"
        body = extend(str(base), data, out, size=job.sizes["family_tokens"], seed=job.seed, progress=progress)
        command = f"trafficllm tokenizer extend --base {base.name} --data data/EAC -o {out.name}"
        made = ["fresh-gpt2-traffic"]
        ratio = body.tokens_per_flow.ratio if body.tokens_per_flow else None
        return {"family": "GPT-2", "tokens_added": body.tokens_added, "ratio": ratio, "command": command, "made": made}

    return dict(job.stages.run("extend another family", job.key("family"), work))


def _router(job: Run, progress: ProgressSink) -> dict[str, Any]:
    """Stage 1."""
    from trafficllm.lifecycle.adapters.learn_router import learn_router

    def work() -> dict[str, Any]:
        body = learn_router(
            job.base,
            job.app.registry,
            job.workdir / "tune" / "router",
            options=job.options("router"),
            limit=job.sizes["instructions"],
            held_out=job.sizes["held_out"],
            progress=progress,
        )
        return {**body, "made": ["registry/ROUTER"]}

    return dict(job.stages.run("stage 1", job.key("router"), work))


def _task(job: Run, task: str, data: Mapping[str, Any], progress: ProgressSink) -> dict[str, Any]:
    """Stage 2 of one task: tuned, evaluated on reserved flows beside every baseline, registered."""
    from trafficllm.lifecycle.adapters.learn import register
    from trafficllm.records.catalog import get_task

    def work() -> dict[str, Any]:
        body = register(
            job.workdir / "data" / task,
            task=get_task(task),
            base=job.base,
            registry=job.app.registry,
            options=job.options(task),
            workdir=job.workdir / "tune" / task,
            search_s=job.sizes["search_s"],
            augment=task in job.sizes["augment"],
            progress=progress,
        )
        return {**body, "made": [f"registry/{task}"]}

    key = job.key("task", task=task, data=data["dataset_sha256"])
    body = job.stages.run(f"stage 2 {task}", key, work)
    quality = body["quality"]
    return {
        "task": task,
        "title": get_task(task).title,
        "labels": quality["confusion"]["labels"][:-1],
        "classes": len(quality["confusion"]["labels"]) - 1,
        "quality": quality,
        "baselines": body["baselines"],
        "version": body["version"],
        "dropped": data["dropped"],
        "artefact_masked": [row["field"] for row in data["artefact_masked"]],
        "why": f"{data['split']['why']}; {data['split']['groups']} groups.",
    }


def _generate(job: Run, progress: ProgressSink) -> dict[str, Any]:
    """A generation adapter and a small capture of one class, checked."""
    from trafficllm.lifecycle.adapters.learn_generator import learn_generator
    from trafficllm.lifecycle.generate.requests import Part
    from trafficllm.lifecycle.generate.synthesis import Scenario, generate
    from trafficllm.records.dataset.dataset import load

    wanted = PLAN["generate"]
    out = job.workdir / "generated.pcap"

    def work() -> dict[str, Any]:
        learn_generator(
            job.base,
            load(job.workdir / "data" / wanted["source"]),
            task=job.app.task(wanted["task"]),
            labels=wanted["labels"],
            registry=job.app.registry,
            out=job.workdir / "tune" / wanted["task"],
            options=job.options("generator"),
            progress=progress,
        )
        part = Part(wanted["task"], wanted["label"], job.sizes["generate_flows"])
        body = generate(job.app, Scenario((part,), job.seed), out=out, progress=progress).as_dict()
        prevented = sum(body["prevented"].values())
        return {**body, "prevented_by_place": body["prevented"], "prevented": prevented, "made": [out.name]}

    return dict(job.stages.run("generate", job.key("generate"), work))


def _unseen(job: Run, progress: ProgressSink) -> list[dict[str, Any]]:
    """Two captures nothing was trained on, asked in plain English."""
    listed = tomllib.loads((CAPTURES / "unseen" / "unseen.toml").read_text(encoding="utf-8"))["capture"]
    question = PLAN["question"]

    def work() -> list[dict[str, Any]]:
        return [_ask(job.app, entry, question, progress) for entry in listed]

    hashes = [sha256_file(CAPTURES / entry["file"]) for entry in listed]
    return list(job.stages.run("unseen captures", job.key("unseen", files=hashes, question=question), work))


def _ask(app: Workspace, entry: Mapping[str, Any], question: str, progress: ProgressSink) -> dict[str, Any]:
    """One capture's verdicts. Where the router finds no detection task the answer says so; malware is then asked by name."""
    from trafficllm.core.errors import UsageError
    from trafficllm.lifecycle.analyze.verdicts import start

    path = CAPTURES / entry["file"]
    try:
        analysis = start(app, [path], question=question, progress=progress)
    except UsageError:
        analysis = start(app, [path], task=TASKS[0], progress=progress)
    rows = [row for batch in analysis.batches for row in batch]
    labels = Counter(row["label"] for row in rows)
    return {
        "file": path.name,
        "source": entry["source"],
        "truth": entry["truth"],
        "question": question,
        "route": analysis.route.as_dict() if analysis.route else None,
        "task": ", ".join(analysis.tasks),
        "flows": len(rows),
        "labels": dict(sorted(((k, v) for k, v in labels.items() if k != "unknown"), key=lambda kv: (-kv[1], kv[0]))),
        "unknown": labels["unknown"],
        "confidence": sum(row["confidence"] for row in rows) / max(len(rows), 1),
    }


def _curves(job: Run) -> dict[str, list[list[float]]]:
    """Training loss over seconds of each tuning, from their metrics files."""
    import json

    found = {}
    for name in ("router", *TASKS, PLAN["generate"]["task"]):
        path = job.workdir / "tune" / name / "metrics.jsonl"
        if not path.is_file():
            continue
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found[name] = [[row["seconds"], row["loss"]] for row in rows if "loss" in row and "seconds" in row]
    return found


def _finish(job: Run, body: dict[str, Any]) -> dict[str, Any]:
    from trafficllm.lifecycle.reports.page import write_report

    stages = job.stages
    result = {
        **body,
        "seconds": stages.seconds,
        "reused": stages.reused,
        "next": PLAN["next_steps"],
        "report": str(job.workdir / "report.html"),
    }
    title = "TrafficLLM quickstart" + (" (--quick: far too little training to be good)" if body["size"] == "quick" else "")
    write_report(result, job.workdir / "report.html", title=title, next_steps=PLAN["next_steps"])
    return result
