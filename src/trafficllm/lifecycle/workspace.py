"""The application layer: what the command line, Python and the server share.

It opens a base, a registry and the task catalogue when they are first needed, and gives plain values back.
Rooms are imported inside methods: listing adapters must not load torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.settings import Config, load_config
from trafficllm.core.types import FlowMeta, FlowStream, ProgressSink, Record, Silent
from trafficllm.lifecycle.adapters.learn_router import ROUTER

if TYPE_CHECKING:
    from trafficllm.capture.files.read import Skipped
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.model.base.load import Base
    from trafficllm.records.catalog import Task
    from trafficllm.registry.store import Registry
    from trafficllm.registry.versions import Version

UNKNOWN = "unknown"
_BAD = frozenset({"malicious", "attack", "botnet"})


def registry_root(name: str = "", config: Config | None = None) -> Path:
    """Where adapters live: the option, TRAFFICLLM_REGISTRY, the configuration, the user's data folder, a quickstart's here."""
    chosen = name or os.environ.get("TRAFFICLLM_REGISTRY", "") or (config.registry if config else "")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    mine = Path(platformdirs.user_data_dir("trafficllm")) / "registry"
    made = quickstart_registry(Path())
    return made if made is not None and not mine.is_dir() else mine


def quickstart_registry(folder: Path) -> Path | None:
    """The adapters that a quickstart in this folder made, if any: what answers until there is a registry of one's own."""
    found = [path for size in ("full", "quick") for path in sorted(folder.glob(f"work/{size}/seed*/registry"))]
    return found[0] if found else None


def base_name(name: str, config: Config | None = None) -> str:
    """The base asked for: the option, TRAFFICLLM_BASE, the configuration, or the shipped one."""
    return name or os.environ.get("TRAFFICLLM_BASE", "") or (config.base if config else "default")


@dataclass(frozen=True, slots=True)
class Analysis:
    """Verdicts on their way: `batches` of rows (contract: `analyze`), the tasks that were chosen and why."""

    tasks: tuple[str, ...]
    route: Mapping[str, Any] | None
    batches: Iterator[list[dict[str, Any]]]
    umbrellas: Mapping[str, Callable[[str], str | None]] = field(default_factory=dict)
    labels: frozenset[str] = frozenset()
    counts: Callable[[], dict[str, Any]] = dict

    def names(self, row: Mapping[str, Any]) -> set[str]:
        """What a row can be asked for by: its label and the umbrella answer above it."""
        above = self.umbrellas[row["task"]](row["label"])
        return {str(row["label"]), *([above] if above else [])}

    def severity(self, row: Mapping[str, Any]) -> int:
        """0 where nothing is to be noted, 1 for what is malicious, 2 for an unknown flow of a task that knows malicious ones."""
        if self.names(row) & _BAD:
            return 1
        return 2 if row["label"] == UNKNOWN and self.labels & _BAD else 0

    def check_labels(self, asked: Sequence[str]) -> None:
        """Refuse a verdict that these tasks can never give: a typo in `--fail-on` must not pass for good news."""
        import difflib

        for label in asked:
            if label not in self.labels:
                near = difflib.get_close_matches(label, sorted(self.labels), n=1, cutoff=0.0)
                raise UsageError(
                    "usage.label",
                    f"no verdict of {', '.join(self.tasks)} is '{label}'",
                    input=label,
                    hint=f"did you mean '{near[0]}'?" if near else "",
                )


