"""The adapters that the package carries: one resumable recipe from labelled captures to `src/trafficllm/data/adapters`.

    python recipes/shipped/shipped.py --data ../shared/data --out runs/shipped           # learn and register; resumes
    python recipes/shipped/shipped.py --data ../shared/data --out runs/shipped --pack    # and put them into the package

Only captures of origins with an open licence (shipped.toml) are learnt from; reserved ones are the test part. Every stage is a file and a
process of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.files import atomic_write
from trafficllm.core.types import Silent

if TYPE_CHECKING:
    from trafficllm.core.settings import TuneOptions

HERE = Path(__file__).resolve().parent
PLAN: dict[str, Any] = tomllib.loads((HERE / "shipped.toml").read_text(encoding="utf-8"))
PACKAGE = HERE.parents[1] / "src" / "trafficllm" / "data" / "adapters"
TUNED, MANIFEST, RESERVED = "tune.json", "manifest.csv", "RESERVED.csv"
STAGES = ("data", "tune", "register")


@dataclass(frozen=True, slots=True)
class Run:
    """What was asked for: data folder, where stages lie, base, optimizer steps of a member instead of the plan's seconds (0: those)."""

    data: Path
    out: Path
    base: str = "default"
    steps: int = 0
    threads: int = 1

    def options(self, task: str, seed: int) -> TuneOptions:
        """How one member is tuned."""
        from trafficllm.core.settings import TuneOptions

        bound = {"max_steps": self.steps} if self.steps else {"max_seconds": self.entry(task)["seconds"]}
        return TuneOptions(**PLAN["tune"], **bound, seed=seed)

    def entry(self, task: str) -> dict[str, Any]:
        """The task's plan."""
        return dict(PLAN["task"][task])

    def dataset(self, task: str) -> Path:
        """The task's data set."""
        return self.out / task / "data"

    def member(self, task: str, seed: int) -> Path:
        """The folder of one tuned adapter."""
        return self.out / task / f"seed{seed}"

    @property
    def registry(self) -> Path:
        """The registry that is filled."""
        return self.out / "registry"


def members(task: str) -> list[int]:
    """Seeds of a task's version: a generator has one."""
    from trafficllm.records.catalog import get_task

    return list(PLAN["members"]) if get_task(task).kind == "detection" else list(PLAN["members"][:1])


# Captures


def captures(run: Run, task: str) -> Iterator[tuple[str, Path, str]]:
    """Label, file and source of every capture that may be learnt from or scored."""
    from trafficllm.records.sources.origins import Origins

    for folder in run.entry(task)["folders"]:
        origins = Origins.find(run.data / folder)
        for file in sorted((run.data / folder).glob("*/*")):
            source = origins.source_of(f"{file.parent.name}/{file.name}")
            if file.is_file() and source in PLAN["licence"]:
                yield file.parent.name, file, source


def links(run: Run, task: str) -> Path:
    """A folder of links to the captures, by label, with a manifest of their sources beside it; labels with too little are left out."""
    from trafficllm.capture.flows.info import capture_info
    from trafficllm.records.dataset.reserved import Reserved

    entry, reserved = run.entry(task), Reserved.load(run.data / RESERVED)
    found, learnt = list(captures(run, task)), dict[str, list[Path]]()
    for label, file, _ in found:
        if reserved.share(f"{label}/{file.name}") < 1:
            learnt.setdefault(label, []).append(file)
    enough = {
        label
        for label, files in learnt.items()
        if len(files) >= entry.get("captures", 1) and capture_info(files).flows >= entry.get("flows", 1)
    }
    place = run.out / task / "labels" / "captures"
    for label, file, _ in found:
        if label in enough:
            link(file, place / label / file.name)
    rows = [f"{label}/{file.name},{source}" for label, file, source in found if label in enough]
    atomic_write(place / MANIFEST, "\n".join(["file,source", *rows, ""]))
    return place


