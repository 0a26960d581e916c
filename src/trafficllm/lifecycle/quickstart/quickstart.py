"""The whole path on bundled real captures: data, tokens, two stages, results, unseen captures, generation, report."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm import __version__
from trafficllm.core.errors import InputError
from trafficllm.core.files import free_space, sha256_file
from trafficllm.core.types import UNKNOWN, ProgressSink, Silent, announce
from trafficllm.lifecycle.quickstart.results import (
    Asked,
    BuiltData,
    Family,
    GeneratedCapture,
    Quickstart,
    QuickstartTask,
    Routing,
    TrainedTask,
    Unseen,
)
from trafficllm.lifecycle.quickstart.stages import Stages, stage_key
from trafficllm.model.results import Tokens

if TYPE_CHECKING:
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.model.base.load import Base

HERE = Path(__file__).resolve().parent
CAPTURES = HERE.parents[1] / "data" / "captures"
PLAN = tomllib.loads((HERE / "quickstart.toml").read_text(encoding="utf-8"))
TASKS = ("MTD", "EAC")
_BEFORE, _AFTER = ("tokens", "extend another family", "stage 1"), ("generate", "unseen captures")
STAGES = (*(f"data {task}" for task in TASKS), *_BEFORE, *(f"stage 2 {task}" for task in TASKS), *_AFTER)
"""The stages in their order."""
ROOM = 300_000_000
"""Bytes of free disk the work folder needs: data sets, adapters, an extended model, the report."""


@dataclass(frozen=True, slots=True)
class Run:
    """One quickstart: where it works, with which seed and sizes."""

    workdir: Path
    seed: int
    sizes: Mapping[str, Any]
    stages: Stages
    workspace: Workspace

    @property
    def base(self) -> Base:
        """The shipped traffic base."""
        return self.workspace.base

    def key(self, stage: str, **more: Any) -> str:
        """The stage's key: version, seed, sizes, base and what the stage adds."""
        facts = {"base": self.base.manifest.get("base_sha256"), "version": __version__, "seed": self.seed}
        return stage_key(stage=stage, sizes=dict(self.sizes), **facts, **more)

    def training(self, name: str, folder: str, **more: Any) -> Training:
        """How a stage trains: its tuning options from the plan, its folder under `tune`."""
        from trafficllm.core.settings import TuneOptions
        from trafficllm.lifecycle.adapters.training import Training

        options = TuneOptions(seed=self.seed, **self.sizes[name])
        return Training(self.base, self.workspace.registry, self.workdir / "tune" / folder, options, self.stages.progress, **more)


def run(workdir: Path, *, seed: int = 0, quick: bool = False, progress: ProgressSink | None = None) -> Quickstart:
    """Run the path (contract: `quickstart`); what is done in `workdir` is reused.

    Nothing but the bundled captures, the shipped base and this machine takes part: no adapter, result or metric is shipped.
    """
    from trafficllm.lifecycle.workspace import Workspace

    free_space(workdir, ROOM)
    size = "quick" if quick else "full"
    home = workdir / size / f"seed{seed}"
    workspace = Workspace(registry=str(home / "registry"), shipped=False)
    job = Run(home, seed, PLAN[size], Stages(home, progress or Silent()), workspace)
    announce(job.stages.progress, *STAGES)
    data = {task: _data(job, task) for task in TASKS}
    tokens = _tokens(job)
    family = _family(job)
    routing = _router(job)
    tasks = [_task(job, task, data[task]) for task in TASKS]
    generated = _generate(job)
    unseen = _unseen(job)
    result = Quickstart(
        size=size,
        data=data,
        tasks=tasks,
        tokens_per_flow=tokens,
        family=family,
        routing=routing,
        unseen=unseen,
        generated=generated,
        curves=_curves(job),
        seconds=job.stages.seconds,
        reused=job.stages.reused,
        next=PLAN["next_steps"],
        report=str(home / "report.html"),
    )
    _report(result)
    return result


