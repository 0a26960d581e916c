"""What a data set says of itself: manifest.json, from which card.md and the `data build` report are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trafficllm.records import masks
from trafficllm.records.dataset.duplicates import duplicates
from trafficllm.records.dataset.splits import UNITS, SplitResult
from trafficllm.records.probe import FieldScore
from trafficllm.records.results import DataBuild

SCHEMA = "trafficllm.dataset/1"
PARTS = ("train", "val", "test")
_LISTED = 100
"""Malformed lines named in the manifest; all are counted."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What `data build` says; `reused` when the folder held this very data set already."""

    out: Path
    manifest: dict[str, Any]
    reused: bool = False

    def result(self) -> DataBuild:
        """What the manifest says of the build (contract: `data build`)."""
        m = self.manifest
        return DataBuild(
            records=m["records"],
            classes=m["classes"],
            dropped=m["dropped"],
            normalised=m["normalised"],
            malformed=m["malformed"],
            groups=m["split"]["groups"],
            split=m["split"],
            split_files=m["split_files"],
            mask=m["profile"],
            masked_fields=m["masked_fields"],
            artefact_masked=m["artefact_masked"],
            leaky=m["leaky"],
            duplicates=m["duplicates"],
            dataset_sha256=m["dataset_sha256"],
            out=str(self.out),
            reused=self.reused,
        )


@dataclass(slots=True)
class Facts:
    """What the manifest is written from, beside the options: rows of the data set, and what was found in them."""

    labels: Sequence[str]
    reserved: Sequence[bool]
    sides: Sequence[str]
    content: Sequence[int]
    result: SplitResult
    dropped: Mapping[str, int]
    normalised: Mapping[str, int]
    malformed: Sequence[str]
    files: Sequence[Mapping[str, object]]
    also: frozenset[str]
    scores: Mapping[str, FieldScore]
    artefacts: Mapping[str, float]


def manifest_of(facts: Facts, *, folder_name: str, options: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The manifest without the hash of the rows."""
    kept = [i for i, side in enumerate(facts.sides) if side != "dropped"]
    counts = Counter((facts.labels[i], facts.sides[i]) for i in kept)
    hidden = masks.hidden_fields(options["profile"], facts.also, frozenset(options["keep"]) - {"housekeeping"})
    labels = sorted(set(facts.labels))
    result = facts.result
    return {
        "schema": SCHEMA,
        "key": key,
        "source": folder_name,
        "task": options["task"],
        "labels": labels,
        "trainable": [label for label in labels if counts[label, "train"]],
        "profile": options["profile"],
        "masked_fields": sorted(hidden),
        "also": sorted(facts.also),
        "kept_fields": sorted(options["keep"]),
        "artefact_masked": [{"field": name, "score": score} for name, score in facts.artefacts.items()],
        "artefact_probe": [
            {"field": name, "label": round(s.label, 4), "umbrella": _rounded(s.umbrella)} for name, s in facts.scores.items()
        ],
        "unknown": options["unknown"],
        "few_shot": options["few_shot"],
        "records": len(kept),
        "classes": {label: {part: counts[label, part] for part in PARTS} for label in labels},
        "dropped": dict(sorted(facts.dropped.items())),
        "normalised": dict(sorted(facts.normalised.items())),
        "malformed": list(facts.malformed[:_LISTED]),
        "split": {
            "unit": result.unit,
            "why": result.why,
            "groups": len({result.groups[i] for i in kept}),
            "parts": {part: sum(facts.sides[i] == part for i in kept) for part in PARTS},
            "reserved": sum(facts.reserved),
            "notes": list(result.notes),
        },
        "split_files": [],
        "leaky": _leaky(options, result),
        "duplicates": duplicates(facts.content, facts.labels),
        "seed": options["seed"],
        "codec": options["codec"],
        "codec_hash": options["codec_hash"],
        "version": options["version"],
        "files": list(facts.files),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _leaky(options: Mapping[str, Any], result: SplitResult) -> list[str]:
    out = []
    if options["profile"] != "strict":
        out.append(f"mask profile {options['profile']}")
    out += [f"{name} kept" for name in options["keep"]]
    asked = options["split"]
    if asked in UNITS and UNITS.index(asked) > UNITS.index("host"):
        out.append(f"split by {asked} as asked")
    return [*out, *result.leaky]
