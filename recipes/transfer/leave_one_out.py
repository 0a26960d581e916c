"""A base that never saw a task's folders: how few flows of that task are then enough, beside the base that saw all, and beside trees.

    python recipes/transfer/leave_one_out.py --data DATA --plain runs/plain/final --corpus runs/corpus --out runs/leave --task MTD

One task is left out of the traffic step of `recipes/nano` (all its folders, from tokenizer and weights alike), then `evaluate transfer`
draws its few-shot curves with that base. Give `--base runs/traffic/final`, which has read as much and no instructions. A step of training
costs what it costs in `recipes/nano`; `--seconds` bounds it. With `--present` only the base at hand is asked, and none is trained. Every
stage is a file: an interrupted run goes on. Validation is judged unless `--part test` is asked for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from trafficllm.core.files import read_json, write_json
from trafficllm.core.types import Silent

NANO = Path(__file__).resolve().parents[1] / "nano"
FOLDER = {
    "MTD": "MTD_ustc2016",
    "EVD": "EVD_iscxvpn2016",
    "EAC": "EAC_ndpi_app",
    "MDD": "MDD_dns_tunnel",
    "WAD": "WAD_csic2010",
    "WF": "WF_tor_cells_wikipedia",
}


def left_out(folders: Mapping[str, str], task: str) -> list[str]:
    """Folders of the traffic step that belong to a task."""
    return [folder for folder, owner in folders.items() if owner == task]


def narrow(traffic: ModuleType, task: str, data: Path, out: Path) -> None:
    """Make the traffic step forget a task: none of its folders, and nothing of their captures or contents in any other folder."""
    from trafficllm.records.catalog import get_task
    from trafficllm.records.dataset.dataset import PARTS, BuildOptions, build_dataset, load

    gone = left_out(traffic.RECIPE["folders"], task)
    hidden = []
    for folder in gone:
        build_dataset(
            data / folder,
            task=get_task(task),
            out=out / "hidden" / folder,
            options=BuildOptions(keep=("housekeeping",), reserved=data / "RESERVED.csv"),
            progress=Silent(),
        )
        hidden.append(load(out / "hidden" / folder))
    known = traffic.held_back

    def held_back(sets: Iterable[Any]) -> tuple[set[str], set[int]]:
        origins, contents = known(sets)
        for made in hidden:
            rows = [row for part in PARTS for row in made.indices(part)]
            origins |= {meta.origin for meta in made.meta(rows)}
            contents |= set(made.hashes(rows)) | {traffic.content(record) for record in traffic.strict(made, rows)}
        return origins, contents

    traffic.held_back = held_back
    traffic.RECIPE["folders"] = {folder: owner for folder, owner in traffic.RECIPE["folders"].items() if folder not in gone}


def train(asked: argparse.Namespace) -> None:
    """The traffic step of `recipes/nano` without the task, in this process."""
    sys.path.insert(0, str(NANO))
    import traffic

    out = asked.out / asked.task / "traffic"
    narrow(traffic, asked.task, asked.data, out)
    words = ["--data", asked.data, "--plain", asked.plain, "--corpus", asked.corpus, "--out", out]
    words += ["--max-seconds", asked.seconds] if asked.seconds else []
    sys.argv = [str(NANO / "traffic.py"), *map(str, words)]
    traffic.main()


def trained(asked: argparse.Namespace, words: Sequence[str]) -> Path:
    """The base without the task, trained in a process of its own where there is none yet."""
    place = asked.out / asked.task / "traffic"
    if not (place / "final" / "config.json").is_file():
        subprocess.run([sys.executable, __file__, *words, "--train"], check=True)
    return Path(place / "final")


def curves(asked: argparse.Namespace, base: str, out: Path) -> dict[str, Any]:
    """Few-shot curves of the task with one base."""
    from trafficllm.lifecycle.studies.evaluation_set import EvalOptions
    from trafficllm.lifecycle.studies.transfer import FewShot, transfer
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.catalog import get_task
    from trafficllm.records.dataset.dataset import BuildOptions, build_dataset

    if not out.is_file():
        data = asked.out / asked.task / "data"
        build_dataset(
            asked.data / FOLDER[asked.task],
            task=get_task(asked.task),
            out=data,
            options=BuildOptions(cap=600, reserved=asked.data / "RESERVED.csv"),
            progress=Silent(),
        )
        app = Workspace(base=base, registry=str(asked.out / "registry"))
        result = transfer(
            app,
            data,
            data,
            few=FewShot(draws=asked.draws, max_seconds=asked.tune, checkpoint=asked.checkpoint),
            options=EvalOptions(part=asked.part, most=asked.most),
            html=out.with_suffix(".html"),
            progress=Silent(),
        )
        write_json(out, result.as_dict())
    return dict(read_json(out))


def short(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Few-shot rows without the figures of single classes."""
    left = {"per_class", "scored_labels", "one_group"}
    return [
        {**row, "rows": {name: {k: v for k, v in score.items() if k not in left} for name, score in row["rows"].items()}} for row in rows
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Both bases, side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("plain", "corpus"):
        parser.add_argument(f"--{name}", type=Path, help="for the traffic step without the task")
    parser.add_argument("--present", action="store_true", help="only --base, which has read the task's training captures unlabelled")
    parser.add_argument("--task", choices=sorted(FOLDER), required=True)
    parser.add_argument("--base", default="default", help="the base that saw all tasks")
    parser.add_argument("--seconds", type=float, default=0.0, help="of the traffic step, instead of the recipe's")
    parser.add_argument("--tune", type=float, default=0.0, help="seconds of tuning on each draw; 0: probes only")
    parser.add_argument("--checkpoint", type=Path, help="weights of TabICL, which then learns from the same flows")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--most", type=int, default=2000)
    parser.add_argument("--part", choices=("val", "test"), default="val")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    words = sys.argv[1:] if words is None else list(words)
    asked = parser.parse_args(words)
    if asked.train:
        train(asked)
        return 0
    place = asked.out / asked.task
    place.mkdir(parents=True, exist_ok=True)
    if not asked.present and not (asked.plain and asked.corpus):
        parser.error("a base without the task is trained from --plain and --corpus; --present does without one")
    bases = {"all": asked.base} if asked.present else {"without": str(trained(asked, words)), "all": asked.base}
    found = {name: curves(asked, base, place / f"{name}_{asked.part}.json") for name, base in bases.items()}
    for name, body in found.items():
        for row in body["shots"]:
            scores = ", ".join(f"{way} {score['macro_f1']:.3f}" for way, score in row["rows"].items())
            print(f"{asked.task}, base {name}, {row['shots']} a class: {scores}")
    if asked.json:
        facts = {"task": asked.task, "part": asked.part, "draws": asked.draws, "tune_seconds": asked.tune, "traffic_seconds": asked.seconds}
        gains = {name: body["gain_at_20"] for name, body in found.items()}
        write_json(asked.json, {**facts, "gain_at_20": gains, **{name: short(body["shots"]) for name, body in found.items()}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
