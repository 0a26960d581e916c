"""What detectors are worth on networks that nobody learnt from: every task with an umbrella question, left out source by source.

    python recipes/results/openworld.py --data ../shared/data --out runs/openworld --results docs/results [--studies malware]

Each study is a file below `--out`, with its data sets and the scores of its folds beside it: an interrupted call goes on where it stopped.
`--results` gets openworld.json and openworld.md of all studies that are done.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trafficllm.core.files import atomic_write, read_json, write_json
from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.reports.openworld_page import area, share
from trafficllm.surface.terminal.progress import Bar

HERE = Path(__file__).resolve().parent
PLAN: dict[str, Any] = tomllib.loads((HERE / "openworld.toml").read_text(encoding="utf-8"))
STUDIES: dict[str, dict[str, Any]] = PLAN["study"]
NAMES = {"lightgbm": "LightGBM", "random_forest": "random forest", "identifier_probe": "identifiers only"}


@dataclass(frozen=True, slots=True)
class Table:
    """What is run: `data` holds the folders, `out` keeps the runs, under one mask profile and some seeds."""

    data: Path
    out: Path
    profile: str = "strict"
    seeds: tuple[int, ...] = (0,)
    folds: int | None = None
    base: str = "default"

    def path(self, study: str) -> Path:
        """The file of one study."""
        return self.out / f"{study}-{self.profile}.json"

    def folder(self, name: str, without: Sequence[str]) -> Path:
        """A folder of captures; where labels are left out one of links to the others, with manifest and reserved list beside it."""
        if not without:
            return self.data / name
        place = self.out / "links"
        for path in (self.data / "manifest.csv", self.data / "RESERVED.csv", *(self.data / name).iterdir()):
            link = place / (path.name if path.parent == self.data else f"{name}/{path.name}")
            link.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.name not in without and not link.exists():
                link.symlink_to(path.resolve())
        return place / name

    def study(self, name: str, progress: ProgressSink) -> dict[str, Any]:
        """One study, made where there is no file of it yet."""
        from trafficllm.lifecycle.studies.openworld import OpenOptions, openworld
        from trafficllm.lifecycle.workspace import Workspace

        path, entry = self.path(name), STUDIES[name]
        if not path.is_file():
            folds = entry["folds"] if self.folds is None else self.folds
            workspace = Workspace(base=self.base, registry=str(self.out / "registry"), extra_tasks=[HERE / "openworld_vpn.toml"])
            result = openworld(
                workspace,
                [self.folder(folder, entry.get("without", ())) for folder in entry["data"]],
                task=entry.get("task", ""),
                background=[self.data / folder for folder in (*PLAN["everyday"], *entry["background"])],
                profile=self.profile,
                options=OpenOptions(folds=folds, seeds=self.seeds),
                work=path.with_suffix(""),
                html=path.with_suffix(".html"),
                progress=progress,
            )
            write_json(path, result.as_dict())
        return dict(read_json(path))


def _span(body: Mapping[str, Any], figure: str) -> str:
    pair, value = body["ci95"].get(figure), body["mean"][figure]
    shown = area if figure == "auroc" else share
    return shown(value) if pair is None or value is None else f"{shown(value)} [{shown(pair[0])}, {shown(pair[1])}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}", *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def _row(name: str, body: Mapping[str, Any]) -> list[str]:
    figures = ("fpr_flow", "fpr_host", "recall", "recall_at_fpr_01", "recall_at_fpr_001", "auroc", "precision_at_1pct", "unknown_benign")
    return [name, *(_span(body, figure) for figure in figures)]


HEAD = (
    "",
    "harmless flows flagged",
    "harmless hosts flagged",
    "malicious flows found",
    "found at 1 % false alarms",
    "found at .1 %",
    "AUROC",
    "precision where 1 % is malicious",
    "harmless flows unknown",
)


def _study_lines(name: str, body: Mapping[str, Any]) -> list[str]:
    """One study: learners side by side, then every source of ours."""
    entry, point, worst = STUDIES[name], body["operating"], body["worst"]
    benign = sum(row["side"] == "benign" for row in body["sources"])
    rows = [_row("LLM", body), *(_row(name, body["baselines"][key]) for key, name in NAMES.items())]
    about = (
        f"{body['question']} The answer has to come from {entry['says']}. {benign} harmless and {len(body['sources']) - benign} malicious "
        f"sources, {body['flows']['judged_benign']:,} and {body['flows']['judged_malicious']:,} flows judged; "
        f"{body['background']['flows']:,} background flows of {len(body['background']['sources'])} sources. Masks {body['profile']}, "
        f"seeds {', '.join(map(str, body['seeds']))}, flows the base has seen: {body['seen_by_base']}."
    )
    lines = [f"## {entry['title']}", "", about, "", *([f"**What limits it.** {entry['limits']}", ""] if "limits" in entry else [])]
    lines += _table(HEAD, rows)
    if point:
        lines += [f"The threshold was {point['guarantee']}.", ""]
    if worst["fpr_flow_100_source"]:
        lines += [
            f"Worst harmless source of 100 flows or more: {worst['fpr_flow_100_source']}, {share(worst['fpr_flow_100'])} flagged.",
            "",
        ]
    if body["skipped"]:
        lines += [f"Not left out: {'; '.join(f'{source} ({why})' for source, why in body['skipped'].items())}.", ""]
    return [*lines, *_source_lines(body)]


def own_lines(path: Path) -> list[str]:
    """What captures of one's own bring, where `own_captures.py` has measured it: a row a number of captures."""
    if not path.is_file():
        return []
    body = read_json(path)
    rows = [
        [row["own_captures"], *(share(row[key]) for key in ("flagged", "unknown", "captures_flagged", "known_found"))]
        for row in body["rows"]
    ]
    some = body["rows"][0]
    about = (
        f"The shipped {body['task']} adapter on harmless captures of a network it has not learnt ({', '.join(body['own'])} of ISCX 2016; "
        f"{some['flows']:,} flows of {some['captures']} captures), its first step fitted with some other captures of that network as "
        "background beside the package's (`trafficllm adapter update --background DIR`). The last column is the price: flows of reserved "
        "malware that are found."
    )
    head = ("captures of your own", "harmless flows flagged", "unknown", "captures with one flagged", "known malware found")
    return ["## Captures of your own", "", about, "", *_table(head, rows)]


