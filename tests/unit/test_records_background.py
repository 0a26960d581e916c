"""Background: sources of captures, caps, reserved captures, and captures that are labelled too."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from capture_samples import ethernet, ipv4, pcap, udp
from records_samples import malware

from trafficllm.core.errors import InputError
from trafficllm.core.sampling import evenly_spaced, fair_shares
from trafficllm.core.settings import FlowOptions
from trafficllm.lifecycle.adapters import replay
from trafficllm.records.catalog import get_task
from trafficllm.records.codec.flows import housekeeping
from trafficllm.records.dataset.dataset import BuildOptions, Dataset, build_dataset, load
from trafficllm.records.sources.background import NO_BACKGROUND, Background, packaged, read_background, refuse_shared, shared_captures


def _queries(count: int, *, first: int = 0, port: int = 5353) -> bytes:
    """A capture of `count` flows of two datagrams each."""
    frames = []
    for k in range(first, first + count):
        for gap in (0.0, 0.001 * (k + 1)):
            frames.append((1e9 + k + gap, ethernet(ipv4(17, udp(20000 + k, port, bytes(12 + k % 7))))))
    return pcap(frames)


def _folder(place: Path, files: dict[str, int], *, manifest: str = "") -> Path:
    for number, (name, flows) in enumerate(files.items()):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(_queries(flows, first=1000 * number))
    if manifest:
        (place / "manifest.csv").write_text(manifest)
    return place


def test_the_source_is_the_manifests_or_the_first_folder_or_the_directory(tmp_path: Path) -> None:
    manifest = "file,origin\nx/named.pcap,lab/captures@12ab some/where.pcap\nx/blank.pcap,\n"
    files = {"x/named.pcap": 1, "x/blank.pcap": 1, "home/deep/er.pcap": 1, "loose.pcap": 1}
    home = _folder(tmp_path / "mine", files, manifest=manifest)
    background = read_background([home])
    assert {file.name: file.source for file in background.files} == {
        "mine/x/named.pcap": "lab/captures",
        "mine/x/blank.pcap": "x",
        "mine/home/deep/er.pcap": "home",
        "mine/loose.pcap": "mine",
    }
    assert [meta.capture for meta in background.meta] == [file.name for file in background.files]
    assert list(background.sources) == [file.source for file in background.files]


def test_a_manifest_above_the_folder_names_sources_too(tmp_path: Path) -> None:
    home = _folder(tmp_path / "all" / "EAC", {"DNS/a.pcap": 1, "DNS/b.pcap": 1})
    (tmp_path / "all" / "manifest.csv").write_text("file,source\nEAC/DNS/a.pcap,one\n")
    assert [file.source for file in read_background([home]).files] == ["one", "DNS"]
    (home / "manifest.csv").write_text("a,b\n1,2\n")  # another kind of table
    assert [file.source for file in read_background([home]).files] == ["one", "DNS"]


def test_flows_are_capped_by_capture_and_source_evenly(tmp_path: Path) -> None:
    home = _folder(tmp_path / "bg", {"a/1.pcap": 90, "a/2.pcap": 4, "a/3.pcap": 50, "b/1.pcap": 200})
    background = read_background([home], per_capture=20, per_source=30)
    assert {file.name: file.flows for file in background.files} == {
        "bg/a/1.pcap": 13,
        "bg/a/2.pcap": 4,
        "bg/a/3.pcap": 13,
        "bg/b/1.pcap": 20,
    }
    assert len(background) == 50
    ports = [meta.orig_p for meta, source in zip(background.meta, background.sources, strict=True) if source == "b"]
    assert ports[0] == 20000 + 3000
    assert len(ports) == len(set(ports)) == 20
    assert max(ports) >= 23000 + 180, "the flows kept are spread over the capture"
    again = read_background([home], per_capture=20, per_source=30)
    assert again == background
    assert again.as_dict() == {"sources": {"a": 30, "b": 20}, "captures": 4, "flows": 50, "sha256": background.as_dict()["sha256"]}
    assert read_background([home]).as_dict()["sha256"] != background.as_dict()["sha256"]


def test_sampling_takes_exactly_as_many_as_may_be() -> None:
    assert evenly_spaced(range(7), 7) == list(range(7))
    assert evenly_spaced(range(100), 3) == [0, 33, 66]
    assert fair_shares([5, 1, 100, 30], 60) == [5, 1, 27, 27]
    assert fair_shares([5, 1], 60) == [5, 1]
    assert fair_shares([], 60) == []


def test_housekeeping_stays_and_flows_are_cut_as_asked(tmp_path: Path) -> None:
    home = _folder(tmp_path / "bg", {"a/1.pcap": 3})
    raw = read_background([home], options=FlowOptions(max_packets=1)).raw
    assert [housekeeping(record) for record in raw] == ["mdns"] * 3
    assert [len(record.dirs) for record in raw] == [1] * 3
    assert [len(record.dirs) for record in read_background([home]).raw] == [2] * 3


def test_equal_captures_count_once_and_folders_of_one_name_stay_apart(tmp_path: Path) -> None:
    one = _folder(tmp_path / "1" / "bg", {"a/x.pcap": 2})
    two = _folder(tmp_path / "2" / "bg", {"b/y.pcap": 2, "a/x.pcap": 5})
    background = read_background([one, two])
    assert len(background) == 7
    assert len({file.name for file in background.files}) == 2
    assert [len(background.where(lambda file, k=k: file.flows == k)) for k in (2, 5)] == [2, 5]
    assert read_background([one / "a" / "x.pcap"]).files[0].source == "a"


def test_an_empty_background_says_what_it_means(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "flowless").mkdir()
    (tmp_path / "flowless" / "a.pcap").write_bytes(pcap([]))
    for name in ("empty", "flowless"):
        with pytest.raises(InputError, match="harmless flows of other networks") as error:
            read_background([tmp_path / name])
        assert error.value.code == "input.background"
        assert error.value.input == str(tmp_path / name)
    with pytest.raises(InputError, match="no such folder"):
        read_background([tmp_path / "missing"])
    assert len(read_background([])) == len(NO_BACKGROUND) == 0


def test_reserved_captures_are_never_background(captures: Path, tmp_path: Path) -> None:
    home = _folder(tmp_path / "EAC", {"DNS/a.pcap": 2, "DNS/b.pcap": 2, "TLS/a.pcap": 2})
    rows = "task,label,file,part,why\nEAC,DNS,EAC/DNS/a.pcap,all,x\nEAC,TLS,EAC/TLS/a.pcap,last 20% of flows by start time,x\n"
    (tmp_path / "RESERVED.csv").write_text(rows)
    background = read_background([home])
    assert [file.name for file in background.files] == ["EAC/DNS/b.pcap"]
    assert background.reserved == 2
    assert [file.name for file in read_background([home / "DNS"]).files] == ["DNS/b.pcap"], "the list lies above"
    with pytest.raises(InputError, match="1 captures here are kept for scoring"):
        read_background([home / "TLS"])
    mine = tmp_path / "mine" / "renamed"
    mine.mkdir(parents=True)
    shutil.copy(captures / "EAC" / "DNS" / "viber.pcap", mine / "mine.pcap")  # one of reserved.csv, under another name
    shutil.copy(captures / "EAC" / "DNS" / "zoom.pcap", mine / "other.pcap")
    assert [file.name for file in read_background([mine.parent]).files] == ["mine/renamed/other.pcap"]


@pytest.fixture(scope="module", name="built")
def _built(captures: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = malware(captures, tmp_path_factory.mktemp("mtd"), ("Zeus", "Gmail"))
    out = tmp_path_factory.mktemp("out") / "ds"
    build_dataset(root, task=get_task("MTD"), out=out)
    return load(out)


def _with(captures: Path, place: Path) -> Background:
    (place / "x").mkdir(parents=True)
    (place / "x" / "mine.pcap").write_bytes(_queries(9))
    shutil.copy(captures / "MTD" / "Zeus" / "Zeus_00.pcap", place / "x" / "copy.pcap")
    return read_background([place])


def test_captures_that_are_labelled_too_are_refused(captures: Path, tmp_path: Path, built: Dataset) -> None:
    background = _with(captures, tmp_path / "bg")
    with pytest.raises(InputError) as error:
        refuse_shared(background, built)
    assert "bg/x/copy.pcap is Zeus/Zeus_00.pcap" in str(error.value)
    assert error.value.code == "input.background"
    assert "out of the background" in error.value.hint
    clean = background.where(lambda file: file.name != "bg/x/copy.pcap")
    refuse_shared(clean, built)
    assert shared_captures(clean, built, [tmp_path / "bg" / "x" / "mine.pcap"])[0].name == "bg/x/mine.pcap"


def test_a_capture_written_anew_is_known_by_its_flows(captures: Path, tmp_path: Path, built: Dataset) -> None:
    background = _with(captures, tmp_path / "bg")
    changed = replace(background, files=[replace(file, sha256=f"other {file.name}") for file in background.files])
    by_start = shared_captures(changed, built)
    assert [(row.name, row.labelled) for row in by_start] == [("bg/x/copy.pcap", "Zeus/Zeus_00.pcap")]
    later = replace(changed, meta=[replace(meta, uid=f"C{k}") for k, meta in enumerate(changed.meta)])
    shifted = shared_captures(later, built)
    assert [row.name for row in shifted] == ["bg/x/copy.pcap"], "its packets' sizes and gaps name it where times and hosts were changed"
    assert shifted[0].share > 0.5
    other = replace(later, raw=[replace(record, iats=tuple(gap + 1 for gap in record.iats)) for record in later.raw])
    assert not shared_captures(other, built)


def test_a_few_flows_in_common_are_no_labelled_capture(captures: Path, tmp_path: Path, built: Dataset) -> None:
    background = _with(captures, tmp_path / "bg")
    own = [k for k, meta in enumerate(background.meta) if meta.capture == "bg/x/mine.pcap"]
    uids = set(built.table["uid"].to_pylist())
    zeus = [k for k, meta in enumerate(background.meta) if meta.uid in uids]
    file = next(file for file in background.files if file.name == "bg/x/mine.pcap")

    def mixed(few: int) -> Background:
        rows = [*own, *zeus[:few]]
        meta = [replace(background.meta[k], capture=file.name) for k in rows]
        return Background([background.raw[k] for k in rows], meta, ["x"] * len(rows), [replace(file, flows=len(rows))])

    assert len(own) == 9
    assert not shared_captures(mixed(4), built)
    assert [row.name for row in shared_captures(mixed(20), built)] == ["bg/x/mine.pcap"]


def test_an_update_knows_labelled_captures_by_content(captures: Path, tmp_path: Path) -> None:
    root = malware(captures, tmp_path, ("Virut", "Zeus"))
    build_dataset(root, task=get_task("MTD"), out=tmp_path / "ds", options=BuildOptions(profile="header"))
    data = load(tmp_path / "ds")
    (tmp_path / "bg" / "x").mkdir(parents=True)
    shutil.copy(root / "Virut" / "Virut_00.pcap", tmp_path / "bg" / "x" / "copy.pcap")
    background = read_background([tmp_path / "bg"])
    background = replace(background, files=[replace(file, sha256="changed") for file in background.files])
    idx = range(len(data))
    content = data.hashes(idx)
    rows = replay.Rows(data.units(idx), data.labels_of(idx), ["train"] * len(data), data.groups(idx), content, content, [""] * len(data))
    shared = shared_captures(background, replay.Replayed(data.path, data.manifest, rows.table()))
    assert [(row.name, row.labelled) for row in shared] == [("bg/x/copy.pcap", "Virut")]
    zeus = rows.take([k for k, label in enumerate(rows.labels) if label == "Zeus"])
    assert not shared_captures(background, replay.Replayed(data.path, data.manifest, zeus.table()))


def test_compressed_captures_are_read(tmp_path: Path) -> None:
    (tmp_path / "bg" / "lab").mkdir(parents=True)
    (tmp_path / "bg" / "lab" / "a.pcap.gz").write_bytes(gzip.compress(_queries(3), mtime=0))
    assert [(file.source, file.flows) for file in read_background([tmp_path / "bg"]).files] == [("lab", 3)]
    assert packaged().name == "background"
