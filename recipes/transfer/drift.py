"""Drift shown: services of 2015 against captures of 2016-2024, before and after an update with 20 % of them.

    python recipes/transfer/drift.py --data ../shared/data --out runs/drift [--seconds 300] [--json docs/results/drift.json]

`EVD_iscxvpn2016` without its VPN classes is learnt (files of 784 bytes a session), `CD_service_after_2015` is cut alike, a fifth of its
captures a label is learnt by `adapter update`, the others are judged before and after. Reserved captures are in neither. Every stage is a
file: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trafficllm.core.files import hash64, read_json, write_json
from trafficllm.core.types import FrameBatch, Silent
from trafficllm.records.dataset.reserved import Reserved

OLD, NEW = "EVD_iscxvpn2016", "CD_service_after_2015"
SHARE = 0.2
"""Of each label's new captures: learnt by the update. At least one."""
_KEPT = ("macro_f1", "ci95", "accuracy", "n_test", "n_test_unique", "groups", "split", "mask", "leaky", "seen_by_base", "seeds", "per_seed")


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """A quality object without its confusion matrix, baselines beside it."""
    rows = {name: {key: row[key] for key in _KEPT} for name, row in found["baselines"].items()}
    return {**{key: found[key] for key in _KEPT}, "baselines": rows}


def folders(data: Path, out: Path) -> None:
    """`old`: the six services outside VPN; `learn` and `judge`: the new captures cut alike, a fifth and the rest."""
    from trafficllm.capture.files.cut import measured

    held = Reserved.load(data / "RESERVED.csv")
    labels = sorted(entry.name for entry in (data / NEW).iterdir() if entry.is_dir())
    for label in labels:
        for file in sorted((data / OLD / label).iterdir()):
            if not held.share(f"{label}/{file.name}"):
                _link(file, out / "captures" / OLD / label / file.name)
    cut = measured([out / "captures" / OLD])
    for label in labels:
        free = [file for file in sorted((data / NEW / label).iterdir()) if not held.share(f"{label}/{file.name}")]
        order = sorted(free, key=lambda file: hash64(file.name.encode()))
        learnt = set(order[: max(1, round(SHARE * len(order)))]) if len(order) > 1 else set()
        for file in free:
            side = "learn" if file in learnt else "judge"
            _cut(file, out / "captures" / side / label / f"{file.stem}.pcapng", cut)
    write_json(out / "cut.json", {"snap": cut.snap, "flow": cut.flow})


def _link(file: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(file.resolve())


def _cut(file: Path, target: Path, cut: Any) -> None:
    from trafficllm.capture.files.cut import cut_frames
    from trafficllm.capture.files.write import write_capture

    target.parent.mkdir(parents=True, exist_ok=True)
    frames: Iterator[FrameBatch] = cut_frames(file, cut)
    write_capture(target, frames, format="pcapng")


def once(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in `path`, made by `work` where there is none."""
    if not path.is_file():
        write_json(path, work())
    return dict(read_json(path))


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """All stages."""
    from trafficllm.core.settings import TuneOptions
    from trafficllm.lifecycle.adapters import learn
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.lifecycle.adapters.update import update
    from trafficllm.lifecycle.adapters.upkeep import show_adapter
    from trafficllm.lifecycle.studies.drift import drift
    from trafficllm.lifecycle.studies.evaluation_set import EvalOptions
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.catalog import get_task
    from trafficllm.records.dataset.dataset import BuildOptions, build_dataset

    out: Path = asked.out
    if not (out / "cut.json").is_file():
        folders(asked.data, out)
    app, task = Workspace(base=asked.base, registry=str(out / "registry")), get_task("EVD")
    build_dataset(
        out / "captures" / OLD, task=task, out=out / "data", options=BuildOptions(cap=asked.cap, split="capture"), progress=Silent()
    )
    options = TuneOptions(max_seconds=asked.seconds, clock="processor", epochs=1000)
    training = Training(app.base, app.registry, out / "tune", options, baselines=False, members=asked.members)
    once(out / "register.json", lambda: learn.register(out / "data", training, task=task).as_dict())

    def judged(version: str, html: Path, *learnt: Path) -> dict[str, Any]:
        result = drift(
            app,
            out / "data",
            [out / "captures" / "judge"],
            adapter=Path(show_adapter(app, "EVD", version).path),
            learnt=learnt,
            options=EvalOptions(most=asked.most),
            html=html,
            progress=Silent(),
        )
        return result.as_dict()

    before = once(out / "before.json", lambda: judged("v0001", out / "before.html"))

    again = replace(training, workdir=out / "tune-update")
    updated = once(out / "update.json", lambda: update(out / "captures" / "learn", again, task=task).as_dict())
    after = once(out / "after.json", lambda: judged(updated["version"], out / "after.html", out / "captures" / "learn"))
    return {
        "command": "python recipes/transfer/drift.py --data DATA --out OUT",
        "cut": read_json(out / "cut.json"),
        "seconds": asked.seconds,
        "members": asked.members,
        "drift": before["drift"],
        "flows": before["flows"],
        "before": kept(before["live"]),
        "after": kept(after["live"]),
        "where_it_was_trained": {"before": kept(before), "after": kept(after), "part": "test, without reserved captures"},
        "update": {key: updated.get(key) for key in ("status", "why", "gate", "version")},
    }


def main(words: Sequence[str] | None = None) -> int:
    """Run what is due, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="default")
    parser.add_argument("--seconds", type=float, default=150.0, help="of one core, for each member's tuning")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--cap", type=int, default=300, help="training flows a class at most")
    parser.add_argument("--most", type=int, default=2000, help="flows a side that are compared")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(words)
    body = run(asked)
    found = body["drift"]
    print(f"fields that moved: {', '.join(row['field'] for row in found['fields'][:8]) or 'none'}; update due: {found['update_due']}")
    for side in ("before", "after"):
        rows = {"adapter": body[side], **body[side]["baselines"]}
        print(f"live macro-F1 {side}: " + ", ".join(f"{name} {row['macro_f1']:.3f}" for name, row in rows.items()))
    print(f"update: {body['update']['status']}")
    if asked.json:
        write_json(asked.json, body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
