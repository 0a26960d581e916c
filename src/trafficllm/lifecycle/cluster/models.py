"""The models that tasks of a cluster judge and embed with: opened once a worker, and the same ones everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import ArtifactError
from trafficllm.core.settings import Config

if TYPE_CHECKING:
    from trafficllm.lifecycle.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Models:
    """A workspace as another process opens it: base, registry, settings, and the content of each task's live adapter."""

    base: str
    registry: str
    config: Config
    versions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, workspace: Workspace, tasks: Sequence[str]) -> Models:
        """What a worker opens to have the same models."""
        versions = tuple((name, workspace.registry.live(name).content) for name in tasks)
        return cls(workspace.base_name, str(workspace.registry_root.absolute()), workspace.config, versions)

    def open(self) -> Workspace:
        """The workspace, once a worker. ArtifactError where a live adapter is another one than it was when the work began."""
        workspace = _opened(self.base, self.registry, self.config.model_dump_json())
        for name, content in self.versions:
            if workspace.registry.live(name).content != content:
                hint = "run the same command again: what is left is then judged anew"
                raise ArtifactError("artifact.changed", f"another version of {name} went live meanwhile", input=self.registry, hint=hint)
        return workspace

    def as_dict(self, workspace: Workspace) -> dict[str, Any]:
        """What verdicts and vectors depend on."""
        facts = {"base_sha256": str(workspace.served.manifest.get("base_sha256", "")), "versions": list(map(list, self.versions))}
        return {**facts, "capture": self.config.capture.model_dump(mode="json")}


@lru_cache(maxsize=1)
def _opened(base: str, registry: str, config: str) -> Workspace:
    """Tasks that a worker gets one after the other share a workspace: the model is loaded once."""
    from trafficllm.lifecycle.workspace import Workspace

    return Workspace(base=base, registry=registry, config=Config.model_validate_json(config))
