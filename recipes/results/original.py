"""The original system's published files, three ways beside its own figures: as published, masked, masked and split by flow.

    python recipes/results/original.py --files FOLDER --out runs/original [--seconds 600] [--json original.json]

FOLDER holds `<dataset>_detection_<packet|flow>_{train,test}.json` with `<dataset>_label.json`, as published. For each data set:
`published` keeps the files' own parts and shows everything (addresses, ports, time); `masked` keeps the parts under strict masks;
`honest` puts both files together and splits them by flow. An adapter and the baselines learn each way. Every stage is a file: an
interrupted run goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trafficllm.core.errors import InputError, TrafficLLMError
from trafficllm.core.files import atomic_write, read_json, write_json
from trafficllm.core.types import Silent

PUBLISHED = {
    "tor": ("TBD", 0.9810),
    "vpn": ("EVD", 0.9960),
    "app53": ("CD", 0.9320),
    "cstnet": ("EAC", 0.9599),
    "cw": ("WF", 0.9366),
    "botnet": ("BND", 0.9800),
    "ustc": ("MTD", 0.9950),
    "doh": ("MDD", 0.9639),
    "dapt": ("AAD", 0.9810),
    "csic": ("WAD", 0.9845),
}
"""Part of a file's name -> task, and the F1 that arXiv 2504.04222 gives for it (on its own split of packets)."""
WAYS = {"published": "raw", "masked": "strict", "honest": "strict"}
"""Each way and its masks."""


@dataclass(frozen=True, slots=True)
class Files:
    """One published data set: its name, the files of both parts, its labels' file."""

    name: str
    train: Path
    test: Path
    labels: Path

    @property
    def known(self) -> tuple[str, float | None]:
        """Task and published figure; a data set of another name is a task of its own."""
        return next((pair for part, pair in PUBLISHED.items() if part in self.name.lower()), (self.name.split("_")[0].upper(), None))


def find(folder: Path) -> list[Files]:
    """Data sets with both parts. InputError where there is none."""
    out = []
    for train in sorted(folder.glob("*_detection_*_train.json")):
        name = train.name.removesuffix("_train.json")
        test, labels = train.with_name(f"{name}_test.json"), train.with_name(f"{name.split('_detection_')[0]}_label.json")
        if test.is_file():
            out.append(Files(name, train, test, labels))
    if not out:
        hint = "<dataset>_detection_packet_train.json and ..._test.json, as published"
        raise InputError("input.original", "no published data set here", input=str(folder), hint=hint)
    return out


def laid_out(files: Files, way: str, place: Path) -> Path:
    """A folder to build from: links to both files, or for `honest` one file of both, which then has no parts of its own."""
    place.mkdir(parents=True, exist_ok=True)
    links = [files.labels] if files.labels.is_file() else []
    if way == "honest":
        atomic_write(place / files.train.name, files.train.read_bytes().rstrip(b"\n") + b"\n" + files.test.read_bytes())
    else:
        links += [files.train, files.test]
    for path in links:
        if not (place / path.name).exists():
            (place / path.name).symlink_to(path.resolve())
    return place


def score(files: Files, way: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Build, tune, judge one way; what is done already is taken."""
    from trafficllm.core.settings import TuneOptions
    from trafficllm.lifecycle.adapters import learn
    from trafficllm.lifecycle.datasets import new_task
    from trafficllm.lifecycle.studies.evaluation_set import EvalOptions
    from trafficllm.lifecycle.studies.run import evaluate
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.model.tuning.job import tune_task
    from trafficllm.records.catalog import load_tasks
    from trafficllm.records.dataset.dataset import BuildOptions, build_dataset, load

    place = asked.out / files.name / way
    report = place / "report.json"
    if not report.is_file():
        name = files.known[0]
        task = load_tasks().get(name) or new_task(name)
        source = laid_out(files, way, place / "files")
        build_dataset(
            source, task=task, out=place / "data", options=BuildOptions(profile=WAYS[way], cap=asked.cap or None), progress=Silent()
        )
        workspace = Workspace(base=asked.base)
        options = TuneOptions(max_seconds=asked.seconds or None, max_steps=asked.steps or None, epochs=1000, seed=0)
        tune_task(workspace.base, learn.tune_data(load(place / "data")), place / "adapter", options, Silent())
        budget = asked.budget or max(60.0, asked.seconds)
        result = evaluate(
            workspace,
            [place / "data"],
            adapters=[place / "adapter"],
            options=EvalOptions(budget_s=budget),
            html=place / "report.html",
            progress=Silent(),
        )
        write_json(report, {key: value for key, value in result.as_dict().items() if key not in {"answers", "curves"}})
    return dict(read_json(report))


def row(files: Files, asked: argparse.Namespace) -> dict[str, Any]:
    """One data set: the published figure and ours, three ways, each beside its best baseline."""
    from trafficllm.evaluate.quality import validate

    out: dict[str, Any] = {"dataset": files.name, "task": files.known[0], "original_f1": files.known[1]}
    for way in WAYS:
        body = score(files, way, asked)
        validate(body)
        best = max((n for n in body["baselines"] if n != "identifier_probe"), key=lambda n: body["baselines"][n]["macro_f1"])
        kept = ("macro_f1", "ci95", "accuracy", "n_test", "n_test_unique", "split", "mask", "leaky", "seen_by_base", "seeds")
        baselines = {name: {key: found[key] for key in kept} for name, found in body["baselines"].items()}
        out[way] = {**{key: body[key] for key in kept}, "best_baseline": best, "baselines": baselines}
    return out


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table: what split and masks do to one and the same model."""
    head = ("data set", "original, its split", *(f"{way}: adapter / best baseline" for way in WAYS))
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for found in rows:
        cells = [found["dataset"], "-" if found["original_f1"] is None else f"{found['original_f1']:.3f}"]
        for way in WAYS:
            one = found[way]
            best = one["baselines"][one["best_baseline"]]["macro_f1"]
            leaky = ", LEAKY" if one["leaky"] else ""
            cells.append(f"{one['macro_f1']:.3f} / {best:.3f} {one['best_baseline']} ({one['split']}, {one['mask']}{leaky})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """All data sets; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="default")
    parser.add_argument("--seconds", type=float, default=600.0, help="of training, each way")
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps at most, each way")
    parser.add_argument("--cap", type=int, default=0, help="training rows a class at most")
    parser.add_argument("--budget", type=float, default=0.0, help="estimated seconds of search for each baseline")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(words)
    rows, failed = [], False
    for files in find(asked.files):
        try:
            rows.append(row(files, asked))
        except TrafficLLMError as error:
            print(f"{files.name}: {error}", file=sys.stderr)
            failed = True
    print(markdown(rows))
    if asked.json:
        write_json(asked.json, {"schema": "trafficllm.results.original/1", "rows": rows})
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