class Application:
    """One configured TrafficLLM: a base, a registry, a catalogue.

    >>> Application().adapters()["adapters"][0]
    {'task': 'EAC', 'version': 'v0001', 'status': 'live', ...}
    """

    def __init__(
        self, *, base: str = "", registry: str = "", extra_tasks: Sequence[Path] = (), config: Path | Config | None = None
    ) -> None:
        self.config = config if isinstance(config, Config) else load_config(config)
        self.base_name = base_name(base, self.config)
        self.registry_root = registry_root(registry, self.config)
        self.extra_tasks = tuple(extra_tasks)
        self._resident: dict[str, str] = {}

    @cached_property
    def registry(self) -> Registry:
        """The adapter registry."""
        from trafficllm.registry.store import Registry

        return Registry(self.registry_root)

    @cached_property
    def base(self) -> Base:
        """The base model and tokenizer, loaded when first asked for."""
        from trafficllm.model.base.load import load_base

        return load_base(self.base_name)

    @cached_property
    def engine(self) -> Engine:
        """The scoring engine on the base."""
        from trafficllm.infer.engine.engine import Engine

        return Engine(self.base)

    # Tasks

    def tasks(self) -> dict[str, Task]:
        """The catalogue, with the tasks that live adapters brought along."""
        from trafficllm.records.catalog import Task, load_tasks

        known = load_tasks(self.extra_tasks)
        for name in self.registry.tasks():
            live = self.registry.find_live(name)
            if name not in known and name != ROUTER and live is not None and "task_definition" in live.manifest:
                known[name] = Task.model_validate(live.manifest["task_definition"])
        return known

    def task(self, name: str) -> Task:
        """One task by id; UsageError with a suggestion."""
        from trafficllm.records.catalog import get_task

        known = self.tasks()
        return known.get(name) or known.get(name.upper()) or get_task(name, self.extra_tasks)

    def task_list(self) -> dict[str, Any]:
        """Body of `task list`."""
        rows = []
        for task in self.tasks().values():
            live = self.registry.find_live(task.id)
            labels = list(live.manifest.get("labels", task.labels)) if live else list(task.labels)
            kept = {"id": task.id, "title": task.title, "kind": task.kind, "granularity": task.granularity}
            rows.append({**kept, "labels": labels, "live": live.version if live else None})
        return {"tasks": rows}

    def task_show(self, name: str) -> dict[str, Any]:
        """Body of `task show`."""
        task = self.task(name)
        live = self.registry.find_live(task.id)
        return {**task.model_dump(mode="json"), "live": live.version if live else None}

    # Adapters

    def adapters(self) -> dict[str, Any]:
        """Body of `adapter list`."""
        rows = []
        for version in self.registry.list():
            quality = version.manifest.get("quality") or {}
            rows.append({**version.as_dict(), "macro_f1": quality.get("macro_f1"), "path": str(version.path)})
        return {"registry": str(self.registry_root), "adapters": rows}

    def adapter(self, task: str, version: str = "") -> dict[str, Any]:
        """Body of `adapter show`."""
        found = self.registry.show(task, version) if version else self.registry.live(task)
        return {**found.as_dict(), "path": str(found.path), "manifest": dict(found.manifest)}

    def promote(self, task: str, version: str) -> dict[str, Any]:
        """Make a version live."""
        return self._version_body(self.registry.promote(task, version))

    def rollback(self, task: str) -> dict[str, Any]:
        """Make the previously live version live again."""
        return self._version_body(self.registry.rollback(task))

    def _version_body(self, version: Version) -> dict[str, Any]:
        manifest = version.manifest
        return {**version.as_dict(), **{key: manifest.get(key) for key in ("quality", "baselines")}}

    def register(
        self,
        folder: Path,
        task: str,
        *,
        profile: str = "",
        seed: int = 0,
        max_seconds: float | None = None,
        trained: Path | None = None,
        progress: ProgressSink | None = None,
    ) -> dict[str, Any]:
        """Captures or a data set -> a live, evaluated adapter (contract: `adapter register`); `trained` is one made elsewhere."""
        from trafficllm.lifecycle.adapters.register import register

        return register(
            self, folder, task, profile=profile, seed=seed, max_seconds=max_seconds, trained=trained, progress=progress or Silent()
        )

    def update(
        self, folder: Path, task: str, *, seed: int = 0, max_seconds: float | None = None, progress: ProgressSink | None = None
    ) -> dict[str, Any]:
        """New captures into a live task (contract: `adapter update`); GateError where its gate refused them."""
        from trafficllm.lifecycle.adapters.register import update

        return update(self, folder, task, seed=seed, max_seconds=max_seconds, progress=progress or Silent())

    def verify(self, task: str = "") -> dict[str, Any]:
        """Body of `adapter verify`; ArtifactError with every difference where a version is not as it was registered."""
        from trafficllm.lifecycle.adapters.upkeep import verify

        return verify(self.registry, self.task(task).id if task else None)

    def export(self, task: str, out: Path, *, version: str = "", merged: bool = False) -> dict[str, Any]:
        """Body of `adapter export`: a folder that stock PEFT loads, or the base with the adapter merged in."""
        from trafficllm.lifecycle.adapters.upkeep import export

        return export(self, task, out, version=version, merged=merged)

    def gc(self, task: str = "", *, keep: int = 3) -> dict[str, Any]:
        """Body of `adapter gc`: versions removed, all but the live one, the last `keep` and the last `keep` live ones."""
        chosen = self.task(task).id if task else None
        return {"registry": str(self.registry_root), "removed": list(self.registry.gc(chosen, keep=keep))}

    def evaluate(
        self, data: Path | Sequence[Path], *, adapter: Path | None = None, progress: ProgressSink | None = None, **options: Any
    ) -> dict[str, Any]:
        """Adapters' score on a data set's test part (contract: `evaluate run`); `options`: see `lifecycle.evaluation`."""
        from trafficllm.lifecycle.studies.run import evaluate

        folders = [data] if isinstance(data, Path) else list(data)
        adapters = options.pop("adapters", [adapter] if adapter else [])
        return evaluate(self, folders, adapters=adapters, progress=progress or Silent(), **options)

    def load(self, task: str) -> Version:
        """The live version of a task, checked against the base, its adapter resident in the engine."""
        from trafficllm.records.codec.units import codec_hash
        from trafficllm.registry import fit

        version = self.registry.live(task)
        fit.check(version.manifest, self.base.manifest, codec_hash())
        if self._resident.get(task) != version.version:
            self.engine.add_adapter(task, version.path)
            self._resident[task] = version.version
        return version

    # Questions

    def route(self, questions: Sequence[str], *, wording: bool = True) -> list[dict[str, Any]]:
        """Which tasks each question asks for (contract: `task route`); without `wording` the model answers alone."""
        version = self._router_version()
        from trafficllm.infer.router.router import Router
        from trafficllm.infer.router.wording import of_version

        heard = of_version(version.path) if wording else ()
        return [found.row() for found in Router.of(self.engine, ROUTER, version.manifest, wording=heard).stream(questions)]

    def _router_version(self) -> Version:
        if self.registry.find_live(ROUTER) is None:
            hint = "`trafficllm quickstart` makes a router; or name the task with --task"
            raise ArtifactError("artifact.no_router", "no router adapter is registered", input=str(self.registry_root), hint=hint)
        return self.load(ROUTER)

    # Verdicts

    def analyze(
        self,
        paths: Sequence[str | Path],
        *,
        task: str = "",
        question: str = "",
        explain: bool = False,
        progress: ProgressSink | None = None,
        flows: FlowStream | None = None,
        skipped: Skipped | None = None,
    ) -> Analysis:
        """Verdicts for every flow of the captures, by the task that was named or that the question asks for.

        `flows` stand for captures that were read elsewhere (the server reads uploads in another process). With `skipped`
        files among several that cannot be read are left out instead of raised.
        """
        from trafficllm.lifecycle.analyze.verdicts import start

        return start(
            self, paths, task=task, question=question, explain=explain, progress=progress or Silent(), flows=flows, skipped=skipped
        )

    def judge(self, rows: Sequence[tuple[Record, FlowMeta]], *, task: str = "", question: str = "") -> list[dict[str, Any]]:
        """Verdicts of raw records that came without a capture (traffic pasted into a chat)."""
        from trafficllm.lifecycle.analyze.verdicts import judge

        return judge(self, rows, task=task, question=question)

    # Captures

    def generate(
        self,
        task: str,
        label: str,
        *,
        flows: int,
        seed: int,
        out: Path,
        temperature: float = 1.0,
        mix: Sequence[str] = (),
        question: str = "",
        start: int | None = None,
        duration: int | None = None,
        progress: ProgressSink | None = None,
    ) -> dict[str, Any]:
        """Write a valid synthetic capture (contract: `generate`): one label, a mix of labels, or what a question asks for.

        `start` ns since the epoch, `duration` ns over which flows begin. Errors: see `lifecycle.synthesis`.
        """
        from trafficllm.lifecycle.generate import synthesis

        parts = synthesis.parts(self, task=task, label=label, mix=mix, question=question, flows=flows)
        begin = synthesis.START if start is None else start
        scenario = synthesis.Scenario(parts, seed, temperature, begin, duration)
        return synthesis.generate(self, scenario, out=out, progress=progress or Silent())
