"""The import rule of the rooms, by import-linter, and the data that ships with the package."""

from __future__ import annotations

import csv
import subprocess
import sys
import tomllib
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CAPTURES = REPO / "src" / "trafficllm" / "data" / "captures"


def test_rooms_import_only_to_their_left() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(tool), "--no-cache"], cwd=REPO, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def _rows(name: str) -> list[dict[str, str]]:
    with (CAPTURES / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_bundled_capture_has_an_origin() -> None:
    files = {str(path.relative_to(CAPTURES)) for path in CAPTURES.rglob("*.pcap")}
    listed = {row["file"]: row["origin"] for row in _rows("manifest.csv")}
    assert len(files) == 275
    assert files == set(listed)
    assert all(listed.values())


def test_bundled_captures_stay_within_15_megabytes() -> None:
    assert sum(path.stat().st_size for path in CAPTURES.rglob("*") if path.is_file()) <= 15_000_000


def test_reserved_files_exist_and_leave_something_to_learn_from() -> None:
    reserved = _rows("reserved.csv")
    labels = {(row["task"], row["label"]) for row in _rows("manifest.csv") if row["task"] in {"MTD", "EAC"}}
    open_files = {row["file"] for row in _rows("manifest.csv")} - {row["file"] for row in reserved}
    assert len(reserved) == 100
    assert all((CAPTURES / row["file"]).is_file() and row["part"] == "all" for row in reserved)
    assert len(labels) == 36
    assert {tuple(name.split("/")[:2]) for name in open_files} == labels


def test_unseen_captures_are_reserved() -> None:
    unseen = tomllib.loads((CAPTURES / "unseen" / "unseen.toml").read_text(encoding="utf-8"))
    names = [entry["file"] for entry in unseen["capture"]]
    assert len(names) == 2
    assert set(names) <= {row["file"] for row in _rows("reserved.csv")}


def test_every_source_of_data_is_in_the_notice() -> None:
    notice = (REPO / "NOTICE").read_text(encoding="utf-8")
    sources = {row["origin"].split("@")[0] for row in _rows("manifest.csv")}
    assert sources == {"echowei/DeepTraffic", "ntop/nDPI", "corelight/zeek-asyncrat-detector"}
    assert [source for source in sources if source not in notice] == []
