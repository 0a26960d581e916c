"""The two sides of `evaluate generation`, read alike: raw flows by label, whatever they come as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.capture.files.cut import Cut, cut_flows, measured
from trafficllm.core.errors import InputError
from trafficllm.core.files import read_json
from trafficllm.core.types import FlowMeta, ProgressSink, Record
from trafficllm.lifecycle.datasets import is_data_set
from trafficllm.records.codec.flows import records_of
from trafficllm.records.codec.view import shown

if TYPE_CHECKING:
    from trafficllm.records.dataset.dataset import Dataset

Row = tuple[Record, FlowMeta]


@dataclass(frozen=True, slots=True)
class Side:
    """Raw flows by label; `files` of each label, where they are captures."""

    rows: dict[str, list[Row]]
    files: dict[str, list[Path]] = field(default_factory=dict)

    def shown(self) -> dict[str, list[Record]]:
        """What is compared: headers shown, identifiers hidden."""
        return {label: [shown(record) for record, _ in rows] for label, rows in self.rows.items()}

    def by_capture(self) -> dict[str, dict[str, list[Record]]]:
        """What is compared, by label and capture."""
        out: dict[str, dict[str, list[Record]]] = {}
        for label, rows in self.rows.items():
            for record, meta in rows:
                out.setdefault(label, {}).setdefault(meta.capture or meta.origin, []).append(shown(record))
        return out

    def all(self) -> list[Row]:
        """Rows of all labels."""
        return [row for rows in self.rows.values() for row in rows]


def labelled(path: Path, label: str = "") -> dict[str, list[Path]]:
    """Capture files by label: of a folder's sub-folders, else under `label`, or under what the capture's own manifest says.

    Raises InputError for a path without captures, or a capture that says it holds several labels.
    """
    from trafficllm.capture.files.read import expand

    folders = sorted(item for item in path.iterdir() if item.is_dir()) if path.is_dir() else []
    if folders and not label:
        return {folder.name: expand([folder]) for folder in folders}
    return {label or _said(path): expand([path])}


def _said(path: Path) -> str:
    """The one label that a generated capture's manifest names; "" where there is none."""
    beside = path.with_name(f"{path.name}.json")
    parts: Sequence[Mapping[str, Any]] = read_json(beside).get("parts", ()) if path.is_file() and beside.is_file() else ()
    labels = sorted({str(part["label"]) for part in parts})
    if len(labels) > 1:
        raise InputError(
            "input.labels",
            f"holds flows of {', '.join(labels)}, and packets do not say which",
            input=str(path),
            hint="generate each label into a file of its own: FOLDER/<label>/x.pcap",
        )
    return labels[0] if labels else ""


def captures(files: Mapping[str, Sequence[Path]], cuts: Mapping[str, Cut], progress: ProgressSink) -> Side:
    """Flows of capture files by label, cut where `cuts` says so."""
    rows: dict[str, list[Row]] = {}
    for done, (label, paths) in enumerate(files.items()):
        progress.update("reading", done, len(files))
        flows = (batch for path in paths for batch in cut_flows(path, cuts.get(label, Cut())))
        rows[label] = [row for batch in flows for row in records_of(batch)]
    return Side(rows, {label: list(paths) for label, paths in files.items()})


def rows_of(data: Dataset, part: str) -> Side:
    """Raw flows of one part of a data set."""
    places = data.indices(part)
    rows: dict[str, list[Row]] = {}
    for label, record, meta in zip(data.labels_of(places), data.raw_records(places), data.meta(places), strict=True):
        rows.setdefault(label, []).append((record, meta))
    return Side(rows)


def source_cuts(data: Dataset, folder: Path) -> dict[str, Cut]:
    """How each label's training captures under `folder` are cut. InputError where they are not there."""
    places = data.indices("train")
    files: dict[str, set[Path]] = {}
    for label, meta in zip(data.labels_of(places), data.meta(places), strict=True):
        files.setdefault(label, set()).add(folder / meta.capture)
    return {label: measured(sorted(paths)) for label, paths in sorted(files.items())}


def sides(
    real: Path, train: Path | None, *, part: str, captured: Path | None, label: str, progress: ProgressSink
) -> tuple[Side, Side, dict[str, Cut]]:
    """Held-out real flows, training flows (none where nothing says which they are), and each label's cut."""
    from trafficllm.records.dataset.dataset import load

    if is_data_set(real):
        data = load(real)
        return rows_of(data, part), rows_of(data, "train"), source_cuts(data, captured) if captured else {}
    files = labelled(real, label)
    cuts = {name: measured(paths) for name, paths in files.items()}
    learnt = Side({})
    if train is not None:
        learnt = rows_of(load(train), "train") if is_data_set(train) else captures(labelled(train, label), {}, progress)
    return captures(files, {}, progress), learnt, cuts