def _data(job: Run, task: str) -> BuiltData:
    """Leak-safe data set of one task; reserved flows are its test part."""
    from trafficllm.records.catalog import get_task
    from trafficllm.records.dataset.dataset import BuildOptions, build_dataset

    def work() -> BuiltData:
        report = build_dataset(
            CAPTURES / task,
            task=get_task(task),
            out=job.workdir / "data" / task,
            options=BuildOptions(seed=job.seed, reserved=CAPTURES / "reserved.csv", cap=job.sizes["cap"]),
            progress=job.stages.progress,
        )
        return BuiltData.of(report.result(), made=[f"data/{task}"])

    return job.stages.run(f"data {task}", job.key("data", task=task), BuiltData, work)


def _tokens(job: Run) -> Tokens:
    """Tokens a flow on validation records: the plain base's tokenizer against the extended one."""
    from trafficllm.lifecycle.bases.bases import tokens_per_flow
    from trafficllm.model.base.load import plain_base
    from trafficllm.records.dataset.dataset import load

    def work() -> Tokens:
        records = []
        for task in TASKS:
            dataset = load(job.workdir / "data" / task)
            records += dataset.records(dataset.indices("val"))
        return tokens_per_flow(plain_base(), job.base.path, records)

    return job.stages.run("tokens", job.key("tokens"), Tokens, work)


def _family(job: Run) -> Family:
    """The extension command on a small fresh random-weight model of another family (GPT-2)."""
    from trafficllm.lifecycle.bases.bases import extend
    from trafficllm.lifecycle.quickstart.fresh_model import write_gpt2

    def work() -> Family:
        base, out = job.workdir / "fresh-gpt2", job.workdir / "fresh-gpt2-traffic"
        write_gpt2(base, seed=job.seed)
        data = job.workdir / "data" / "EAC"
        answer = extend(str(base), data, out, size=job.sizes["family_tokens"], seed=job.seed, progress=job.stages.progress)
        return Family(
            family="GPT-2",
            tokens_added=answer.tokens_added,
            ratio=answer.tokens_per_flow.ratio if answer.tokens_per_flow else None,
            command=f"trafficllm tokenizer extend --base {base.name} --data data/EAC -o {out.name}",
            made=["fresh-gpt2-traffic"],
        )

    return job.stages.run("extend another family", job.key("family"), Family, work)


def _router(job: Run) -> Routing:
    """Stage 1."""
    from trafficllm.lifecycle.adapters.learn_router import learn_router

    def work() -> Routing:
        report = learn_router(job.training("router", "router"), limit=job.sizes["instructions"], held_out=job.sizes["held_out"])
        return Routing.of(report, made=["registry/ROUTER"])

    return job.stages.run("stage 1", job.key("router"), Routing, work)


def _task(job: Run, task: str, data: BuiltData) -> QuickstartTask:
    """Stage 2 of one task: tuned, evaluated on reserved flows beside every baseline, registered."""
    from trafficllm.lifecycle.adapters.background import chosen, read_for
    from trafficllm.lifecycle.adapters.learn import register
    from trafficllm.records.catalog import get_task
    from trafficllm.records.dataset.dataset import load

    def work() -> TrainedTask:
        training = job.training(task, task, search_s=job.sizes["search_s"])
        data = load(job.workdir / "data" / task)
        beside = read_for(data, (), chosen(get_task(task), job.workspace.config, None), progress=job.stages.progress)
        answer = register(data, training, task=get_task(task), augment=task in job.sizes["augment"], background=beside)
        return TrainedTask.of(answer, made=[f"registry/{task}"])

    trained = job.stages.run(f"stage 2 {task}", job.key("task", task=task, data=data.dataset_sha256), TrainedTask, work)
    quality = trained.quality
    if quality is None:
        raise InputError("input.task", f"task {task} gives no verdicts", input=task)
    return QuickstartTask(
        task=task,
        title=get_task(task).title,
        labels=quality.confusion.labels[:-1],
        classes=len(quality.confusion.labels) - 1,
        quality=quality,
        baselines=trained.baselines,
        version=trained.version,
        dropped=data.dropped,
        artefact_masked=[row.field for row in data.artefact_masked],
        why=f"{data.split.why}; {data.split.groups} groups.",
    )


