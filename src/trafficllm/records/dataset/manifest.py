"""What a data set says of itself: manifest.json, the `data build` report, and card.md for people, written from the manifest alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trafficllm.core.escape import visible
from trafficllm.records import masks
from trafficllm.records.dataset.duplicates import duplicates
from trafficllm.records.dataset.splits import UNITS, SplitResult
from trafficllm.records.probe import FIELD_OF, FieldScore
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
    used = [i for i, side in enumerate(facts.sides) if side != "dropped"]
    counts = Counter((facts.labels[i], facts.sides[i]) for i in used)
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
        "records": len(used),
        "classes": {label: {part: counts[label, part] for part in PARTS} for label in labels},
        "dropped": dict(sorted(facts.dropped.items())),
        "normalised": dict(sorted(facts.normalised.items())),
        "malformed": list(facts.malformed[:_LISTED]),
        "split": {
            "unit": result.unit,
            "why": result.why,
            "groups": len({result.groups[i] for i in used}),
            "parts": {part: sum(facts.sides[i] == part for i in used) for part in PARTS},
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
    unit = options["split"]
    if unit in UNITS and UNITS.index(unit) > UNITS.index("host"):
        out.append(f"split by {unit} as asked")
    return [*out, *result.leaky]


def data_card(manifest: Mapping[str, Any]) -> str:
    """Markdown written from the manifest alone; labels and file names are escaped."""
    task = manifest["task"]
    lines = [f"# Data set: {_cell(task['title'])} ({_cell(task['id'])})", ""]
    lines += [f"{manifest['records']} records of kind {task['granularity']}, masks `{manifest['profile']}`, seed {manifest['seed']}.", ""]
    lines += ["## Parts", "", f"Split unit: **{manifest['split']['unit']}** ({_cell(manifest['split']['why'])}).", ""]
    lines += _parts_table(manifest)
    lines += [f"- {_cell(note)}" for note in manifest["split"]["notes"]]
    lines += ["", "## Left out", ""]
    lines += [f"- {_cell(reason)}: {count}" for reason, count in manifest["dropped"].items()] or ["Nothing."]
    lines += _files_and_labels(manifest)
    lines += ["", "## Duplicates", ""]
    dup = manifest["duplicates"]
    lines.append(
        f"{dup['share']:.1%} of the records share their masked content with another, {dup['conflicting']:.1%} with one of "
        f"another label: no model that sees this input can exceed {dup['ceiling']:.4f} accuracy on all records."
    )
    lines += ["", "## Masked", ""]
    rows = {row.name: row for row in masks.table()}
    for name in manifest["masked_fields"]:
        row = rows.get(name)
        lines.append(f"- `{name}`: {row.hides}; {row.why}" if row else f"- `{name}`")
    lines += ["", "## Artefact probe (one field alone, macro-F1 on validation)", ""]
    lines += _probe_table(manifest)
    if manifest["leaky"]:
        lines += ["", "**LEAKY**: " + "; ".join(_cell(reason) for reason in manifest["leaky"])]
    return "\n".join(lines) + "\n"


def _files_and_labels(manifest: Mapping[str, Any]) -> list[str]:
    """Labels that were normalised, lines that could not be read, split files."""
    lines = []
    if manifest["normalised"]:
        many = ", ".join(f"{_cell(label)} {count}" for label, count in manifest["normalised"].items())
        lines += ["", "## Labels normalised", "", f"Full stops and sentences around the label were taken off: {many}."]
    if manifest["malformed"]:
        lines += ["", "## Malformed lines", "", *(f"- {_cell(line)}" for line in manifest["malformed"][:20])]
    lines += ["", "## Split files", "", "Each names records by file hash and place; `data build --split-from` takes them.", ""]
    return [*lines, *(f"- `{name}`" for name in manifest["split_files"])]


def _parts_table(manifest: Mapping[str, Any]) -> list[str]:
    lines = ["| class | train | val | test |", "|---|---|---|---|"]
    for label, counts in manifest["classes"].items():
        lines.append(f"| {_cell(label)} | {counts['train']} | {counts['val']} | {counts['test']} |")
    return [*lines, ""]


def _probe_table(manifest: Mapping[str, Any]) -> list[str]:
    hidden = {row["field"] for row in manifest["artefact_masked"]}
    lines = ["| field | label | umbrella question | then masked |", "|---|---|---|---|"]
    for score in manifest["artefact_probe"][:12]:
        name = score["field"]
        umbrella = "-" if score["umbrella"] is None else f"{score['umbrella']:.3f}"
        lines.append(f"| {name} | {score['label']:.3f} | {umbrella} | {'yes' if FIELD_OF.get(name, name) in hidden else 'no'} |")
    return lines


def _cell(text: str) -> str:
    """Text that is inert in Markdown and in HTML made from it."""
    safe = visible(text)
    return "".join(f"\\{char}" if char in "\\|*`[]" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(char, char) for char in safe)
