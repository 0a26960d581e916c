"""The table in docs/surfaces.md: every format is written from a bundled capture and opened with a program that others wrote.

    python recipes/results/opened.py

tshark and jq (Debian's packages), pandas, pyarrow, stix2, scikit-learn and the MCP and openai clients are needed; a row whose program is
not there fails.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CAPTURE = ROOT / "src" / "trafficllm" / "data" / "captures" / "MTD" / "Neris" / "Neris_05.pcap"
BEGIN, END = "<!-- table: recipes/results/opened.py writes it -->", "<!-- end of the table -->"


def output(*command: str) -> str:
    """What a program prints; an error where it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def lines_of_json(path: Path) -> str:
    """jq's count of lines and of distinct verdicts."""
    verdicts = output("jq", "-rs", "[.[].label] | unique | length", str(path)).strip()
    return f"jq: {output('jq', '-s', 'length', str(path)).strip()} lines, {verdicts} verdicts"


def eve(path: Path) -> str:
    """jq's counts by event type."""
    return "jq: " + output("jq", "-rsc", "group_by(.event_type) | map({(.[0].event_type): length}) | add", str(path)).strip()


def ecs(path: Path) -> str:
    """jq's count of documents, and what two fields of the schema hold."""
    shown = output("jq", "-sc", "[length, .[0].event.kind, .[0].network.transport]", str(path)).strip()
    return f"jq: documents, event.kind, network.transport = {shown}"


def table(path: Path) -> str:
    """pandas' shape of a CSV file."""
    import pandas as pd

    frame = pd.read_csv(path)
    return f"pandas: {len(frame)} rows, {len(frame.columns)} columns, {frame['label'].nunique()} verdicts"


def parquet(path: Path) -> str:
    """pandas' shape of a Parquet file."""
    import pandas as pd

    frame = pd.read_parquet(path)
    return f"pandas: {len(frame)} rows, {len(frame.columns)} columns"


def zeek(path: Path) -> str:
    """Rows of a Zeek log as its header names the columns."""
    text = path.read_text(encoding="utf-8").splitlines()
    names = next(line for line in text if line.startswith("#fields")).split("\t")[1:]
    rows = list(csv.DictReader((line for line in text if not line.startswith("#")), fieldnames=names, delimiter="\t"))
    return f"Python's csv by the #fields line: {len(rows)} rows, {len(names)} columns"


def stix(path: Path) -> str:
    """stix2's objects of a bundle, strictly parsed."""
    import stix2

    bundle = stix2.parse(path.read_text(encoding="utf-8"), allow_custom=True)
    kinds = {item["type"] for item in bundle.get("objects", [])}
    return f"stix2: a bundle of {len(bundle.get('objects', []))} objects ({', '.join(sorted(kinds)) or 'none'})"


def pcap(path: Path) -> str:
    """tshark's frames, and what its expert finds wrong."""
    frames = output("tshark", "-r", str(path), "-T", "fields", "-e", "frame.number").splitlines()
    wrong = output("tshark", "-r", str(path), "-Y", "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0").splitlines()
    return f"tshark: {len(frames)} frames, {len(wrong)} of them malformed or with a wrong checksum"


def html(path: Path) -> str:
    """Chromium's heading of a report."""
    import shutil

    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(path.as_uri())
        shown = page.inner_text("h1")
        browser.close()
    return f"Chromium: “{shown}”"


def table_of_tabs(path: Path) -> str:
    """pandas' shape of a table with tabs."""
    import pandas as pd

    frame = pd.read_csv(path, sep="\t")
    return f"pandas: {len(frame)} rows, {len(frame.columns)} columns"


def json_object(path: Path) -> str:
    """jq's first keys of an object."""
    return "jq: keys " + output("jq", "-c", "keys[0:6]", str(path)).strip()


ANALYZE = ("analyze", str(CAPTURE), "--task", "MTD")
ROWS: tuple[tuple[str, tuple[str, ...], str, Callable[[Path], str]], ...] = (
    ("JSON lines", (*ANALYZE, "-f", "jsonl"), "v.jsonl", lines_of_json),
    ("CSV", (*ANALYZE, "-f", "csv"), "v.csv", table),
    ("Parquet", (*ANALYZE, "-f", "parquet"), "v.parquet", parquet),
    ("Zeek log", (*ANALYZE, "-f", "zeek"), "trafficllm.log", zeek),
    ("Zeek notices", (*ANALYZE, "-f", "notice", "--alert"), "notice.log", zeek),
    ("Zeek intel", (*ANALYZE, "-f", "intel", "--alert"), "intel.dat", zeek),
    ("Suricata EVE", (*ANALYZE, "-f", "eve"), "eve.json", eve),
    ("Elastic (ECS)", (*ANALYZE, "-f", "ecs"), "v.ndjson", ecs),
    ("STIX 2.1", (*ANALYZE, "-f", "stix", "--alert"), "v.stix.json", stix),
    ("JSON object", (*ANALYZE, "--json"), "v.json", json_object),
    ("flows as a Zeek conn.log", ("capture", "flows", str(CAPTURE), "-f", "zeek"), "conn.log", zeek),
    ("packets as TSV", ("capture", "packets", str(CAPTURE), "-f", "tsv"), "p.tsv", table_of_tabs),
    ("generated capture", ("generate", "--task", "MTG", "--label", "Neris", "--flows", "5"), "made.pcap", pcap),
)


def row(name: str, command: tuple[str, ...], path: Path, opened: Callable[[Path], str]) -> str:
    """One row: written by the command, opened by another program."""
    to_stdout = "--json" in command or "packets" in command
    words = command if to_stdout else (*command, "-o", str(path))
    done = subprocess.run([sys.executable, "-m", "trafficllm", *words], capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.decode()[-500:]}")
    if to_stdout:
        path.write_bytes(done.stdout)
    shown = " ".join(command).replace(str(CAPTURE), "x.pcap")
    return f"| {name} | `trafficllm {shown}{'' if to_stdout else f' -o {path.name}'}` | {opened(path).replace('|', '/')} |"


def main() -> None:
    """Write the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "").parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = [row(name, command, Path(place) / file, opened) for name, command, file, opened in ROWS]
    page = ROOT / "docs" / "surfaces.md"
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    lines = ["| format | written by | opened with |", "|---|---|---|", *rows]
    page.write_text(f"{head}{BEGIN}\n\n{chr(10).join(lines)}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
