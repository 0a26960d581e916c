"""The honest table: six tasks, the adapter alone over seeds, the cascade, every baseline, the leaky number beside.

    python recipes/results/results.py --data ../shared/data --out runs/results --part val --seconds 30 --seeds 0   # a trial
    python recipes/results/results.py --data ../shared/data --out runs/results --results docs/results              # the scoring

Every stage is a file: an interrupted run goes on where it stopped, another base or budget has files of its own. Each stage is a process of
its own, so that its peak memory is its own. `--part val` judges validation flows and learns without looking at them; only `--part test`
reads the reserved part, once a base, budget and commit: its report is not made again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tables

from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.files import read_json, sha256_bytes, sha256_file, write_json
from trafficllm.core.types import Silent

PLAN = tomllib.loads(Path(__file__).with_name("results.toml").read_text(encoding="utf-8"))
TUNED = "tune.json"
STAGES = ("data", "tune", "calibrate", "score", "together", "leaky")


@dataclass(frozen=True, slots=True)
class Run:
    """What was asked for."""

    data: Path
    out: Path
    base: str
    part: str
    seconds: float
    steps: int
    threads: int
    cap: int
    most: int
    budget: float
    embedding: bool

    def entry(self, task: str) -> dict[str, Any]:
        """The task's plan."""
        return dict(PLAN["task"][task])

    def budget_of(self, task: str) -> tuple[float | None, int | None]:
        """Seconds and steps of one adapter: steps alone where they are asked for."""
        return (None, self.steps) if self.steps else (self.seconds or float(self.entry(task)["seconds"]), None)

    def dataset(self, task: str) -> Path:
        """The task's data set."""
        return self.out / task / (f"data-{self.cap}" if self.cap else "data")

    def place(self, task: str) -> Path:
        """Where adapters and report lie: of this part, base and budget."""
        seconds, steps = self.budget_of(task)
        budget = f"{steps}steps" if steps else f"{seconds:g}s"
        cap = f"-cap{self.cap}" if self.cap else ""
        return self.out / task / f"{self.part}-{base_sha(self.base)[:8]}-{budget}{cap}"

    def report(self, task: str) -> Path:
        """The task's report."""
        return self.place(task) / "report.json"

    def together(self, task: str) -> Path:
        """The report of the task's adapters as members of one version."""
        return self.place(task) / "together.json"


def base_sha(name: str) -> str:
    """A hash of the base, without loading it: its manifest's, or that of the weights of any other model folder."""
    from trafficllm.model.base.load import resolve

    folder = resolve(name)
    if (folder / "trafficllm.json").is_file():
        return str(read_json(folder / "trafficllm.json")["base_sha256"])
    return sha256_bytes("".join(sha256_file(path) for path in sorted(folder.glob("*.safetensors"))).encode())


# Stages


def data(run: Run, task: str, _: int) -> None:
    """The data set, reserved flows in its test part."""
    from trafficllm.records.catalog import get_task
    from trafficllm.records.dataset.dataset import BuildOptions, build_dataset

    entry = run.entry(task)
    folder = run.data / entry["folder"]
    if "captures" in entry:
        folder = linked(folder, run.out / task / "labels", captures=entry["captures"], flows=entry["flows"])
    build_dataset(
        folder,
        task=get_task(task),
        out=run.dataset(task),
        options=BuildOptions(cap=run.cap or entry.get("cap"), reserved=run.data / "RESERVED.csv", workers=run.threads),
        progress=Silent(),
    )


def linked(folder: Path, out: Path, *, captures: int, flows: int) -> Path:
    """A folder of links to the labels with enough captures and flows."""
    from trafficllm.capture.files.read import expand
    from trafficllm.capture.flows.info import capture_info

    place = out / folder.name
    for label in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        files = expand([label])
        if len(files) >= captures and capture_info(files).flows >= flows:
            (place / label.name).mkdir(parents=True, exist_ok=True)
            for file in files:
                link = place / label.name / file.name
                if not link.exists():
                    link.symlink_to(file.resolve())
    return place


def tune(run: Run, task: str, seed: int) -> None:
    """One adapter. For a trial the last weights are kept and validation is never looked at."""
    from trafficllm.core.settings import TuneOptions
    from trafficllm.lifecycle.adapters import learn
    from trafficllm.model.base.load import load_base
    from trafficllm.model.tuning.job import tune_task
    from trafficllm.records.dataset.dataset import load

    seconds, steps = run.budget_of(task)
    own = PLAN["tune"] | run.entry(task).get("tune", {}) | ({"looks": 0} if run.part == "val" else {})
    options = TuneOptions(**own, max_seconds=seconds, max_steps=steps, seed=seed)
    base = load_base(run.base, dtype="float32")
    tune_task(base, learn.tune_data(load(run.dataset(task))), run.place(task) / f"seed{seed}", options, Silent())


