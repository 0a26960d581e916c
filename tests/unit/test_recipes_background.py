"""The packaged background: licences, nothing that is scored, what its page says, and that the recipe makes it."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from trafficllm.records.codec.flows import housekeeping
from trafficllm.records.coverage import LEAST_SOURCES, Coverage, background_rows
from trafficllm.records.sources.background import Background, packaged, read_background, wire_hash

REPO = Path(__file__).resolve().parents[2]
OPEN = {"LGPL-3.0", "BSD-3-Clause", "MIT", "Apache-2.0", "Unlicense"}


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("background_build", REPO / "recipes" / "background" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["background_build"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", name="rows")
def _rows() -> list[dict[str, str]]:
    with (packaged() / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module", name="background")
def _background() -> Background:
    return read_background([packaged()])


def test_every_capture_has_a_row_and_an_open_licence_that_lies_beside_it(rows: list[dict[str, str]]) -> None:
    files = {path.relative_to(packaged()).as_posix() for path in packaged().glob("*/*.pcap.gz")}
    assert files == {row["file"] for row in rows}
    assert len(files) > 300
    assert {row["licence"] for row in rows} <= OPEN
    texts = {path.name for path in (packaged() / "licences").iterdir()} | {"LGPL-3.0"}
    assert texts >= OPEN
    assert (packaged().parent / "captures" / "licenses" / "LGPL-3").is_file()
    notice, source = (REPO / "NOTICE").read_text(), (packaged() / "SOURCE.md").read_text()
    for row in rows:
        assert row["source"] in notice
        assert row["source"] in source
        assert row["origin"].startswith(f"{row['source']}@")


def test_it_is_small_and_read_as_its_manifest_says(rows: list[dict[str, str]], background: Background) -> None:
    assert sum(path.stat().st_size for path in packaged().rglob("*") if path.is_file()) < 3_000_000
    assert {file.name: file.source for file in background.files} == {f"background/{row['file']}": row["source"] for row in rows}
    assert len(background) == sum(int(row["flows"]) for row in rows)
    sources = Counter(background.sources)
    assert len(sources) >= 10
    assert max(sources.values()) <= 400
    assert max(len(record.dirs) for record in background.raw) <= 20
    assert background.reserved == 0
    assert {housekeeping(record) for record in background.raw} >= {"dns", "dhcp", "mdns", "ntp", "ssdp", "llmnr", "netbios", "nd", "igmp"}


def test_no_flow_of_a_reserved_capture_is_in_it(captures: Path, background: Background, recipe: ModuleType) -> None:
    taken = {meta.uid for meta in background.meta} | {wire_hash(record) for record in background.raw} - {None}
    held = 0
    for row in recipe.table(captures / "reserved.csv"):
        for record, meta in recipe._records(captures / row["file"]):
            held += 1
            assert meta.uid not in taken
            assert wire_hash(record) not in taken
    assert held > 1000


def test_malware_of_other_sources_is_small_licensed_and_of_no_reserved_capture(captures: Path, recipe: ModuleType) -> None:
    place = packaged("malware")
    read, rows = read_background([place], per_capture=1000), recipe.table(place / "manifest.csv")
    assert {file.name: file.source for file in read.files} == {f"malware/{row['file']}": row["source"] for row in rows}
    assert len({row["source"] for row in rows}) == 4
    assert {row["licence"] for row in rows} == {path.name for path in (place / "licences").iterdir()} <= OPEN
    assert all(row["source"] in text for row in rows for text in ((REPO / "NOTICE").read_text(), (place / "SOURCE.md").read_text()))
    assert sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) < 30_000
    taken = {meta.uid for meta in read.meta} | {wire_hash(record) for record in read.raw} - {None}
    scored = [
        key
        for row in recipe.table(captures / "reserved.csv")
        for record, meta in recipe._records(captures / row["file"])
        for key in (meta.uid, wire_hash(record))
    ]
    assert len(scored) > 2000
    assert not taken & set(scored)


def test_everyday_kinds_are_covered_as_harmless(background: Background) -> None:
    coverage = Coverage.of(background_rows(background))
    covered = {kind for kind in coverage.learnt or () if coverage.covers_kind(kind)}
    assert covered >= {"dns", "mdns", "ssdp", "netbios", "dhcp", "ntp", "nd", "icmp", "icmp6", "igmp", "quic", "tcp", "udp", "broadcast"}
    assert coverage.learnt is not None
    assert all(coverage.learnt[kind].negative_sources >= LEAST_SOURCES for kind in covered)


def test_the_page_has_the_manifests_table(rows: list[dict[str, str]], recipe: ModuleType) -> None:
    assert recipe.page_table(rows) in (REPO / "docs" / "background.md").read_text(encoding="utf-8")
    assert set(recipe.coverage(rows)) <= set(recipe.KINDS)


def test_the_recipe_makes_the_captures_anew(data_dir: Path, tmp_path: Path, recipe: ModuleType, rows: list[dict[str, str]]) -> None:
    small = [source for source in recipe.sources() if source["slug"] in ("ipfixprobe", "arkime")]
    made = recipe.build(data_dir, tmp_path, small)
    names = {source["name"] for source in small}
    assert [{name: str(value) for name, value in row.items() if name != "bytes"} for row in made] == [
        {name: value for name, value in row.items() if name != "bytes"} for row in rows if row["source"] in names
    ]
    assert len(made) > 8
    for row in made:  # another zlib may pack otherwise: what is inside counts
        assert gzip.decompress((tmp_path / row["file"]).read_bytes()) == gzip.decompress((packaged() / row["file"]).read_bytes())
