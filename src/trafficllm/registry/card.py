"""The model card of an adapter version, filled from its manifest: no empty heading, no figure without context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trafficllm.registry.versions import laboratory_only


def _plain(value: object) -> str:
    """One table cell: no line breaks, no pipes, no markup from labels or file names."""
    text = "".join(c if c.isprintable() else "?" for c in str(value))
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return text


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else _plain(value)


def _front_matter(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield from ("---", "library_name: peft", "license: apache-2.0", "tags: [network-traffic, lora]")
    yield f'base_model: "{str(manifest.get("base", "")).translate({34: None, 92: None, 10: None, 13: None})}"'
    yield "---"


def _facts(manifest: Mapping[str, Any]) -> Iterator[str]:
    rows = (
        ("base", "base"),
        ("base SHA-256", "base_sha256"),
        ("tokenizer SHA-256", "tokenizer_sha256"),
        ("codec", "codec_hash"),
        ("masks", "profile"),
        ("masked fields", "masked_fields"),
        ("data SHA-256", "data_sha256"),
        ("prompt hash", "prompt_hash"),
        ("prompt SHA-256", "prompt_sha256"),
        ("split", "split"),
        ("seed", "seed"),
        ("tuned from", "parent"),
    )
    yield from ("| what | value |", "|---|---|")
    for title, key in rows:
        value = manifest.get(key)
        if value not in (None, "", [], {}):
            value = value.get("unit", "") if isinstance(value, Mapping) else value
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            yield f"| {title} | {_plain(shown)} |"


def _members(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Of a version of several members: that this folder is one of them, and how they answer together."""
    rows = manifest.get("members") or []
    if rows:
        seeds = ", ".join(_plain(row.get("seed")) for row in rows)
        yield f"It has {len(rows)} members, tuned alike from seeds {seeds}: this folder is the first, the others lie in `members`."
        yield "TrafficLLM averages the log-probabilities of all; stock PEFT loads one of them, to which the figures below do not apply."


def _origins(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Whose captures it learnt from, and under which licence these may be passed on."""
    origins = manifest.get("origins") or {}
    if origins:
        yield ""
        yield f"Captures by {'; '.join(f'{_plain(origin)} ({_plain(licence)})' for origin, licence in origins.items())}."


def _quality_rows(manifest: Mapping[str, Any]) -> Iterator[str]:
    quality, baselines = manifest.get("quality") or {}, manifest.get("baselines") or {}
    yield from ("| who | macro-F1 | 95 % interval | accuracy |", "|---|---|---|---|")
    for name, row in (("**this adapter**", quality), *((_plain(n), b) for n, b in sorted(baselines.items()))):
        low, high = row.get("ci95", (0.0, 1.0))
        yield f"| {name} | {_number(row.get('macro_f1'))} | {low:.3f} to {high:.3f} | {_number(row.get('accuracy'))} |"


def _quality(manifest: Mapping[str, Any]) -> Iterator[str]:
    quality = manifest.get("quality")
    if not quality:
        yield "No test score was taken for this version."
        return
    yield from _quality_rows(manifest)
    yield ""
    yield (
        f"{quality.get('n_test')} test records ({quality.get('n_test_unique')} unique contents), split by "
        f"{_plain(quality.get('split'))}, masks {_plain(quality.get('mask'))}, seen by the base "
        f"{_plain(quality.get('seen_by_base'))}, seeds {_plain(quality.get('seeds'))}."
    )
    best = max((row.get("macro_f1", 0.0) for row in (manifest.get("baselines") or {}).values()), default=None)
    if best is not None and quality.get("macro_f1", 0.0) < best:
        yield f"\nIt scores below the best baseline ({best:.3f})."
    if quality.get("leaky"):
        yield f"\n**LEAKY**: {_plain(', '.join(quality['leaky']))}. This figure is not an honest one."
    if quality.get("not_measurable"):
        yield f"\nNot measurable here: {_plain(', '.join(quality['not_measurable']))}."


def _classes(manifest: Mapping[str, Any]) -> Iterator[str]:
    per_class = (manifest.get("quality") or {}).get("per_class", {})
    yield from ("| label | precision | recall | F1 | test records |", "|---|---|---|---|---|")
    for label in manifest.get("labels") or []:
        row = per_class.get(label, {})
        cells = [_number(row.get(key, "-")) for key in ("precision", "recall", "f1", "support")]
        yield f"| {_plain(label)} | {' | '.join(cells)} |"


def _limits(manifest: Mapping[str, Any]) -> Iterator[str]:
    calibration = manifest.get("calibration") or {}
    if calibration:
        yield f"Probabilities are calibrated on validation records (ECE {_number(calibration.get('ece', '-'))})."
    unknown = calibration.get("unknown") or {}
    if unknown:
        yield f"A flow is called `unknown` by {_plain(unknown.get('method'))} at 5 % false alarms on validation."
    yield from elsewhere(manifest)
    yield "It answers only with the labels above, and knows the networks its captures came from; others may differ."


def elsewhere(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What to expect on other networks: the first step's operating point on left-out sources, or that nothing is known of it."""
    if laboratory_only(manifest):
        yield "**Laboratory only**: nothing bounds its false alarms on networks it has not learnt; it answers where it is named."
    step = (manifest.get("calibration") or {}).get("umbrella")
    if step:
        flow = step["flow"]
        yield (
            f"On sources left out, {flow['rate']:.2%} of harmless flows were called {_plain(step['positive'])} (worst source "
            f"{flow['worst']:.2%}), {flow['unknown']:.1%} unknown. {_plain(flow['guarantee'])}."
        )


def model_card(manifest: Mapping[str, Any]) -> str:
    """Markdown model card of one version; labels and names in it are escaped."""
    title = f"# {_plain(manifest.get('task', 'adapter'))} {_plain(manifest.get('version', ''))}".rstrip()
    parts = [
        *_front_matter(manifest),
        title,
        "",
        "A LoRA adapter for network traffic, trained by TrafficLLM.",
        *_members(manifest),
        *((f"\n**Experimental**: {_plain(why)}.",) if (why := manifest.get("experimental")) else ()),
        "",
        "## What it was made from",
        *_facts(manifest),
        *_origins(manifest),
        "",
        "## Quality",
        *_quality(manifest),
        "",
        "## Labels",
        *_classes(manifest),
        "",
        "## Limits",
        *_limits(manifest),
    ]
    return "\n".join(parts) + "\n"
