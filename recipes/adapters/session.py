"""A session of `docs/adapters.md` on real captures, through the command line: what it answers and what it costs.

    python recipes/adapters/session.py --out runs/session [--steps 500] [--json docs/results/session.json]

Seven malware families of three captures each (2,100 flows) are registered as a task of their own; one family more and a further capture
of another come by `update`; captures of both, and of a family that no version knows, are analysed before and after; then the way back.
No capture is reserved for scoring, none is analysed that was learnt. The registered adapter then answers for evidence (deletion), merged
weights and memory. Each phase is a process of its own; a finished one is not run again. Figures are processor seconds, so a busy machine
changes little.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import trafficllm
from trafficllm.core.files import read_json, write_json
from trafficllm.core.types import FlowMeta, Record
from trafficllm.records.dataset.reserved import Reserved

CAPTURES = Path(trafficllm.__file__).parent / "data" / "captures"
TASK = "FAMILIES"
FIRST = ("Cridex", "Geodo", "Htbot", "Neris", "Nsis-ay", "Tinba", "Virut")
ADDED, MORE, STRANGE = "Shifu", "Neris", "Zeus"
LEARNT, STEPS, SEED = 3, 500, 0
DELETED, DRAWS = 150, 5
"""Flows whose evidence is taken away, and draws of as many random parts."""
PARTS = 3
"""A record must have more parts than are named."""
MEMORY = (6, 48)
"""Captures in the short and in the long file whose analysis is measured."""
REFUSED = 5
"""Exit code of an update that its gate refused."""
PHASES = ("captures", "register", "before", "update", "after", "rollback", "checks", "memory")


def free(label: str) -> list[Path]:
    """A family's captures that are not reserved, oldest first."""
    held = Reserved.load(CAPTURES / "reserved.csv")
    files = sorted((CAPTURES / "MTD" / label).glob("*.pcap*"))
    return [file for file in files if not held.share(f"{label}/{file.name}")]


