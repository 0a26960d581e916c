"""The data card: what is in a data set, what was left out, and why, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trafficllm.core.escape import visible
from trafficllm.records import masks
from trafficllm.records.probe import FIELD_OF


def data_card(manifest: Mapping[str, Any]) -> str:
    """Markdown written from the manifest alone; labels and file names are escaped."""
    task = manifest["task"]
    lines = [f"# Data set: {_cell(task['title'])} ({_cell(task['id'])})", ""]
    lines += [f"{manifest['records']} records of kind {task['granularity']}, masks `{manifest['profile']}`, seed {manifest['seed']}.", ""]
    lines += ["## Parts", "", f"Split unit: **{manifest['split']['unit']}** ({_cell(manifest['split']['why'])}).", ""]
    lines += _parts(manifest)
    lines += [f"- {_cell(note)}" for note in manifest["split"]["notes"]]
    lines += ["", "## Left out", ""]
    lines += [f"- {_cell(reason)}: {count}" for reason, count in manifest["dropped"].items()] or ["Nothing."]
    lines += _told(manifest)
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
    lines += _probe(manifest)
    if manifest["leaky"]:
        lines += ["", "**LEAKY**: " + "; ".join(_cell(reason) for reason in manifest["leaky"])]
    return "\n".join(lines) + "\n"


def _told(manifest: Mapping[str, Any]) -> list[str]:
    """Labels that were normalised, lines that could not be read, split files."""
    lines = []
    if manifest["normalised"]:
        many = ", ".join(f"{_cell(label)} {count}" for label, count in manifest["normalised"].items())
        lines += ["", "## Labels normalised", "", f"Full stops and sentences around the label were taken off: {many}."]
    if manifest["malformed"]:
        lines += ["", "## Malformed lines", "", *(f"- {_cell(line)}" for line in manifest["malformed"][:20])]
    lines += ["", "## Split files", "", "Each names records by file hash and place; `data build --split-from` takes them.", ""]
    return [*lines, *(f"- `{name}`" for name in manifest["split_files"])]


def _parts(manifest: Mapping[str, Any]) -> list[str]:
    lines = ["| class | train | val | test |", "|---|---|---|---|"]
    for label, counts in manifest["classes"].items():
        lines.append(f"| {_cell(label)} | {counts['train']} | {counts['val']} | {counts['test']} |")
    return [*lines, ""]


def _probe(manifest: Mapping[str, Any]) -> list[str]:
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
