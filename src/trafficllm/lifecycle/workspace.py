"""A workspace opens what the commands need: the base, the registry, the task catalogue and the settings.

Each is opened when it is first asked for, so that listing adapters does not load torch. What is done with them are functions that
take a workspace as their first argument, in the module of their concept.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.errors import ArtifactError
from trafficllm.core.settings import Config, load_config
from trafficllm.core.types import ROUTER

if TYPE_CHECKING:
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.writer import Writer
    from trafficllm.model.base.load import Base
    from trafficllm.records.catalog import Task
    from trafficllm.registry.store import Registry
    from trafficllm.registry.versions import Version


def registry_root(name: str = "", config: Config | None = None) -> Path:
    """Where adapters live: the option, TRAFFICLLM_REGISTRY, the configuration, the user's data folder, a quickstart's here."""
    place = name or os.environ.get("TRAFFICLLM_REGISTRY", "") or (config.registry if config else "")
    if place:
        return Path(place).expanduser()
    mine = user_registry()
    made = quickstart_registry(Path())
    return made if made is not None and not mine.is_dir() else mine


def user_registry() -> Path:
    """The registry in the user's data folder: what is used where nothing else is said."""
    import platformdirs

    return Path(platformdirs.user_data_dir("trafficllm")) / "registry"


def quickstart_registry(folder: Path) -> Path | None:
    """The adapters that a quickstart in this folder made, if any: what answers until there is a registry of one's own."""
    registries = [path for size in ("full", "quick") for path in sorted(folder.glob(f"work/{size}/seed*/registry"))]
    return registries[0] if registries else None


SHIPPED = Path(__file__).parents[1] / "data" / "adapters"
"""Adapters of the package, in the layout of a registry: read only, used for tasks of which the registry has none."""


def shipped_root() -> Path | None:
    """Where shipped adapters lie: TRAFFICLLM_SHIPPED, else the package; None where that variable is empty."""
    place = os.environ.get("TRAFFICLLM_SHIPPED")
    return SHIPPED if place is None else Path(place).expanduser() if place else None


def base_name(name: str, config: Config | None = None) -> str:
    """The base asked for: the option, TRAFFICLLM_BASE, the configuration, or the shipped one."""
    return name or os.environ.get("TRAFFICLLM_BASE", "") or (config.base if config else "default")


class Workspace:
    """One base, one registry, one task catalogue and their settings. `extra_tasks` are task files beside the shipped ones.

    Adapters of the package lie under the registry where the base is the default one, which they were trained on, unless `shipped` is False.

    >>> Workspace(registry="/tmp/registry").task("mtd").title
    'Malware traffic detection'
    """

    def __init__(
        self,
        *,
        base: str = "",
        registry: str = "",
        extra_tasks: Sequence[Path] = (),
        config: Path | Config | None = None,
        shipped: bool = True,
        words: str = "",
    ) -> None:
        self.config = config if isinstance(config, Config) else load_config(config)
        self.base_name = base_name(base, self.config)
        self.words = words or self.config.words
        self.registry_root = registry_root(registry, self.config)
        self.extra_tasks = tuple(extra_tasks)
        self.shipped_root = shipped_root() if shipped and self.base_name == "default" else None
        self._resident: dict[str, str] = {}

    @cached_property
    def registry(self) -> Registry:
        """The adapter registry."""
        from trafficllm.registry.store import Registry

        trusted = self.config.trusted_key
        return Registry(self.registry_root, trusted_key=Path(trusted).expanduser() if trusted else None, shipped=self.shipped_root)

    @cached_property
    def base(self) -> Base:
        """The base model and tokenizer, loaded when first asked for."""
        from trafficllm.model.base.load import load_base

        return load_base(self.base_name)

    @cached_property
    def served(self) -> Base:
        """The base as the engine needs it: opened without transformers where it is small and plain. It cannot be tuned."""
        from trafficllm.model.base.served import load_served

        return self.__dict__.get("base") or load_served(self.base_name)

    @cached_property
    def writer(self) -> Writer | None:
        """Who puts verdicts in words, loaded when first asked for; None where nobody does.

        UsageError for a base that was named for it and has no chat template.
        """
        from trafficllm.model.base.folder import has_chat_template
        from trafficllm.model.base.load import load_base, resolve

        if self.words == "off" or (self.words == "auto" and not has_chat_template(resolve(self.base_name))):
            return None
        from trafficllm.infer.writer import Writer

        mine = self.words in {"auto", self.base_name}
        return Writer(self.served if mine else load_base(self.words), self.base_name if mine else self.words)

    @cached_property
    def engine(self) -> Engine:
        """The scoring engine on the base."""
        from trafficllm.infer.engine.answers import MOST
        from trafficllm.infer.engine.engine import Engine

        return Engine(self.served, remember=MOST, products=self.config.products)

    def tasks(self) -> dict[str, Task]:
        """The catalogue, with the tasks that live adapters brought along; a damaged adapter brings none."""
        from trafficllm.records.catalog import Task, load_tasks

        tasks = load_tasks(self.extra_tasks)
        for name, live in self.registry.live_versions().items():
            if name not in tasks and name != ROUTER and "task_definition" in live.manifest:
                with contextlib.suppress(ValueError):  # a task that this version cannot read is no task here
                    tasks[name] = Task.model_validate(live.manifest["task_definition"])
        return tasks

    def task(self, name: str) -> Task:
        """One task by id; UsageError with a suggestion."""
        from trafficllm.records.catalog import get_task

        tasks = self.tasks()
        return tasks.get(name) or tasks.get(name.upper()) or get_task(name, self.extra_tasks)

    def load(self, task: str) -> Version:
        """The live version of a task, checked against the base, its adapter resident in the engine."""
        from trafficllm.records.codec.units import codec_hash
        from trafficllm.registry import fit

        version = self.registry.live(task)
        fit.check(version.manifest, self.served.manifest, codec_hash())
        if self._resident.get(task) != version.content:
            self.engine.add_adapter(task, version.path)
            self._resident[task] = version.content
        return version

    def load_router(self) -> Version:
        """The live router, its adapter resident in the engine; ArtifactError where none is registered."""
        if self.registry.find_live(ROUTER) is None:
            hint = "`trafficllm quickstart` makes a router; or name the task with --task"
            raise ArtifactError("artifact.no_router", "no router adapter is registered", input=str(self.registry_root), hint=hint)
        return self.load(ROUTER)