def captures(out: Path) -> dict[str, Any]:
    """Links: `first` to register, `second` to update with, `unseen` to analyse; and two files of many captures for memory."""
    sides = {"first": {label: free(label)[:LEARNT] for label in FIRST}}
    sides["second"] = {ADDED: free(ADDED)[:LEARNT], MORE: free(MORE)[LEARNT : LEARNT + 1]}
    sides["unseen"] = {label: free(label)[-1:] for label in (MORE, ADDED, STRANGE, "Tinba")}
    for side, labels in sides.items():
        for label, files in labels.items():
            for file in files:
                link = out / side / label / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(file)
    every = [file for label in sorted(path.name for path in (CAPTURES / "MTD").iterdir() if path.is_dir()) for file in free(label)]
    for count in MEMORY:
        chosen = [every[k * len(every) // count] for k in range(count)]
        heads = [file.read_bytes() for file in chosen]
        (out / f"{count}.pcap").write_bytes(heads[0][:24] + b"".join(data[24:] for data in heads if data[:4] == heads[0][:4]))
    overlap = {f.name for f in sides["unseen"]["Tinba"]} & {f.name for f in sides["first"]["Tinba"]}
    return {"unseen_was_learnt": sorted(overlap), "files": {side: {k: len(v) for k, v in labels.items()} for side, labels in sides.items()}}


def command(out: Path, *words: str) -> dict[str, Any]:
    """Run the command line; its output with exit code, wall and processor seconds and peak memory."""
    start = time.monotonic()
    quiet = () if "rollback" in words else ("--quiet",)
    whole = [sys.executable, "-m", "trafficllm", *words, "--registry", str(out / "registry"), *quiet]
    with subprocess.Popen(whole, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "command": " ".join(("trafficllm", *words)).replace(str(out) + "/", ""),
        "exit": process.returncode,
        "wall_seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        "output": text,
    }


def asked(out: Path, *words: str) -> dict[str, Any]:
    """A command with `--json`: its body in place of its output."""
    done = command(out, *words, "--json")
    body = json.loads(done["output"])
    if not body["ok"] and done["exit"] != REFUSED:
        raise SystemExit(f"{done['command']}: {body['error']}")
    return {**done, "output": body}


def register(out: Path) -> dict[str, Any]:
    """`adapter register` of a task that the catalogue does not know."""
    (out / "config.toml").write_text(f"[tune]\nmax_steps = {os.environ.get('SESSION_STEPS', STEPS)}\n", encoding="utf-8")
    done = asked(out, "adapter", "register", str(out / "first"), "--task", TASK, "--config", str(out / "config.toml"))
    body = done.pop("output")
    keys = ("version", "status", "seconds", "unknown", "calibration", "cost")
    kept = {key: body[key] for key in keys}
    scores = {name: row["macro_f1"] for name, row in body["baselines"].items()}
    row = body["cascade"] or {}
    return {
        **done,
        **kept,
        "macro_f1": body["quality"]["macro_f1"],
        "n_test": body["quality"]["n_test"],
        "baselines": scores,
        "router": body["gate"]["router"],
        "cascade": {key: row[key] for key in ("macro_f1", "share", "first_error", "flows_per_s", "llm_flows_per_s")} if row else None,
    }


def analysed(out: Path) -> dict[str, Any]:
    """Share of flows of each unseen capture that were named as the folder says, and that were called unknown."""
    found: dict[str, Any] = {}
    for folder in sorted((out / "unseen").iterdir()):
        done = command(out, "analyze", str(next(folder.iterdir())), "--task", TASK, "-f", "jsonl")
        said = [json.loads(line)["label"] for line in done.pop("output").splitlines()]
        shares = {"right": said.count(folder.name) / len(said), "unknown": said.count("unknown") / len(said)}
        found[folder.name] = {"flows": len(said), **shares, "cpu_seconds": done["cpu_seconds"]}
    return found


def before(out: Path) -> dict[str, Any]:
    """The first version on the unseen captures."""
    return analysed(out)


def after(out: Path) -> dict[str, Any]:
    """The live version after the update."""
    return analysed(out)


def update(out: Path) -> dict[str, Any]:
    """`adapter update` with one family more; exit code 5 where the gate refuses it."""
    done = asked(out, "adapter", "update", str(out / "second"), "--task", TASK, "--config", str(out / "config.toml"))
    body = done.pop("output")
    keys = ("version", "status", "why", "gate", "transfer", "replayed", "added_labels", "seconds")
    return {**done, **({key: body[key] for key in keys} if body["ok"] else {"error": body["error"]})}


def rollback(out: Path) -> dict[str, Any]:
    """The way back, as a command and as the one call it makes."""
    from trafficllm.registry.store import Registry

    if len(Registry(out / "registry").list(TASK)) < 2 or Registry(out / "registry").live(TASK).version == "v0001":
        return {"skipped": "the update is not live, so there is nothing to roll back"}
    done = asked(out, "adapter", "rollback", TASK)
    registry = Registry(out / "registry")
    start = time.monotonic()
    registry.promote(TASK, "v0002")
    registry.rollback(TASK)
    spent = time.monotonic() - start
    return {**done, "output": done["output"]["version"], "promote_and_rollback_seconds": round(spent, 4)}


def checks(out: Path) -> dict[str, Any]:
    """Evidence by deletion, and merged against unmerged weights, with the version's own kept records of all parts."""
    from trafficllm.infer.detector import TaskModel
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.infer.evidence import every_part
    from trafficllm.lifecycle.adapters.replay import read
    from trafficllm.model.base.load import load_base
    from trafficllm.records.catalog import Task
    from trafficllm.records.codec import codec
    from trafficllm.registry.store import Registry

    version = Registry(out / "registry").show(TASK, "v0001")
    task = Task.model_validate(version.manifest["task_definition"])
    kept = read(version)
    records = [codec.decode(units) for units in kept.units]
    base = load_base("default", dtype="float32")
    merged, apart = (TaskModel.of(Engine(base, merge=side), task, version).scorer for side in (True, False))
    one, two = (scorer.score(records).probabilities for scorer in (merged, apart))
    agree = {
        "flows": len(records),
        "share_equal": float((one.argmax(axis=1) == two.argmax(axis=1)).mean()),
        "largest_difference": float(np.abs(one - two).max()),
    }
    tested = [r for r, part in zip(records, kept.parts, strict=True) if part == "test" and len(every_part(r, frames(r))) > PARTS]
    return {"merged": agree, "deletion": deletion(merged, random.Random(SEED).sample(tested, min(DELETED, len(tested))))}


def frames(record: Record) -> tuple[int, ...]:
    """Frame numbers of a kept record, which has none of its own."""
    return tuple(range(1, max(1, len(record.dirs)) + 1))


def deletion(scorer: Any, records: Sequence[Record]) -> dict[str, float]:
    """What taking the three named parts away costs the verdict, against as many parts drawn at random from the same record."""
    from trafficllm.infer.evidence import every_part, explain, without

    if not records:
        return {"flows": 0}
    metas = [FlowMeta(frames=frames(record)) for record in records]
    whole = scorer.score(records).probabilities
    best = whole.argmax(axis=1).tolist()
    named = [[(e.frame, e.field) for e in found] for found in explain(scorer, records, best, metas, top=3)]
    chooser = random.Random(SEED)

    def loss(parts: Sequence[Sequence[tuple[int, str]]]) -> np.ndarray[Any, Any]:
        less = [without(record, meta.frames, some) for record, meta, some in zip(records, metas, parts, strict=True)]
        p = scorer.score(less).probabilities
        return np.array([whole[k, b] - p[k, b] for k, b in enumerate(best)])

    ours = loss(named)
    theirs = np.mean(
        [
            loss([chooser.sample(every_part(r, m.frames), len(some)) for r, m, some in zip(records, metas, named, strict=True)])
            for _ in range(DRAWS)
        ],
        axis=0,
    )
    spread = np.random.default_rng(SEED).choice(ours - theirs, size=(2000, len(ours))).mean(axis=1)
    return {
        "flows": len(records),
        "named": float(ours.mean()),
        "random": float(theirs.mean()),
        "share_named_costs_more": float((ours > theirs).mean()),
        "lower_95": float(np.quantile(spread, 0.05)),
    }


def memory(out: Path) -> dict[str, Any]:
    """Peak memory of analysing a short and a long capture."""
    found = {}
    for count in MEMORY:
        done = command(out, "analyze", str(out / f"{count}.pcap"), "--task", TASK, "-f", "jsonl")
        flows = len(done.pop("output").splitlines())
        found[str(count)] = {"flows": flows, "peak_bytes": done["peak_bytes"], "cpu_seconds": done["cpu_seconds"]}
    return found


def run(phase: str, out: Path) -> None:
    """One phase; its figures go to a file of its own."""
    work: Callable[[Path], dict[str, Any]] = globals()[phase]
    write_json(out / f"{phase}.json", work(out))


def table(out: Path) -> Mapping[str, Any]:
    """All phases' figures."""
    return {"command": "python recipes/adapters/session.py --out OUT", **{phase: read_json(out / f"{phase}.json") for phase in PHASES}}


def main() -> None:
    """Run the phases that are missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--phase", choices=PHASES, action="append", help="these phases alone")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    os.environ["SESSION_STEPS"] = str(chosen.steps)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for phase in chosen.phase or PHASES:
        if not (chosen.out / f"{phase}.json").is_file():
            run(phase, chosen.out)
        print(json.dumps({phase: read_json(chosen.out / f"{phase}.json")}, indent=1), flush=True)
    if chosen.json:
        write_json(chosen.json, dict(table(chosen.out)))


if __name__ == "__main__":
    main()
