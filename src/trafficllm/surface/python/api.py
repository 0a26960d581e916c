"""`import trafficllm as tl`: the commands people use most, as functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from trafficllm.lifecycle.workspace import Workspace
from trafficllm.surface.python.flows import Flows, Verdicts

if TYPE_CHECKING:
    from trafficllm.core.settings import Config

Paths: TypeAlias = "str | PathLike[str] | Sequence[str | PathLike[str]]"


def _listed(paths: Paths) -> list[str | Path]:
    if isinstance(paths, str | PathLike):
        return [fspath(paths)]
    return [fspath(path) for path in paths]


def _named(paths: Sequence[str | Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} inputs"


@lru_cache(maxsize=2)
def _open(base: str, registry: str, config: Path | None) -> Workspace:
    """Calls that name the same base and registry share one workspace: the model is loaded once."""
    return Workspace(base=base, registry=registry, config=config)


def workspace(base: str | PathLike[str] = "", registry: str | PathLike[str] = "", config: str | PathLike[str] | None = None) -> Workspace:
    """The workspace behind these functions, for what they do not cover: the functions of `trafficllm.lifecycle` take it."""
    import os

    base = fspath(base) or os.environ.get("TRAFFICLLM_BASE", "")
    registry = fspath(registry) or os.environ.get("TRAFFICLLM_REGISTRY", "")
    return _open(base, registry, Path(config) if config is not None else None)


def analyze(
    paths: Paths,
    *,
    task: str = "",
    question: str = "",
    explain: bool = False,
    base: str | PathLike[str] = "",
    registry: str | PathLike[str] = "",
    config: str | PathLike[str] | None = None,
) -> Verdicts:
    """A verdict for every flow of captures, by the task that is named or that the question asks for.

    Raises the errors of `trafficllm.core.errors`: InputError for files, UsageError for a task, ArtifactError where no
    adapter is live.

    >>> import trafficllm as tl
    >>> table = tl.analyze("x.pcap", task="EAC").to_pandas()
    >>> table["adapter"].unique().tolist()
    ['EAC']
    """
    from trafficllm.lifecycle.analyze.verdicts import start

    files, opened = _listed(paths), workspace(base, registry, config)
    return Verdicts(_named(files), lambda: start(opened, files, task=task, question=question, explain=explain, overview=True))


def read(paths: Paths, *, config: str | PathLike[str] | Config | None = None) -> Flows:
    """Flows of captures: an iterator of rows, or an Arrow table, or a data frame. No model takes part.

    Raises InputError for files that cannot be read, never for what is in them.

    >>> import trafficllm as tl
    >>> flows = tl.read("x.pcap")
    >>> flows.to_arrow().column_names[:4]
    ['ts', 'uid', 'orig_h', 'orig_p']
    >>> [flow["resp_p"] for flow in flows]
    [53, 53]
    """
    from trafficllm.capture.files.read import expand
    from trafficllm.core.settings import Config, load_config
    from trafficllm.lifecycle.analyze import captures

    files = _listed(paths)
    settings = config if isinstance(config, Config) else load_config(fspath(config) if config is not None else None)
    expand(files)
    return Flows(_named(files), lambda: captures.flows(files, settings))


def register(
    folder: str | PathLike[str],
    *,
    task: str,
    profile: str = "",
    seed: int = 0,
    max_seconds: float | None = None,
    base: str | PathLike[str] = "",
    registry: str | PathLike[str] = "",
    config: str | PathLike[str] | None = None,
    background: Sequence[str | PathLike[str]] | None = None,
    positives: Sequence[str | PathLike[str]] = (),
    members: int = 1,
) -> dict[str, Any]:
    """A folder of <label>/*.pcap, or a data set -> a live, evaluated adapter (contract: `adapter register`).

    `background` are folders of everyday captures learnt beside the labels and the package's captures; None: these alone; empty: none.
    `positives` are folders of captures that are malicious (VPN, ...) without being of a label.
    `members` adapters are tuned from as many seeds and answer together, at as many times the cost.

    >>> import trafficllm as tl
    >>> made = tl.register("my_captures", task="CAMERAS", max_seconds=1)
    >>> made["status"], sorted(made["baselines"])[:3]
    ('live', ['artefact_probe', 'identifier_probe', 'knn'])
    """
    from trafficllm.lifecycle.adapters.register import register as made

    opened = workspace(base, registry, config)
    beside = None if background is None else [Path(place) for place in background]
    options: dict[str, Any] = {"profile": profile, "seed": seed, "max_seconds": max_seconds, "members": members}
    options["positives"] = [Path(place) for place in positives]
    return made(opened, Path(folder), task, background=beside, packaged=beside != [], **options).as_dict()
