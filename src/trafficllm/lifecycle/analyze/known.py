"""Flows of a capture beside flows that are known: vectors, a data set, labelled captures, or those that come with the package."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.lifecycle.datasets import is_data_set
from trafficllm.lifecycle.studies.embed import embed, read

if TYPE_CHECKING:
    from trafficllm.core.types import ProgressSink
    from trafficllm.lifecycle.studies.results import Neighbour
    from trafficllm.lifecycle.workspace import Workspace

PACKAGED = tuple(Path(__file__).parents[2] / "data" / "captures" / task for task in ("EAC", "MTD"))
"""The package's labelled captures: folders of <label>/*.pcap."""
EACH = 12
"""Flows of every label that stand for it: 400 flows of the package's 34 labels, a few seconds to embed."""


@dataclass(frozen=True, slots=True)
class ComparedFlow:
    """A flow and the known flows nearest to it, nearest first."""

    uid: str
    orig_h: str
    resp_h: str
    resp_p: int
    nearest: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True)
class ComparedCapture:
    """A capture's flows in their order, and how many flows are known."""

    flows: tuple[ComparedFlow, ...]
    known_flows: int


def known_vectors(workspace: Workspace, known: Path | None, out: Path, *, task: str = "", progress: ProgressSink) -> Path:
    """Vectors of flows that are known: `known` itself where it is a file of them, else `out`, made from a data set, from a folder of
    <label>/*.pcap, or (None) from the package's labelled captures. Raises what `embed` raises."""
    if known is not None and known.is_file():
        return known
    folders = PACKAGED if known is None else (known,)
    each = 0 if known is not None and is_data_set(known) else EACH
    embed(workspace, [str(folder) for folder in folders], out=out, task=task, each=each, progress=progress)
    return out


def compared(
    workspace: Workspace, capture: Path, bank: Path, *, task: str = "", neighbours: int = 5, progress: ProgressSink
) -> ComparedCapture:
    """Every flow of a capture with its nearest among the vectors of `bank` (`known_vectors`). Raises what `embed` raises."""
    with tempfile.TemporaryDirectory(prefix="trafficllm-compare-") as place:
        vectors = Path(place) / "capture.parquet"
        answer = embed(workspace, [str(capture)], out=vectors, task=task, reference=bank, neighbours=neighbours, progress=progress)
        flows = read(vectors)[0].select(["uid", "orig_h", "resp_h", "resp_p"]).to_pylist()
    rows = (ComparedFlow(**flow, nearest=tuple(near.nearest)) for flow, near in zip(flows, answer.nearest, strict=True))
    return ComparedCapture(tuple(rows), read(bank)[0].num_rows)