def calibrate(run: Run, task: str, seed: int) -> None:
    """Calibration of one adapter across captures, in its `tune.json`; its readout learns training and validation flows. The tuned weights
    have learnt training flows alone."""
    from trafficllm.lifecycle.calibration import crossfit
    from trafficllm.model.base.load import load_base
    from trafficllm.records.catalog import get_task
    from trafficllm.records.dataset.dataset import load

    folder = run.place(task) / f"seed{seed}"
    base = load_base(run.base, dtype="float32")
    calibration = crossfit.finish(base, load(run.dataset(task)), get_task(task), folder, seed=seed)
    write_json(folder / TUNED, {**read_json(folder / TUNED), "calibration": calibration or {}})


def score(run: Run, task: str, _: int) -> None:
    """The report of all seeds with baselines and cascade; its page beside it."""
    from trafficllm.lifecycle.studies.evaluation_set import EvalOptions
    from trafficllm.lifecycle.studies.run import evaluate
    from trafficllm.lifecycle.workspace import Workspace

    place, start = run.place(task), time.time()
    seconds = run.budget_of(task)[0] or 0.0
    adapters = sorted(path.parent for path in place.glob(f"seed*/{TUNED}"))
    result = evaluate(
        Workspace(base=run.base),
        [run.dataset(task)],
        adapters=adapters,
        embedding=run.embedding,
        options=EvalOptions(part=run.part, most=run.most, budget_s=run.budget or max(PLAN["baseline_seconds"], seconds)),
        html=place / "report.html",
        progress=Silent(),
    )
    made = {"commit": commit(), "date": time.strftime("%Y-%m-%d"), "seconds": round(time.time() - start, 1), "threads": run.threads}
    write_json(
        run.report(task), {**result.as_dict(), "made": made, "curves_of_learning": [tables.learning(adapter) for adapter in adapters]}
    )


def sets_of_members(seeds: Sequence[int]) -> list[list[int]]:
    """The seeds in sets of as many as a version has members, none in two of them; those left over stand alone.

    >>> sets_of_members([0, 1, 2, 3, 4])
    [[0, 1, 2]]
    """
    count = int(PLAN["members"])
    return [list(seeds[at : at + count]) for at in range(0, len(seeds) - count + 1, count)]


def together(run: Run, task: str, _: int) -> None:
    """The report of versions of several members, each calibrated as one; without baselines, which stand in the other report."""
    from trafficllm.lifecycle.calibration import crossfit
    from trafficllm.lifecycle.members import tuned
    from trafficllm.lifecycle.studies.evaluation_set import EvalOptions
    from trafficllm.lifecycle.studies.run import evaluate
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.model.base.load import load_base
    from trafficllm.records.catalog import get_task
    from trafficllm.records.dataset.dataset import load

    base, dataset, places = load_base(run.base, dtype="float32"), load(run.dataset(task)), []
    for number, seeds in enumerate(sets_of_members(tuned_seeds(run, task))):
        place = run.place(task) / f"together{number}"
        sources = [run.place(task) / f"seed{seed}" for seed in seeds]
        facts = read_json(sources[0] / TUNED)
        members = tuned.taken(sources, base, facts["labels"], place)
        calibration = crossfit.finish(base, dataset, get_task(task), place, seed=seeds[0])
        reports = [member.report for member in members]
        cost = {key: sum(getattr(report, key) for report in reports) for key in ("seconds", "steps")}
        cost["peak_bytes"] = max(report.peak_bytes for report in reports)
        write_json(place / TUNED, {**facts, "members": seeds, "report": cost, "calibration": calibration or {}})
        places.append(place)
    options = EvalOptions(part=run.part, most=run.most)
    result = evaluate(Workspace(base=run.base), [run.dataset(task)], adapters=places, baselines=False, options=options, progress=Silent())
    members_of = [read_json(place / TUNED)["members"] for place in places]
    write_json(
        run.together(task), {**result.as_dict(), "members": members_of, "made": {"commit": commit(), "date": time.strftime("%Y-%m-%d")}}
    )


def tuned_seeds(run: Run, task: str) -> list[int]:
    """The seeds of which an adapter lies there, in order."""
    return sorted(int(path.parent.name.removeprefix("seed")) for path in run.place(task).glob(f"seed*/{TUNED}"))


def leaky(run: Run, task: str, _: int) -> None:
    """The literature's number: a random forest on single packets, raw and split at random. Reserved flows are left alone."""
    from trafficllm.evaluate.audit.packets import side_by_side
    from trafficllm.evaluate.audit.results import AuditScore
    from trafficllm.evaluate.audit.rows import rows_of
    from trafficllm.evaluate.quality import quality
    from trafficllm.records.dataset.dataset import load

    dataset = load(run.dataset(task))
    rows = rows_of(dataset, spare_test=True)
    labels = sorted(set(rows.y))

    def judge(flows: Sequence[int], answers: Sequence[str], split: str, mask: str) -> AuditScore:
        truth, groups = [rows.y[i] for i in flows], [rows.groups[i] for i in flows]
        score = quality(
            labels, truth, answers, groups, unique_hashes=range(len(flows)), split=split, mask=mask, leaky=[], seen_by_base=0, seeds=[0]
        )
        return AuditScore.of(score)

    unit = str(dataset.manifest["split"]["unit"])
    packets = rows.raw and rows.raw[0].kind in ("flow", "packet")
    judged = "test" if "test" in rows.part else "val"
    ways = side_by_side(rows, labels, judge, split=unit, profile=dataset.profile, judged=judged, threads=run.threads) if packets else {}
    shown = ("macro_f1", "accuracy", "ci95", "split", "mask", "n_test")
    scores = {way: {key: getattr(ways[way], key) for key in shown} if way in ways else None for way in ("leaky", "honest")}
    write_json(run.out / task / "packets.json", scores)


