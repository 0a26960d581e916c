"""Audit every labelled folder of a data tree: `python recipes/audits/audit.py ../shared/data -o docs/results`.

Resumable: a folder whose result stands is not audited again (delete its JSON to repeat it). One thread. The reserved parts are
left alone: the other flows are split anew, so no run of this is a scoring. `--table docs/audits.md` writes the table there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.files import atomic_write, json_text, read_json
from trafficllm.core.types import Silent
from trafficllm.evaluate.audit.report import audit
from trafficllm.lifecycle.datasets import pick_task
from trafficllm.lifecycle.studies.audit import write_page
from trafficllm.records.dataset.dataset import build_dataset, load

HERE = Path(__file__).parent
BEGIN, END = "<!-- table: made by recipes/audits/audit.py -->", "<!-- end of table -->"
HEAD = (
    "folder",
    "flows",
    "classes (measurable)",
    "split",
    "duplicates",
    "in conflict",
    "ceiling",
    "identifier probe",
    "one masked field",
    "majority",
    "k-NN",
    "LightGBM sizes, times",
    "LightGBM headers, payload",
    "random forest",
    "logistic, n-grams",
    "best, 95 %",
    "packets: leaky / honest",
    "forge",
    "payload",
    "leaks open (hidden)",
    "headline",
)


def trimmed(report: dict[str, Any]) -> dict[str, Any]:
    """Without the per-class tables, which are three quarters of a report."""
    for rows in (report["baselines"], report["per_packet"]):
        for row in rows.values():
            row.pop("per_class", None)
    return report


def run(folder: Path, plan: dict[str, Any], out: Path, pages: Path | None) -> None:
    """Build one folder's data set in a place of its own, audit it, keep the result."""
    start = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="audits-") as place:
        build_dataset(folder, task=pick_task(folder, "", ()), out=Path(place) / "data", progress=Silent())
        result = audit(load(Path(place) / "data"), judged="rest", budget_s=plan["budget_s"], most=plan["most"])
    report = result.as_dict()
    if pages:
        write_page(result, pages / f"audit_{folder.name}.html", title=f"Audit of {folder.name}")
    spent = {"wall": round(time.perf_counter() - start[0], 1), "cpu": round(time.process_time() - start[1], 1)}
    atomic_write(out / f"audit_{folder.name}.json", json_text({"folder": folder.name, "spent_s": spent, **trimmed(report)}))
    print(f"{folder.name}: {spent['cpu']} s of one core, cap {report['cap']}", file=sys.stderr)


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def row_of(report: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    """One line of the table; `distinct` folders are scored on each masked content once."""
    table, twice = report["baselines"], report["duplicates"]
    names = ("majority", "knn", "lightgbm_sizes_times", "lightgbm_headers_payload", "random_forest", "linear")

    def score(name: str) -> float | None:
        row = table.get(name)
        return None if row is None else float((row["unique"] if entry.get("distinct") else row)["macro_f1"])

    best = table[max((name for name in names if name in table), key=lambda name: score(name) or 0.0)]
    probe = table["artefact_probe"]
    leaks = [f["kind"] for f in report["findings"] if not f["hidden"]]
    hidden = [f["kind"] for f in report["findings"] if f["hidden"]]
    classes = len(report["classes"])
    interval = "-" if entry.get("distinct") else f"{best['ci95'][0]:.2f} to {best['ci95'][1]:.2f}"
    return [
        report["folder"],
        f"{report['flows']:,}",
        f"{classes} ({classes - len(report['not_measurable'])})",
        report["split"].split(",")[0],
        f"{twice['share']:.1%}",
        f"{twice['conflicting']:.1%}",
        number(twice["ceiling"]),
        number(report["identifier_probe"]),
        f"{number(score('artefact_probe'))} {probe['params'].get('field', '')}",
        *(number(score(name)) for name in names),
        interval,
        f"{report['leaky']:.3f} / {report['honest']:.3f}",
        f"{report['forge']['delta']:+.3f}",
        f"{report['payload']['delta']:+.3f}",
        f"{', '.join(leaks) or 'none'} ({', '.join(hidden) or 'none'})",
        "yes" if entry["headline"] else f"no: {entry['why']}",
    ]


def markdown(rows: list[list[str]]) -> str:
    """A Markdown table; captured names cannot close a cell."""
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main() -> None:
    """Audit what has no result yet; then the table of all results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--pages", type=Path, help="also write each audit as a page here")
    parser.add_argument("--table", type=Path, help="write the table between the marks of this file")
    parser.add_argument("--only", nargs="*", default=[])
    chosen = parser.parse_args()
    plan = tomllib.loads((HERE / "audits.toml").read_text(encoding="utf-8"))
    entries = {entry["name"]: entry for entry in plan["folder"]}
    for name in chosen.only or entries:
        if (chosen.data / name).is_dir() and not (chosen.out / f"audit_{name}.json").is_file():
            try:
                run(chosen.data / name, {**plan, **entries[name]}, chosen.out, chosen.pages)
            except TrafficLLMError as error:
                print(f"{name}: {error}", file=sys.stderr)
    if chosen.table:
        done = [(entries[n], chosen.out / f"audit_{n}.json") for n in entries if (chosen.out / f"audit_{n}.json").is_file()]
        table = markdown([row_of(read_json(path), entry) for entry, path in done])
        text = chosen.table.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN, 1)
        atomic_write(chosen.table, f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    main()
