"""`data build` gives the same bytes whatever the workers and hash seeds; split files, folds and few-shot sizes hold what they say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from records_samples import malware

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import sha256_file
from trafficllm.records.catalog import get_task
from trafficllm.records.dataset import spread
from trafficllm.records.dataset.dataset import BuildOptions, Dataset, build_dataset, load

FILES = ("records.parquet", "marks.parquet", "manifest.json", "card.md", "split.json", "splits/fold-1.json", "splits/shots-3.json")
OPTIONS = {"folds": 3, "few_shot": (3, 6)}


@pytest.fixture(scope="module", name="small")
def _small(captures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return malware(captures, tmp_path_factory.mktemp("mtd"), ("Zeus", "Neris", "Gmail"))


@pytest.fixture(scope="module", name="built")
def _built(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("out") / "ds"
    build_dataset(small, task=get_task("MTD"), out=out, options=BuildOptions(workers=1, **OPTIONS))
    return load(out)


def _bytes(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in FILES}


def test_two_workers_write_what_one_writes(small: Path, built: Dataset, tmp_path: Path) -> None:
    assert spread.can_fork() or sys.platform != "linux"
    build_dataset(small, task=get_task("MTD"), out=tmp_path / "two", options=BuildOptions(workers=2, **OPTIONS))
    assert _bytes(tmp_path / "two") == _bytes(built.path)
    assert sorted(p.name for p in built.path.iterdir()) == [
        "card.md",
        "manifest.json",
        "marks.parquet",
        "records.parquet",
        "split.json",
        "splits",
    ]


def test_five_hash_seeds_write_the_same_bytes(small: Path, built: Dataset, tmp_path: Path) -> None:
    code = (
        "import sys; from trafficllm.records.dataset.dataset import BuildOptions, build_dataset;"
        "from trafficllm.records.catalog import get_task;"
        "build_dataset(sys.argv[1], task=get_task('MTD'), out=sys.argv[2], options=BuildOptions(folds=3, few_shot=(3, 6), workers=1))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(small), str(tmp_path / f"{seed}")], env={**os.environ, "PYTHONHASHSEED": str(seed)}
        )
        for seed in range(5)
    ]
    assert [process.wait(timeout=300) for process in running] == [0] * 5
    for seed in range(5):
        assert _bytes(tmp_path / f"{seed}") == _bytes(built.path)


def test_an_error_in_a_worker_is_told_as_it_is(small: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    shutil.copytree(small, root)
    (root / "Zeus" / "broken.pcap").write_bytes(b"no capture at all, only words")
    with pytest.raises(InputError) as caught:
        build_dataset(root, task=get_task("MTD"), out=tmp_path / "out", options=BuildOptions(workers=2))
    assert caught.value.input.endswith("broken.pcap")
    assert caught.value.hint
    assert not (tmp_path / "out").exists()
    assert sorted(tmp_path.iterdir()) == [root]


def _parts(path: Path) -> dict[tuple[str, int], str]:
    body = json.loads(path.read_text())
    assert body["schema"] == "trafficllm.split/1"
    return {(file["sha256"], row): part for file in body["files"] for part in ("train", "val", "test") for row in file[part]}


def _rows(data: Dataset) -> dict[tuple[str, int], str]:
    hashes = {row["file"]: row["sha256"] for row in data.manifest["files"]}
    return {(hashes[meta.capture], meta.frames[0]): part for part in ("train", "val", "test") for meta in data.meta(data.indices(part))}


def test_a_split_file_gives_the_split_back_elsewhere(small: Path, built: Dataset, tmp_path: Path) -> None:
    assert _parts(built.path / "split.json") == _rows(built)
    moved = tmp_path / "another name"
    for file in sorted(small.glob("*/*.pcap")):
        place = moved / file.parent.name / "deeper" / f"x_{file.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    report = build_dataset(
        moved, task=get_task("MTD"), out=tmp_path / "again", options=BuildOptions(split_from=built.path / "split.json", profile="header")
    )
    again = load(tmp_path / "again")
    assert _rows(again) == _rows(built)
    assert report.manifest["split"]["unit"] == "fixed"


def test_a_split_file_may_not_teach_reserved_flows(small: Path, built: Dataset, tmp_path: Path) -> None:
    body = json.loads((built.path / "split.json").read_text())
    swapped = next(file for file in body["files"] if len(file["test"]) > 1)
    swapped["train"], swapped["test"] = swapped["test"], []
    (tmp_path / "bad.json").write_text(json.dumps(body))
    with pytest.raises(InputError) as caught:
        build_dataset(small, task=get_task("MTD"), out=tmp_path / "no", options=BuildOptions(split_from=tmp_path / "bad.json"))
    assert caught.value.code == "input.reserved"
    assert swapped["file"] in caught.value.where
    (tmp_path / "none.json").write_text('{"schema": "trafficllm.split/1", "files": []}')
    with pytest.raises(InputError, match="names none"):
        build_dataset(small, task=get_task("MTD"), out=tmp_path / "no", options=BuildOptions(split_from=tmp_path / "none.json"))
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(InputError, match="not a split file"):
        build_dataset(small, task=get_task("MTD"), out=tmp_path / "no", options=BuildOptions(split_from=tmp_path / "other.json"))


def test_a_split_file_that_parts_copies_is_leaky(small: Path, built: Dataset, tmp_path: Path) -> None:
    body = json.loads((built.path / "split.json").read_text())
    for file in body["files"]:
        rows = sorted(file["train"] + file["val"])
        file["train"], file["val"] = rows[::2], rows[1::2]
    (tmp_path / "mixed.json").write_text(json.dumps(body))
    report = build_dataset(
        small, task=get_task("MTD"), out=tmp_path / "out", options=BuildOptions(split_from=tmp_path / "mixed.json", profile="payload")
    )
    assert any("in more than one part" in reason for reason in report.manifest["leaky"])


def test_folds_and_shots_are_split_files_without_reserved_flows(small: Path, built: Dataset, tmp_path: Path) -> None:
    reserved = {key for key, part in _rows(built).items() if part == "test"}
    tested: list[tuple[str, int]] = []
    for k in (1, 2, 3):
        parts = _parts(built.path / "splits" / f"fold-{k}.json")
        assert set(parts.values()) == {"train", "val", "test"}
        assert not reserved & parts.keys()
        tested += [key for key, part in parts.items() if part == "test"]
    assert len(tested) == len(set(tested))
    few, more = (_parts(built.path / "splits" / f"shots-{n}.json") for n in (3, 6))
    learnt = [{key for key, part in parts.items() if part == "train"} for parts in (few, more)]
    assert learnt[0] < learnt[1]
    assert max(parts["train"] for parts in built.manifest["classes"].values()) == 6
    report = build_dataset(
        small, task=get_task("MTD"), out=tmp_path / "f", options=BuildOptions(split_from=built.path / "splits" / "fold-2.json")
    )
    assert report.manifest["split"]["parts"]["test"] > 0


def test_unknown_labels_are_tested_only_and_must_exist(small: Path, tmp_path: Path) -> None:
    report = build_dataset(small, task=get_task("MTD"), out=tmp_path / "u", options=BuildOptions(unknown=("Neris",)))
    assert report.manifest["classes"]["Neris"]["train"] == report.manifest["classes"]["Neris"]["val"] == 0
    assert report.manifest["classes"]["Neris"]["test"] > 0
    assert report.manifest["trainable"] == ["Gmail", "Zeus"]
    with pytest.raises(UsageError) as caught:
        build_dataset(small, task=get_task("MTD"), out=tmp_path / "v", options=BuildOptions(unknown=("Nerris",)))
    assert "Neris" in caught.value.hint
    with pytest.raises(UsageError, match="two labels"):
        build_dataset(small, task=get_task("MTD"), out=tmp_path / "v", options=BuildOptions(unknown=("Neris", "Zeus")))


def test_housekeeping_is_left_out_counted_and_kept_on_request(captures: Path, tmp_path: Path) -> None:
    root = tmp_path / "EAC"
    for label in ("DNS", "TLS", "HTTP"):
        shutil.copytree(captures / "EAC" / label, root / label)
    (tmp_path / "reserved.csv").write_text("task,label,file,part,why\n")
    detection = get_task("EVD")
    shown = build_dataset(root, task=detection, out=tmp_path / "all", options=BuildOptions(keep=("housekeeping",))).manifest
    assert shown["leaky"] == ["housekeeping kept"]
    assert "DNS" in shown["labels"]
    shutil.copyfile(next((root / "DNS").glob("*.pcap*")), root / "TLS" / "chores.pcap")
    shutil.rmtree(root / "DNS")
    manifest = build_dataset(root, task=detection, out=tmp_path / "some").manifest
    assert manifest["dropped"]["housekeeping: dns"] > 0
    assert manifest["leaky"] == []
    with pytest.raises(UsageError):
        build_dataset(root, task=detection, out=tmp_path / "none", options=BuildOptions(split="packet"))
