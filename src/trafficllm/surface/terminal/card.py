"""An adapter version as a card for people: what it answers, how well and beside which baselines, where it may be wrong, from what it
was made. The same facts as its manifest, which `--json` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trafficllm.core.escape import for_terminal
from trafficllm.registry.card import elsewhere
from trafficllm.surface.terminal.output import out, show_table

if TYPE_CHECKING:
    from trafficllm.lifecycle.adapters.results import AdapterShow

_HASH = 12
_PROBES = {"identifier_probe": "(addresses and names alone)", "artefact_probe": "(marks of the recording alone)"}
"""Probes are no rivals: they say how much the data give away by what is masked."""


def show_card(shown: AdapterShow) -> None:
    """Print the card of one version."""
    manifest = shown.manifest
    definition = manifest.get("task_definition") or {}
    title = definition.get("title") or ""
    print(for_terminal(f"{shown.task} {shown.version}: {title}" if title else f"{shown.task} {shown.version}"))
    width = min(out().width, 120)
    for name, text in _facts(shown, manifest, definition):
        lines = textwrap.wrap(for_terminal(text), max(20, width - 15), break_long_words=False, break_on_hyphens=False) or [""]
        print(f"  {name:<12} {lines[0]}")
        for line in lines[1:]:
            print(f"  {'':<12} {line}")
    _show_quality(manifest)


def _facts(shown: AdapterShow, manifest: Mapping[str, Any], definition: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "status", f"{shown.status}, {'shipped with the package, read only' if shown.source == 'shipped' else 'in the registry'}"
    if why := manifest.get("experimental"):
        yield "experimental", str(why)
    if question := definition.get("umbrella_question"):
        yield "asks", f"{question} {definition.get('positive')} or {definition.get('negative')}"
    labels = manifest.get("labels") or []
    yield "labels", f"{len(labels)}: {', '.join(map(str, labels))}"
    yield "masks", ", ".join([str(manifest.get("profile", "-")), *map(str, manifest.get("also") or ())])
    yield from _limits(manifest)
    yield "base", f"{manifest.get('base', '-')} (SHA-256 {str(manifest.get('base_sha256', ''))[:_HASH]})"
    split = manifest.get("split")
    unit = split.get("unit", "") if isinstance(split, Mapping) else split
    yield "data", f"split by {unit or '-'}, SHA-256 {str(manifest.get('data_sha256', ''))[:_HASH]}, seed {manifest.get('seed', '-')}"
    if background := manifest.get("background"):
        sources = background.get("sources") or {}
        yield "background", f"{background.get('flows', 0):,} everyday flows of {len(sources)} other sources: {', '.join(sources)}"
        if others := background.get("positive"):
            sources = others.get("sources") or {}
            answer = definition.get("positive")
            yield f"other {answer}", f"{others.get('flows', 0):,} {answer} flows, of no label, from other sources: {', '.join(sources)}"
    if origins := manifest.get("origins"):
        yield "learnt from", ", ".join(f"{origin} ({licence})" for origin, licence in origins.items())
    if parent := manifest.get("parent"):
        yield "tuned from", str(parent)
    yield from _cost(shown, manifest)
    yield "folder", shown.path


def _cost(shown: AdapterShow, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Its members, and what tuning them took, how fast they judge together, and their size on disk."""
    rows = manifest.get("members") or []
    if rows:
        seeds = ", ".join(str(row.get("seed")) for row in rows)
        yield "members", f"{len(rows)} adapters tuned from seeds {seeds}; their log-probabilities are averaged"
    tuning, cost = manifest.get("tuning") or {}, manifest.get("cost") or {}
    seconds = sum(float(row.get("seconds") or 0.0) for row in rows) if rows else tuning.get("seconds")
    parts = [f"{seconds:,.0f} s of tuning"] if seconds else []
    parts += [f"{cost['flows_per_second']:,.0f} flows/s where it was registered"] if cost.get("flows_per_second") else []
    yield "cost", ", ".join([*parts, f"{shown.weight_bytes / 1e6:.2f} MB of weights"])


def _limits(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where it may be wrong: on other networks, on kinds of flows it has not learnt, in how sure it says it is."""
    for line in elsewhere(manifest):
        yield "elsewhere", line.replace("**", "").replace("\\", "")
    learnt = (manifest.get("coverage") or {}).get("learnt") or {}
    thin = [kind for kind, count in sorted(learnt.items()) if not count.get("negatives") and not count.get("positives")]
    if learnt:
        yield (
            "has learnt",
            f"flows of {', '.join(kind for kind in sorted(learnt) if kind not in thin)}; of other kinds it says 'not covered'",
        )
    calibration = manifest.get("calibration") or {}
    if "ece" in calibration:
        unknown = (calibration.get("unknown") or {}).get("method", "")
        called = f"; unknown by {unknown}" if unknown else ""
        yield "calibrated", f"stated and true probabilities differ by {calibration['ece']:.3f} on average (ECE){called}"


def _show_quality(manifest: Mapping[str, Any]) -> None:
    quality, baselines = manifest.get("quality") or {}, manifest.get("baselines") or {}
    if not quality:
        print("  no test score was taken for this version")
        return
    rows = [["this adapter", *_score(quality)]]
    order = sorted(baselines.items(), key=lambda item: (item[0] in _PROBES, -(item[1].get("macro_f1") or 0.0)))
    rows += [[_PROBES.get(name, name.replace("_", " ")), *_score(row)] for name, row in order]
    tests = f"on {quality.get('n_test', 0):,} test records ({quality.get('n_test_unique', 0):,} unique)"
    show_table(
        ("", "macro-F1", "95 % interval", "accuracy"), rows, title=f"Scores {tests}", right=("macro-F1", "95 % interval", "accuracy")
    )
    if quality.get("leaky"):
        print(for_terminal(f"  LEAKY, not an honest figure: {', '.join(map(str, quality['leaky']))}"))


def _score(row: Mapping[str, Any]) -> list[Any]:
    low, high = row.get("ci95") or (0.0, 1.0)
    return [row.get("macro_f1"), f"{low:.3f}-{high:.3f}", row.get("accuracy")]
