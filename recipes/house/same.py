"""Do two checkouts answer alike? Runs the same commands in both on the bundled captures and compares every output.

    python recipes/house/same.py OLD NEW [--quick] [-o same.json]

OLD and NEW are checkouts of this repository; both run under the interpreter that runs this script. Compared are the JSON and
line outputs of commands, the bytes of captures, data sets and adapters, and a tuning run of a few steps. Times, rates, memory
and folders are left out. Exit code 1 where anything differs; keys that only the new checkout has are listed, not counted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VOLATILE = re.compile(
    r"seconds|^tune.json$|^metrics.jsonl$|per_s(econd)?$|peak_bytes|^path$|^out$|^file$|^registry$|^report$|sha256$|^created|^input$"
)
"""Keys whose values are times, rates, memory, folders, or hashes of manifests that hold them."""
LIMIT = 900.0
QUICK_CONFIG = "[tune]\nmax_steps = 6\nsave_steps = 6\n"


def commands(captures: str) -> Iterator[tuple[str, list[str]]]:
    """Name and arguments of every command, in an order in which later ones find what earlier ones wrote."""
    neris, quic, icmp = (f"{captures}/{name}" for name in ("MTD/Neris/Neris_00.pcap", "EAC/QUIC/quic.pcap", "EAC/ICMP/viber.pcap"))
    for name, capture in (("neris", neris), ("quic", quic), ("icmp", icmp)):
        yield f"info {name}", ["capture", "info", capture, "--json"]
        yield f"check {name}", ["capture", "check", capture, "--json"]
        yield f"packets {name}", ["capture", "packets", capture, "-f", "tsv"]
        for form in ("jsonl", "csv", "zeek", "eve"):
            yield f"flows {name} {form}", ["capture", "flows", capture, "-f", form]
    yield "convert", ["capture", "convert", neris, "-o", "neris.pcapng"]
    yield "task list", ["task", "list", "--json"]
    yield "task show", ["task", "show", "MTD", "--json"]
    yield "tokenizer show", ["tokenizer", "show", "default", "--json"]
    yield "data check", ["data", "check", f"{captures}/EAC", "--json"]
    yield "data build EAC", ["data", "build", f"{captures}/EAC", "-o", "eac", "--task", "EAC", "--json", "--quiet"]
    yield "data build MTD", ["data", "build", f"{captures}/MTD", "-o", "mtd", "--task", "MTD", "--json", "--quiet"]
    yield "data audit", ["data", "audit", "eac", "--json", "--quiet"]
    yield "tokenizer compare", ["tokenizer", "compare", "eac", "--base", "default", "--json"]
    yield "tune plan", ["tune", "plan", "eac", "--base", "default", "--config", "quick.toml", "--json"]
    yield "tune task", ["tune", "task", "eac", "--base", "default", "-o", "tuned", "--config", "quick.toml", "--json", "--quiet"]
    register = ["adapter", "register", "eac", "--task", "EAC", "--config", "quick.toml", "--registry", "registry", "--json", "--quiet"]
    yield "adapter register", register
    yield "adapter list", ["adapter", "list", "--registry", "registry", "--json"]
    yield "adapter show", ["adapter", "show", "EAC", "--registry", "registry", "--json"]
    yield "analyze lines", ["analyze", quic, icmp, "--task", "EAC", "--registry", "registry", "-f", "jsonl", "--quiet"]
    yield "analyze", ["analyze", quic, "--task", "EAC", "--registry", "registry", "--json", "--quiet"]
    yield "evaluate run", ["evaluate", "run", "eac", "--registry", "registry", "--json", "--quiet"]


def main() -> None:
    """Run both sides, print what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--quick", action="store_true", help="captures and data sets only, nothing is tuned")
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    captures = str(options.old.resolve() / "src" / "trafficllm" / "data" / "captures")
    with tempfile.TemporaryDirectory() as scratch:
        sides = [_side(folder, Path(scratch) / name, captures, options.quick) for name, folder in (("a", options.old), ("b", options.new))]
    report = compare(*sides)
    text = json.dumps(report, indent=1, sort_keys=True)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(bool(report["differ"]))


def _side(checkout: Path, work: Path, captures: str, quick: bool) -> dict[str, Any]:
    work.mkdir()
    (work / "quick.toml").write_text(QUICK_CONFIG, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src"), "OMP_NUM_THREADS": "1", "TZ": "UTC"}
    outputs: dict[str, Any] = {}
    for name, arguments in commands(captures):
        if quick and name == "data audit":
            break
        done = subprocess.run(
            [sys.executable, "-m", "trafficllm", *arguments], cwd=work, env=environment, capture_output=True, timeout=LIMIT, check=False
        )
        outputs[name] = {"exit": done.returncode, "out": _parsed(done.stdout)}
        if done.returncode:
            print(f"{checkout}: {name}: exit {done.returncode}: {done.stderr[-300:]!r}", file=sys.stderr)
    files = {str(path.relative_to(work)): path for path in sorted(work.rglob("*")) if path.is_file()}
    outputs |= {f"file {name}": _content(path) for name, path in files.items() if _is_compared(name)}
    shutil.rmtree(work)
    return outputs


def _is_compared(name: str) -> bool:
    """Not `metrics.jsonl` and `tune.json`: they hold times."""
    return name.endswith((".parquet", ".safetensors", ".pcapng", "split.json", "adapter_config.json", "card.md"))


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _parsed(data: bytes) -> Any:
    """A JSON object without its volatile keys; else the text, a line an entry, JSON lines parsed."""
    text = data.decode("utf-8", "replace")
    try:
        return _still(json.loads(text))
    except ValueError:
        lines = text.splitlines()
        return [_still(json.loads(line)) if line.startswith("{") else line for line in lines if not line.startswith(("#open", "#close"))]


def _still(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _still(item) for key, item in value.items() if not VOLATILE.search(key)}
    return [_still(item) for item in value] if isinstance(value, list) else value


def compare(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What differs, what only one side has, and keys that were added."""
    differ: dict[str, Any] = {}
    added: dict[str, list[str]] = {}
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            differ[name] = "only old" if name in old else "only new"
            continue
        extra: list[str] = []
        places = list(_differences(old[name], new[name], "", extra))
        if places:
            differ[name] = places[:10]
        if extra:
            added[name] = sorted(set(extra))
    return {"compared": len(old), "differ": differ, "added": added}


def _differences(old: Any, new: Any, place: str, extra: list[str]) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        extra += [f"{place}.{key}" for key in new.keys() - old.keys()]
        for key, value in old.items():
            if key in new:
                yield from _differences(value, new[key], f"{place}.{key}", extra)
            else:
                yield f"{place}.{key}: gone"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for k, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from _differences(left, right, f"{place}[{k}]", extra)
    elif old != new:
        yield f"{place}: {str(old)[:60]} -> {str(new)[:60]}"


if __name__ == "__main__":
    main()