def masking_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What hiding the fields that tell sources apart costs, as `masking.py` has measured it: a row a study and set of fields."""
    if not rows:
        return []
    head = ("task", "hidden beside the masks", "AUROC", "found at 1 % false alarms", "forest's AUROC", "forest's found at 1 %")
    lines = [
        [
            STUDIES[row["study"]]["title"],
            row["hidden"],
            *(_span(row["learners"][name], figure) for name in ("LLM", "random forest") for figure in ("auroc", "recall_at_fpr_01")),
        ]
        for row in rows
    ]
    about = (
        "Sizes, first gap and first bytes are the shown fields that tell laboratories apart best (`recipes/audits/sources.py`: each alone "
        "names one source of seven with macro-F1 .20 to .23, chance .14). The same studies with these fields hidden "
        f"(`recipes/results/masking.py`; masks {rows[0]['profile']}, seeds {', '.join(map(str, rows[0]['seeds']))}):"
    )
    return ["## What hiding the fields that tell sources apart costs", "", about, "", *_table(head, lines)]


def measured(results: Path) -> list[str]:
    """What other recipes have measured in the open world, where their files lie in `results`."""
    path = results / "masking.json"
    return [*own_lines(results / "own_captures.json"), *masking_lines(read_json(path)["rows"] if path.is_file() else ())]


def _source_lines(body: Mapping[str, Any]) -> list[str]:
    """A row a source: harmless ones by flows flagged, malicious ones by flows found."""
    harmless = sorted((row for row in body["sources"] if row["side"] == "benign"), key=lambda row: (-row["fpr_flow"], row["source"]))
    malicious = sorted((row for row in body["sources"] if row["side"] != "benign"), key=lambda row: (row["recall"], row["source"]))
    head = ("left-out source", "side", "captures", "flows", "hosts", "flows flagged", "hosts flagged", "unknown", "AUROC")
    rows = [
        [
            row["source"],
            row["side"],
            row["captures"],
            f"{row['flows']:,}",
            row["hosts"],
            share(row["fpr_flow"] if row["side"] == "benign" else row["recall"]),
            share(row["fpr_host"] if row["side"] == "benign" else row["recall_host"]),
            share(row["unknown"]),
            area(row["auroc"]),
        ]
        for row in (*harmless, *malicious)
    ]
    return _table(head, rows)


INTRO = """# On your network, on day one