def link(file: Path, place: Path) -> None:
    """A symbolic link, where there is none yet."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(file.resolve())


# Stages


def data(run: Run, task: str, _: int) -> None:
    """The data set, reserved flows in its test part."""
    from trafficllm.records.catalog import get_task
    from trafficllm.records.dataset.dataset import BuildOptions, build_dataset

    entry = run.entry(task)
    options = BuildOptions(cap=entry.get("cap"), profile=entry.get("profile", "strict"), reserved=run.data / RESERVED, workers=run.threads)
    build_dataset(links(run, task), task=get_task(task), out=run.dataset(task), options=options, progress=Silent())


def tune(run: Run, task: str, seed: int) -> None:
    """One member's weights."""
    from trafficllm.lifecycle.adapters import learn
    from trafficllm.model.base.load import load_base
    from trafficllm.model.tuning.job import tune_task
    from trafficllm.records.dataset.dataset import load

    base = load_base(run.base, dtype="float32")
    tune_task(base, learn.tune_data(load(run.dataset(task))), run.member(task, seed), run.options(task, seed), Silent())


def register(run: Run, task: str, _: int) -> None:
    """The version: members averaged, calibrated across captures, first step and operating point from the package's background."""
    from trafficllm.core.settings import Config
    from trafficllm.lifecycle.adapters import learn, learn_generator
    from trafficllm.lifecycle.adapters.background import chosen, read_for
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.model.base.load import load_base
    from trafficllm.records.catalog import get_task
    from trafficllm.records.dataset.dataset import load
    from trafficllm.registry.store import Registry

    definition, dataset, options = get_task(task), load(run.dataset(task)), run.options(task, members(task)[0])
    training = Training(load_base(run.base, dtype="float32"), Registry(run.registry), run.out / task / "adapter", options)
    if definition.kind == "generation":
        learn_generator.learn_generator(dataset, training, task=definition, labels=dataset.manifest["trainable"])
        return
    background = read_for(dataset, (), chosen(definition, Config(), None), progress=Silent())
    tuned = [run.member(task, seed) for seed in members(task)]
    learn.register(dataset, training, task=definition, trained=tuned, refit=True, background=background)


# The whole


def due(run: Run, task: str) -> list[tuple[str, int]]:
    """Stages that have no file yet, in order; a generator is tuned where it is registered."""
    out = [] if (run.dataset(task) / "manifest.json").is_file() else [("data", 0)]
    seeds = members(task)
    if len(seeds) > 1:
        out += [("tune", seed) for seed in seeds if not (run.member(task, seed) / TUNED).is_file()]
    return out if (run.registry / task / "pointer.json").is_file() else [*out, ("register", 0)]