def commit() -> str:
    """The commit of this tree, marked where it was changed since."""
    here = Path(__file__).parent
    try:
        asked = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# The whole


def due(run: Run, task: str, seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Stages that have no file yet, in order."""
    out = [] if (run.dataset(task) / "manifest.json").is_file() else [("data", 0)]
    for seed in seeds:
        tuned = run.place(task) / f"seed{seed}" / TUNED
        out += [] if tuned.is_file() else [("tune", seed)]
        # A trial judges validation, so nothing of it may be learnt.
        due_here = run.part == "test" and not (tuned.is_file() and "calibration" in read_json(tuned))
        out += [("calibrate", seed)] if due_here else []
    scored = run.report(task)
    fresh = scored.is_file() and {row["seed"] for row in read_json(scored)["adapters"]} >= set(seeds)
    fresh = fresh and not any(stage == "calibrate" for stage, _ in out)
    out += [] if fresh else [("score", 0)]
    wanted = sets_of_members(sorted({*tuned_seeds(run, task), *seeds})) if run.part == "test" else []
    made = read_json(run.together(task))["members"] if run.together(task).is_file() and fresh else []
    out += [("together", 0)] if wanted and wanted != made else []
    return out + ([] if (run.out / task / "packets.json").is_file() else [("leaky", 0)])


def work(run: Run, task: str, seeds: Sequence[int], *, inline: bool) -> str:
    """All stages of a task that are due; what went wrong, or nothing."""
    for stage, seed in due(run, task, seeds):
        start = time.time()
        try:
            if inline:
                globals()[stage](run, task, seed)
            else:
                command = [sys.executable, __file__, *sys.argv[1:], "--stage", stage, "--tasks", task, "--seeds", str(seed)]
                subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(run.threads)})
        except (TrafficLLMError, subprocess.CalledProcessError) as error:
            return f"{task}: {stage} failed: {error}"
        print(f"{task}: {stage} {seed if stage in ('tune', 'calibrate') else ''} {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    return ""


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of task folders, with RESERVED.csv")
    parser.add_argument("--out", type=Path, required=True, help="where stages are kept")
    parser.add_argument("--results", type=Path, help="write table.json and table.md here")
    parser.add_argument("--leaderboard", type=Path, help="append a row for each new scoring of the reserved part to this file")
    parser.add_argument("--tasks", nargs="+", default=list(PLAN["task"]), choices=list(PLAN["task"]))
    parser.add_argument("--seeds", nargs="+", type=int, default=PLAN["seeds"])
    parser.add_argument("--part", choices=("test", "val"), default="test")
    parser.add_argument("--base", default="default")
    parser.add_argument("--seconds", type=float, default=0.0, help="of training a seed, instead of the plan's")
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps a seed instead of seconds: the same on every machine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="tasks at once")
    parser.add_argument("--cap", type=int, default=0, help="training flows a class, instead of the plan's")
    parser.add_argument("--most", type=int, default=0, help="judge at most so many flows (trials)")
    parser.add_argument("--budget", type=float, default=0.0, help="estimated seconds of search for each baseline")
    parser.add_argument("--embedding", action="store_true", help="also probe the frozen base")
    parser.add_argument("--inline", action="store_true", help="all stages in this process")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run what is due, write the tables; 1 where a task failed."""
    asked = parsed(words)
    run = Run(**{name: getattr(asked, name) for name in Run.__slots__})
    if asked.stage:
        globals()[asked.stage](run, asked.tasks[0], asked.seeds[0])
        return 0
    with ThreadPoolExecutor(asked.jobs) as pool:
        failed = [said for said in pool.map(lambda task: work(run, task, asked.seeds, inline=asked.inline), asked.tasks) if said]
    for said in failed:
        print(said, file=sys.stderr)
    done = {
        task: (run.report(task), run.out / task / "packets.json", run.together(task)) for task in asked.tasks if run.report(task).is_file()
    }
    body = tables.table({task: tables.row(*files) for task, files in done.items()}, PLAN, part=run.part)
    text = tables.markdown(body)
    print(text)
    if asked.results:
        write_json(asked.results / "table.json", body)
        (asked.results / "table.md").write_text(text, encoding="utf-8")
    if asked.leaderboard and run.part == "test":
        tables.enter(asked.leaderboard, body)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