def _generate(job: Run) -> GeneratedCapture:
    """A generation adapter and a small capture of one class, checked."""
    from trafficllm.lifecycle.adapters.learn_generator import learn_generator
    from trafficllm.lifecycle.generate.requests import Part
    from trafficllm.lifecycle.generate.synthesis import Scenario, generate
    from trafficllm.records.dataset.dataset import load

    wanted = PLAN["generate"]
    out = job.workdir / "generated.pcap"

    def work() -> GeneratedCapture:
        dataset, training = load(job.workdir / "data" / wanted["source"]), job.training("generator", wanted["task"])
        learn_generator(dataset, training, task=job.workspace.task(wanted["task"]), labels=wanted["labels"])
        part = Part(wanted["task"], wanted["label"], job.sizes["generate_flows"])
        answer = generate(job.workspace, Scenario((part,), job.seed), out=out, progress=job.stages.progress)
        places = answer.prevented
        return GeneratedCapture.of(answer, prevented=sum(places.values()), prevented_by_place=places, made=[out.name])

    return job.stages.run("generate", job.key("generate"), GeneratedCapture, work)


def _unseen(job: Run) -> list[Unseen]:
    """Two captures nothing was trained on, asked in plain English."""
    listed = tomllib.loads((CAPTURES / "unseen" / "unseen.toml").read_text(encoding="utf-8"))["capture"]
    question = PLAN["question"]

    def work() -> Asked:
        return Asked(captures=[_ask(job, entry, question) for entry in listed])

    hashes = [sha256_file(CAPTURES / entry["file"]) for entry in listed]
    return job.stages.run("unseen captures", job.key("unseen", files=hashes, question=question), Asked, work).captures


def _ask(job: Run, entry: Mapping[str, Any], question: str) -> Unseen:
    """One capture's verdicts. Where the router finds no detection task the answer says so; malware is then asked by name."""
    from trafficllm.core.errors import UsageError
    from trafficllm.lifecycle.analyze.verdicts import start

    path = CAPTURES / entry["file"]
    try:
        analysis = start(job.workspace, [path], question=question, progress=job.stages.progress)
    except UsageError:
        analysis = start(job.workspace, [path], task=TASKS[0], progress=job.stages.progress)
    rows = [row for batch in analysis.batches for row in batch]
    labels = Counter(row["label"] for row in rows)
    return Unseen(
        file=path.name,
        source=entry["source"],
        truth=entry["truth"],
        question=question,
        route=analysis.route,
        task=", ".join(analysis.tasks),
        flows=len(rows),
        labels=dict(sorted(((k, v) for k, v in labels.items() if k != UNKNOWN), key=lambda kv: (-kv[1], kv[0]))),
        unknown=labels[UNKNOWN],
        confidence=sum(row["confidence"] for row in rows) / max(len(rows), 1),
    )


def _curves(job: Run) -> dict[str, list[list[float]]]:
    """Training loss over seconds of each tuning, from their metrics files."""
    import json

    curves = {}
    for name in ("router", *TASKS, PLAN["generate"]["task"]):
        path = job.workdir / "tune" / name / "metrics.jsonl"
        if not path.is_file():
            continue
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        curves[name] = [[row["seconds"], row["loss"]] for row in rows if "loss" in row and "seconds" in row]
    return curves


def _report(result: Quickstart) -> None:
    from trafficllm.lifecycle.reports.page import write_report

    title = "TrafficLLM quickstart" + (" (--quick: far too little training to be good)" if result.size == "quick" else "")
    write_report(result.as_dict(), Path(result.report), title=title, next_steps=PLAN["next_steps"])
