"""What it costs to hide the fields that tell sources apart best: studies of `openworld.py` again, with these fields masked.

    python recipes/results/masking.py --data ../shared/data --out runs/openworld --results docs/results [--studies malware dns]

`recipes/audits/sources.py` says which fields those are. A study starts from the data sets that `openworld.py` has built below `--out`
(it must have run there); scores lie beside them, and an interrupted call goes on where it stopped. Flows, folds and learners are the
study's own. `--results` gets masking.json, of which `openworld.py` writes a table into its page.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openworld

from trafficllm.core.errors import InputError
from trafficllm.core.files import read_json, write_json
from trafficllm.core.types import ProgressSink
from trafficllm.surface.terminal.progress import Bar

HIDDEN: dict[str, tuple[str, ...]] = {
    "nothing more": (),
    "first and last size": ("size_first", "size_last"),
    "the same, first gap, first bytes of payload": ("size_first", "size_last", "iat_first", "payload_head"),
}
"""What is masked beside the profile's fields: the worst fields of the audit, two and four of them."""
FIGURES = ("auroc", "recall_at_fpr_01", "recall_at_fpr_001", "recall", "fpr_flow")


def masked_copy(built: Path, out: Path, hidden: Sequence[str]) -> Path:
    """A data set that masks `hidden` too: records are stored before masks, so its manifest alone says what they show."""
    if not (built / "manifest.json").is_file():
        raise InputError("input.missing", "the study has no data set yet", input=str(built), hint="run openworld.py with the same --out")
    if not (out / "manifest.json").is_file():
        shutil.copytree(built, out, dirs_exist_ok=True)
        body = read_json(built / "manifest.json")
        write_json(out / "manifest.json", {**body, "also": sorted({*body["also"], *hidden})})
    return out


def figures(body: dict[str, Any]) -> dict[str, Any]:
    """Means and intervals of one learner's figures, as a study has them."""
    return {key: {name: body[key].get(name) for name in FIGURES} for key in ("mean", "ci95")}


def row(table: openworld.Table, study: str, hidden: str, progress: ProgressSink) -> dict[str, Any]:
    """One study with these fields hidden: ours and every baseline."""
    from trafficllm.lifecycle.studies.openworld import OpenOptions
    from trafficllm.lifecycle.studies.openworld import openworld as leave_sources_out
    from trafficllm.lifecycle.workspace import Workspace

    entry, number = openworld.STUDIES[study], list(HIDDEN).index(hidden)
    place = table.out / "masking" / f"{study}-{number}"
    path = place.with_suffix(".json")
    if not path.is_file():
        built = [table.path(study).with_suffix("") / f"data{k}" for k in range(len(entry["data"]))]
        result = leave_sources_out(
            Workspace(base=table.base, registry=str(table.out / "registry"), extra_tasks=[openworld.HERE / "openworld_vpn.toml"]),
            [masked_copy(folder, place / folder.name, HIDDEN[hidden]) for folder in built],
            task=entry.get("task", ""),
            background=[table.data / folder for folder in (*openworld.PLAN["everyday"], *entry["background"])],
            profile=table.profile,
            options=OpenOptions(folds=entry["folds"], seeds=table.seeds),
            work=place,
            progress=progress,
        )
        write_json(path, result.as_dict())
    body = read_json(path)
    learners = {"LLM": figures(body), **{openworld.NAMES[key]: figures(body["baselines"][key]) for key in openworld.NAMES}}
    facts = {key: body[key] for key in ("profile", "seeds", "flows")}
    return {"study": study, "hidden": hidden, "fields": list(HIDDEN[hidden]), **facts, "learners": learners}


def main() -> None:
    """Every study with every set of fields, then the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="write masking.json here")
    parser.add_argument("--studies", nargs="+", default=["malware", "dns"], choices=list(openworld.STUDIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    asked = parser.parse_args()
    table = openworld.Table(asked.data, asked.out, seeds=tuple(asked.seeds))
    with Bar(log=True) as bar:
        rows = [row(table, study, hidden, bar) for study in asked.studies for hidden in HIDDEN]
    if asked.results:
        write_json(asked.results / "masking.json", {"command": "python recipes/results/masking.py --data DATA --out RUN", "rows": rows})
    for line in openworld.masking_lines(rows):
        print(line)


if __name__ == "__main__":
    main()