Written by `recipes/results/openworld.py`. A detector is used on a network that nobody learnt from, so these figures leave out whole
sources: the repositories and laboratories that captures come from. Model, calibration and threshold come from all other sources; the
source that was left out is then judged, harmless and malicious ones alike. Reserved flows take no part.

**How to read it.** *Harmless flows flagged* is what you get on a quiet day: of a hundred harmless flows so many raise a false alarm, as the
mean over sources, with the 95 % interval over sources in brackets. *Harmless hosts flagged* counts a client with a single flagged flow.
*Malicious flows found* is at the same threshold; the next two columns say how many would be found if exactly 1 % or .1 % of harmless flows
were flagged. *Precision* says how many of a hundred flagged flows are malicious if one flow in a hundred is. *Identifiers only* is a model
that sees what the masks hide (addresses, ports, times, TTLs): where it is as good as the others, laboratories can be told apart by their
marks, and the study is easier than your network.

**What to do with `unknown`.** A flow between the two thresholds is neither flagged nor cleared. Do not alarm on it, and do not count it as
harmless: look at its host. A host with many unknown flows to one destination, or one with flagged flows beside them, is worth opening; a
single unknown flow is not. If a class of your own traffic is often unknown, give captures of it as background
(`trafficllm adapter update --background DIR`).

**What the threshold promises.** It keeps the mean false-alarm rate of left-out sources at 1 %. For a source like these the sentence under
each table says how far it may be off. For a network unlike all of them there is no promise, and no test here can give one.
"""


def markdown(studies: Mapping[str, Mapping[str, Any]], more: Sequence[str] = ()) -> str:
    """The page: what to expect, what else was measured (the lines `more`), then the studies."""
    rows = []
    for name, body in studies.items():
        trees = {key: row for key, row in body["baselines"].items() if key != "identifier_probe"}
        best = max(trees, key=lambda key: trees[key]["mean"]["recall_at_fpr_01"] or 0.0)
        rows.append(
            [
                STUDIES[name]["title"],
                _span(body, "fpr_flow"),
                _span(body, "fpr_host"),
                _span(body, "recall"),
                _span(body, "recall_at_fpr_01"),
                f"{share(trees[best]['mean']['recall_at_fpr_01'])} ({NAMES[best]})",
                area(body["mean"]["auroc"]),
                area(trees[best]["mean"]["auroc"]),
            ]
        )
    head = ("task", *HEAD[1:5], "the same, best trees", "AUROC", "AUROC, these trees")
    lines = [INTRO, *_table(head, rows), *more]
    for name, body in studies.items():
        lines += _study_lines(name, body)
    return "\n".join(lines).rstrip() + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """Run what is due, and write the page of all studies that are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="write openworld.json and openworld.md here; openworld_PROFILE of others than strict")
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--profile", default="strict")
    parser.add_argument("--seeds", nargs="+", type=int, default=PLAN["seeds"])
    parser.add_argument("--folds", type=int, help="instead of the plan's")
    parser.add_argument("--base", default="default")
    asked = parser.parse_args(words)
    table = Table(asked.data, asked.out, asked.profile, tuple(asked.seeds), asked.folds, asked.base)
    with Bar(log=True) as bar:
        for name in asked.studies:
            table.study(name, bar)
    done = {name: dict(read_json(table.path(name))) for name in STUDIES if table.path(name).is_file()}
    more = measured(asked.results) if asked.results and asked.profile == "strict" else []
    page = markdown(done, more)
    if asked.results:
        other = "" if asked.profile == "strict" else f"_{asked.profile}"
        command = f"python recipes/results/openworld.py --data DATA --out RUN{other and f' --profile {asked.profile}'}"
        page = (
            page.replace("# On your network, on day one\n", f"# With the masks `{asked.profile}` on sources left out\n", 1)
            if other
            else page
        )
        write_json(asked.results / f"openworld{other}.json", {"command": command, "studies": done})
        atomic_write(asked.results / f"openworld{other}.md", page)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