def work(run: Run, task: str, stages: Sequence[str], *, inline: bool = False) -> str:
    """All stages of a task that are due and asked for; what went wrong, or nothing."""
    for stage, seed in due(run, task):
        if stage not in stages:
            continue
        start = time.time()
        command = [sys.executable, __file__, "--data", str(run.data), "--out", str(run.out), "--base", run.base, "--steps", str(run.steps)]
        command += ["--threads", str(run.threads), "--stage", stage, "--tasks", task, "--seed", str(seed)]
        try:
            if inline:
                globals()[stage](run, task, seed)
            else:
                subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(run.threads)})
        except subprocess.CalledProcessError as error:
            return f"{task}: {stage} failed: {error}"
        print(f"{task}: {stage} {seed if stage == 'tune' else ''} {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    return ""


def pack(run: Run, tasks: Sequence[str], package: Path) -> int:
    """Put live versions into the package, a registry of one version a task, with the origins of what they learnt; bytes in all.

    Raises SystemExit where all of it together is over the limit.
    """
    from trafficllm.registry.store import Registry

    for task in tasks:
        shutil.rmtree(package / task, ignore_errors=True)
        version = Registry(run.registry).live(task)
        learnt = sorted({origin for _, _, origin in captures(run, task)})
        more = {"origins": {origin: PLAN["licence"][origin] for origin in learnt}, "parent": None}
        if why := run.entry(task).get("experimental"):
            more["experimental"] = why
        Registry(package).register(task, version.path, {**version.manifest, **more}, status="live")
    return tidy(package)


def tidy(package: Path) -> int:
    """Leave what a registry needs for reading alone, readable by all; bytes in all. Raises SystemExit where that is over the limit."""
    for spare in (package / ".numbers", *package.glob("*/.lock"), *package.glob(".*")):
        shutil.rmtree(spare) if spare.is_dir() else spare.unlink(missing_ok=True)
    files = [path for path in package.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o644)  # what is installed for all users is read by all of them
    size = sum(path.stat().st_size for path in files)
    if size > PLAN["limit_mb"] * 1_000_000:
        raise SystemExit(f"{size / 1e6:.1f} MB of adapters, {PLAN['limit_mb']} MB allowed")
    return size


INTRO = """# The adapters that come with the package

Written by `recipes/shipped/shipped.py`. They are used where your own registry has none of a task; `adapter list` shows them, `adapter show
TASK` has everything about one. Three members each (three seeds, averaged). Macro-F1 with its 95 % interval over groups of captures is that
of reserved captures, which nothing was learnt from or chosen by; the trees learnt the same masked records. *Harmless flows flagged*: at the
operating point, of sources left out, as the mean and of the worst source; *found*: flows of the positive side of reserved captures, from
sources that were learnt. Of other sources expect what [openworld.md](openworld.md) says. Of 573 harmless flows of twelve sources outside
the background MTD flags none (10 % unknown), MDD 1.2 % (41 %), AAD none (63 %): [shipped_elsewhere.json](shipped_elsewhere.json), by
`recipes/results/elsewhere.py`; these captures were looked at earlier, while rules on false alarms were chosen.

The router (`ROUTER`, by `recipes/shipped/router.py`) says which task a question asks for; it has learnt the package's own questions alone.
"""


def page(run: Run, tasks: Sequence[str]) -> str:
    """The table of what is carried, and what is not and why."""
    from trafficllm.registry.store import Registry

    head = ("task", "labels", "masks", "test flows", "macro-F1", "LightGBM", "random forest", "ECE", "harmless flows flagged", "found")
    lines = [INTRO, f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    notes, generators = [], []
    for task in tasks:
        facts = Registry(run.registry).live(task).manifest
        if why := run.entry(task).get("experimental"):
            notes.append(f"- {task} is experimental: {why}.")
        if facts.get("leaky"):
            notes.append(
                f"- {task}: {', '.join(facts['leaky'])}. Names may tell the laboratory: its macro-F1, and the trees', is not honest "
                "(strict masks: [table.md](table.md)). The profile was chosen on sources left out ([openworld.md](openworld.md))."
            )
        if facts["stage"] == "generation":
            generators.append(f"{task} ({', '.join(facts['labels'])})")
            continue
        quality, trees, step = facts["quality"], facts["baselines"], facts["umbrella"]
        low, high = quality["ci95"]
        flagged = found = "-"
        if step:
            flow = step["left_out"]["flow"]
            flagged, found = f"{flow['rate']:.1%}, {flow['worst']:.1%}", f"{step['recall']:.0%}"
        scores = (
            f"{quality['macro_f1']:.3f} [{low:.3f}, {high:.3f}]",
            *(f"{trees[key]['macro_f1']:.3f}" for key in ("lightgbm", "random_forest")),
        )
        cells = (task, len(facts["labels"]), facts["profile"], quality["n_test"], *scores, f"{quality['ece']:.3f}", flagged, found)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", f"Generators: {'; '.join(generators)}.", "", *notes, "", "Not carried, and why:", ""]
    return "\n".join([*lines, *(f"- {task}: {why}." for task, why in PLAN["without"].items())]) + "\n"


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of task folders, with manifest.csv and RESERVED.csv")
    parser.add_argument("--out", type=Path, required=True, help="where stages are kept")
    parser.add_argument("--tasks", nargs="+", default=list(PLAN["task"]), choices=list(PLAN["task"]))
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--base", default="default")
    parser.add_argument("--steps", type=int, default=0, help="of tuning a member, instead of the plan's seconds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="tasks at once")
    parser.add_argument("--inline", action="store_true", help="all stages in this process")
    parser.add_argument("--pack", action="store_true", help="put what is registered into the package")
    parser.add_argument("--results", type=Path, help="write shipped.md here")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="where it is put")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run what is due, pack what is asked for; 1 where a task failed."""
    asked = parsed(words)
    run = Run(asked.data, asked.out, asked.base, asked.steps, asked.threads)
    if asked.stage:
        globals()[asked.stage](run, asked.tasks[0], asked.seed)
        return 0
    with ThreadPoolExecutor(asked.jobs) as pool:
        failed = [said for said in pool.map(lambda task: work(run, task, asked.stages, inline=asked.inline), asked.tasks) if said]
    for said in failed:
        print(said, file=sys.stderr)
    if asked.pack and not failed:
        print(f"{pack(run, asked.tasks, asked.package) / 1e6:.1f} MB")
    if asked.results and not failed:
        (asked.results / "shipped.md").write_text(page(run, asked.tasks), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
