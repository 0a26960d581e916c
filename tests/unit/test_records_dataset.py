"""Captures to data set and back, on the bundled captures."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from records_samples import malware

from trafficllm.core.errors import ArtifactError, InputError, UsageError
from trafficllm.core.settings import Config, FlowOptions
from trafficllm.records.catalog import get_task
from trafficllm.records.codec.canonical import canonical
from trafficllm.records.codec.codec import decode, encode
from trafficllm.records.codec.grammar import Grammar
from trafficllm.records.dataset.dataset import BuildOptions, Dataset, build_dataset, load
from trafficllm.records.masks import wiped
from trafficllm.records.record_shape import RecordShape, wanted_of

LABELS = ("Zeus", "Tinba", "Gmail", "FTP")


@pytest.fixture(scope="module", name="small")
def _small(captures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return malware(captures, tmp_path_factory.mktemp("mtd"), LABELS)


@pytest.fixture(scope="module", name="built")
def _built(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("out") / "ds"
    build_dataset(small, task=get_task("MTD"), out=out)
    return load(out)


def test_records_come_back_as_they_were_encoded(built: Dataset) -> None:
    idx = range(len(built))
    grammar = Grammar()
    assert len(built) > 500
    for record, units in zip(built.records(idx), built.units(idx), strict=True):
        assert encode(record) == units
        assert canonical(record) == decode(units)
        assert wiped(record) == record
        assert grammar.accepts(grammar.run(grammar.start(), units))


def test_parts_share_neither_groups_nor_contents_nor_reserved_flows(built: Dataset, small: Path) -> None:
    parts = {part: built.indices(part) for part in ("train", "val", "test")}
    assert all(parts.values())
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not set(built.groups(parts[one])) & set(built.groups(parts[other]))
        assert not set(built.hashes(parts[one])) & set(built.hashes(parts[other]))
    with (small.parent / "reserved.csv").open() as stream:
        held = {row["file"] for row in csv.DictReader(stream) if row["file"].startswith("MTD/")}
    assert len(held) > 20
    for part in ("train", "val"):
        assert not {f"MTD/{meta.capture}" for meta in built.meta(parts[part])} & held
    assert {f"MTD/{meta.capture}" for meta in built.meta(parts["test"])} <= held


def test_no_address_port_or_name_is_left_in_what_a_model_sees(built: Dataset) -> None:
    idx = built.indices("test")[:200]
    raw, meta, shown = built.raw_records(idx), built.meta(idx), built.records(idx)
    named = 0
    for before, row, after in zip(raw, meta, shown, strict=True):
        assert after.ports is None
        assert set(after.ttls) <= {-1}
        for host in (row.orig_h, row.resp_h):
            assert host.encode() not in after.payload[0] + after.payload[1]
        names = [str(before.facts.fields.get(key, "")) for key in ("http.host", "dns.qry.name", "tls.handshake.extensions_server_name")]
        for name in names:
            if len(name) > 5:
                named += 1
                assert name.encode() not in after.payload[0] + after.payload[1]
                assert b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) not in after.payload[0]
    assert named > 10


def test_manifest_and_card_tell_what_was_done(built: Dataset) -> None:
    manifest = built.manifest
    assert manifest["split"]["unit"] == "capture"
    assert {"ttl", "ports", "tls.sni"} <= set(built.masked_fields)
    assert sum(sum(parts.values()) for parts in manifest["classes"].values()) == len(built) == manifest["records"]
    assert manifest["dropped"]
    card = (built.path / "card.md").read_text()
    assert "Zeus" in card
    assert "TTL" in card
    assert str(built.path.parent) not in json.dumps(manifest)


def test_same_bytes_again_and_under_another_hash_seed(small: Path, built: Dataset, tmp_path: Path) -> None:
    code = (
        "import sys; from trafficllm.records.dataset.dataset import build_dataset; from trafficllm.records.catalog import get_task;"
        "build_dataset(sys.argv[1], task=get_task('MTD'), out=sys.argv[2])"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", code, str(small), str(tmp_path / "again")], check=True, env=env)
    for name in ("records.parquet", "manifest.json", "card.md"):
        assert (tmp_path / "again" / name).read_bytes() == (built.path / name).read_bytes()
    report = build_dataset(small, task=get_task("MTD"), out=built.path)
    assert report.reused
    assert report.result().dataset_sha256 == built.sha256


def test_eac_is_split_by_capture_over_all_labels(captures: Path, tmp_path: Path) -> None:
    report = build_dataset(captures / "EAC", task=get_task("EAC"), out=tmp_path / "eac")
    data = load(tmp_path / "eac")
    origins = {part: {meta.origin for meta in data.meta(data.indices(part))} for part in ("train", "val", "test")}
    assert not origins["train"] & origins["test"]
    assert not origins["train"] & origins["val"]
    assert report.manifest["leaky"] == []
    assert len(data.manifest["trainable"]) == len(data.labels)


def test_options_that_loosen_are_named_leaky(small: Path, tmp_path: Path) -> None:
    report = build_dataset(
        small, task=get_task("MTD"), out=tmp_path / "x", options=BuildOptions(keep=("ttl",), split="flow", cap=20, unknown=("FTP",))
    )
    assert report.manifest["classes"]["FTP"]["train"] == report.manifest["classes"]["FTP"]["val"] == 0
    assert report.manifest["classes"]["FTP"]["test"] > 0
    assert report.manifest["leaky"] == ["ttl kept", "split by flow as asked"]
    assert max(parts["train"] for parts in report.manifest["classes"].values()) <= 20
    assert any(ttl > 0 for record in load(tmp_path / "x").records([0, 1]) for ttl in record.ttls)


def test_bad_input_is_refused_in_one_line_and_leaves_nothing(small: Path, tmp_path: Path) -> None:
    task, out = get_task("MTD"), tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no labelled captures"):
        build_dataset(empty, task=task, out=out)
    with pytest.raises(InputError, match="no such folder"):
        build_dataset(tmp_path / "nowhere", task=task, out=out)
    one = tmp_path / "one"
    shutil.copytree(small / "Zeus", one / "Zeus")
    with pytest.raises(InputError, match="1 label"):
        build_dataset(one, task=task, out=out)
    with pytest.raises(UsageError, match="profile"):
        build_dataset(small, task=task, out=out, options=BuildOptions(profile="lax"))
    assert not out.exists()


@pytest.mark.parametrize("name", ["unknown", "Unknown", "NONE"])
def test_a_class_is_not_named_like_an_answer(small: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    shutil.copytree(small / "Zeus", folder / "Zeus")
    shutil.copytree(small / "FTP", folder / name)
    with pytest.raises(InputError, match=name) as caught:
        build_dataset(folder, task=get_task("MTD"), out=tmp_path / "out")
    assert "rename the folder" in caught.value.hint


def test_what_a_task_file_says_of_events_is_no_part_of_the_key(small: Path, built: Dataset) -> None:
    quiet = get_task("MTD").model_copy(update={"notable": (), "priority": 0})
    assert build_dataset(small, task=quiet, out=built.path).reused
    assert built.task.notable == ("malicious",)


def test_each_file_names_its_source(small: Path, built: Dataset, tmp_path: Path) -> None:
    assert set(built.sources.values()) == {small.name}
    folder = tmp_path / "MTD_lab"
    shutil.copytree(small, folder)
    names = sorted(built.sources)
    (tmp_path / "manifest.csv").write_text(f"file,origin\nMTD_lab/{names[0]},acme/captures@12 x.pcap\n")
    build_dataset(folder, task=get_task("MTD"), out=tmp_path / "out")
    sources = load(tmp_path / "out").sources
    assert [sources[name] for name in names[:2]] == ["acme/captures", "MTD_lab"]


def test_the_manifest_says_what_shapes_a_record(small: Path, built: Dataset, tmp_path: Path) -> None:
    assert built.manifest["record"] == RecordShape().as_dict()
    assert "table_size" not in built.manifest["record"]["capture"]
    config = Config.model_validate({"capture": {"max_packets": 3, "table_size": 4096}, "records": {"payload": 8, "packets": 2}})
    options = BuildOptions.of(config, profile="header", cap=10)
    report = build_dataset(small, task=get_task("MTD"), out=tmp_path / "short", options=options)
    data = load(tmp_path / "short")
    assert data.shape == RecordShape(capture=config.capture, records=options.shape().records).model_copy(
        update={"capture": config.capture.model_copy(update={"table_size": FlowOptions().table_size})}
    )
    assert (data.codec.packets, data.codec.payload, data.profile) == (2, (8, 8), "header")
    assert max(len(record.dirs) for record in data.raw_records(range(len(data)))) == 3
    assert build_dataset(small, task=get_task("MTD"), out=report.out, options=options).reused
    other = BuildOptions.of(config.model_copy(update={"capture": FlowOptions(max_packets=4)}), profile="header", cap=10)
    assert not build_dataset(small, task=get_task("MTD"), out=report.out, options=other).reused


def test_the_key_of_a_data_set_of_default_flows_is_that_of_earlier_versions(small: Path, built: Dataset) -> None:
    table = FlowOptions(table_size=4096)
    assert build_dataset(small, task=get_task("MTD"), out=built.path, options=BuildOptions(flows=table)).reused


def test_another_record_is_refused_with_both_values() -> None:
    shape = RecordShape.of({"codec": [8, 96, 96, 384, 128], "profile": "header"})
    assert (shape.records.packets, shape.records.profile, shape.capture) == (8, "header", FlowOptions())
    assert wanted_of(Config()) == {}
    config = Config.model_validate({"records": {"packets": 8}, "capture": {"max_payload": 64, "table_size": 1024}})
    wanted = wanted_of(config, "raw")
    assert wanted == {"records.packets": 8, "capture.max_payload": 64, "records.profile": "raw"}
    assert shape.differences(wanted) == ["capture.max_payload is 512, not 64", 'records.profile is "header", not "raw"']
    with pytest.raises(UsageError, match=r"max_payload is 512, not 64") as caught:
        shape.require(wanted, whose="adapter MTD v0001", remedy="register it again")
    assert caught.value.hint == "register it again"
    shape.require({"records.payload": (96, 96)}, whose="adapter", remedy="")


def test_a_changed_data_set_is_not_loaded(small: Path, built: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built.path, copy)
    with (copy / "records.parquet").open("r+b") as stream:
        stream.seek(100)
        stream.write(b"\0\1\2\3")
    with pytest.raises(ArtifactError):
        load(copy)
    with pytest.raises(ArtifactError):
        load(tmp_path)


def _lines(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"instruction": a, "output": b}) + "\n" for a, b in rows))


def test_the_originals_files_load_as_they_are(tmp_path: Path) -> None:
    head = "Given the following traffic data <packet> that contains protocol fields, name it.\n<packet>: "
    fields = "frame.len: 94, ip.version: 4, ip.ttl: 128, ip.proto: 6, ip.src: 10.0.0.{0}, ip.dst: 1.2.3.4, tcp.srcport: {1}, tcp.dstport: 443, tcp.flags: 0x0018, tcp.window_size_value: 64240, tcp.len: 3, tcp.payload: 16:03:0{2}"  # noqa: E501
    said = ("The category is likely to be recognized as Gmail.", "Neris.")
    rows = [(head + fields.format(n, 2000 + n, n % 8), said[n % 2]) for n in range(40)]
    _lines(tmp_path / "ustc_detection_packet_train.json", rows)
    _lines(tmp_path / "ustc_detection_packet_test.json", rows[:20])
    (tmp_path / "ustc_label.json").write_text('{"Neris": 0, "Gmail": 1}')
    report = build_dataset(tmp_path, task=get_task("MTD"), out=tmp_path / "ds", options=BuildOptions(profile="raw"))
    data = load(tmp_path / "ds")
    assert data.labels == ("Gmail", "Neris")
    assert sum(report.manifest["normalised"].values()) == 60
    record = data.records(data.indices("test"))[0]
    assert (record.kind, record.sizes, record.flags, record.ports[1] if record.ports else 0) == ("packet", (3,), (0x18,), 443)
    assert record.payload[0][:2] == b"\x16\x03"


def test_flow_hex_requests_and_directions_of_the_original() -> None:
    from trafficllm.records.sources.original import parse

    ends = "0a0000010a000002c00001bb"
    frame = f"00005e00530100005e00530208004500002800010000400600 00{ends}00000001000000005002040000000000".replace(" ", "")
    back = frame.replace(ends, "0a0000020a00000101bbc000")
    record, meta = parse(f"text\n<flow>: <pck>{frame}<pck>{back}")
    assert (record.dirs, record.proto, record.ports, record.ttls) == ((0, 1), 6, (49152, 443), (64, 64))
    assert meta.orig_h == "10.0.0.1"
    web, _ = parse('text\n<packet>: {"method": "POST", "url": "http://x.example/a", "body": "q=1"}')
    assert (web.kind, web.text) == ("http", "POST http://x.example/a HTTP/1.1\n\nq=1")
    cells, _ = parse("text\n<flow>: 0101110")
    assert (cells.kind, cells.dirs) == ("cells", (0, 1, 0, 1, 1, 1, 0))


def test_http_text_keeps_one_request_in_five_for_scoring(tmp_path: Path) -> None:
    from trafficllm.records.sources.requests import canonical_request, is_reserved_request

    root = tmp_path / "WAD_x"
    root.mkdir()
    (tmp_path / "RESERVED.csv").write_text(
        "task,label,file,part,why\nW,*,WAD_x/*.txt.gz,requests whose sha256(canonical request) mod 5 == 0,records\n"
    )
    for label, path in (("Normal", "index"), ("Attack", "%27or1")):
        rest = "HTTP/1.1\nHost: h.example\nCookie: JSESSIONID=AB1\n\n###END\n"
        raw = "".join(f"GET http://h.example/{n}/{path} {rest}" for n in range(100))
        with gzip.open(root / f"{label}_raw_http.txt.gz", "wt") as stream:
            stream.write(raw)
    build_dataset(root, task=get_task("WAD"), out=tmp_path / "ds")
    data = load(tmp_path / "ds")
    held = data.raw_records(data.indices("test"))
    assert 10 < len(held) < 80
    assert all(is_reserved_request(record.text) for record in held)
    assert not [r for part in ("train", "val") for r in data.raw_records(data.indices(part)) if is_reserved_request(r.text)]
    shown = data.records(data.indices("train"))[0]
    assert "h.example" not in shown.text
    assert "JSESSIONID=AB" not in shown.text
    assert canonical_request("GET /A%20b?x=1 HTTP/1.1\n\n") == canonical_request("get /a b?x=1")


def test_sequences_load(tmp_path: Path) -> None:
    rows = ["page\tn\tcells"] + [f"{page}\t5\t+1 -1 -{100 + n} -{100 + n} +{200 + k}" for k, page in enumerate("AB") for n in range(5)]
    for run in (1, 2, 3):
        (tmp_path / f"run{run}.tsv").write_text("\n".join(rows) + "\n")
    build_dataset(tmp_path, task=get_task("WF"), out=tmp_path / "ds")
    data = load(tmp_path / "ds")
    assert data.manifest["split"]["unit"] == "capture"
    assert {record.kind for record in data.records(range(len(data)))} == {"cells"}
