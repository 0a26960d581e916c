"""Folders as people make them: hostile names, links, layouts that contradict themselves; each refused in one clear sentence."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from trafficllm.core.errors import InputError
from trafficllm.core.files import slug
from trafficllm.records.catalog import get_task
from trafficllm.records.dataset.dataset import BuildOptions, build_dataset, load
from trafficllm.records.sources.folders import scan

HOSTILE = ("\u202etxt.exe", "<img src=x onerror=alert(1)>", "x" * 200, "CON", "-rf", "|`$(id)`|", "\u0430dmin", "{{7*7}}", "=1+1")
"""Bidi override, HTML, a very long name, a device, an option, shell and table marks, a Cyrillic look-alike, a template, a formula."""


@pytest.fixture(name="pcaps")
def _pcaps(captures: Path) -> list[Path]:
    return sorted((captures / "MTD" / "Zeus").glob("*.pcap"))[:3]


def _fill(folder: Path, pcaps: list[Path]) -> None:
    folder.mkdir(parents=True)
    for file in pcaps:
        shutil.copyfile(file, folder / file.name)


def _code(root: Path) -> tuple[str, InputError]:
    with pytest.raises(InputError) as caught:
        scan(root)
    assert caught.value.hint
    return caught.value.code, caught.value


def test_hostile_labels_are_data_and_are_escaped_where_shown(tmp_path: Path, pcaps: list[Path]) -> None:
    root = tmp_path / "in"
    for label in HOSTILE:
        _fill(root / label, pcaps)
    build_dataset(root, task=get_task("MTD"), out=tmp_path / "ds", options=BuildOptions(split="flow"))
    data = load(tmp_path / "ds")
    assert set(data.labels) == set(HOSTILE)
    assert {path.name for path in data.path.iterdir()} <= {"card.md", "manifest.json", "marks.parquet", "records.parquet", "split.json"}
    card = (data.path / "card.md").read_text()
    assert "\u202e" not in card
    assert "<img" not in card
    assert "\n| |" not in card
    assert len({slug(label) for label in HOSTILE}) == len(HOSTILE)
    for label in HOSTILE:
        assert (tmp_path / slug(label)).parent == tmp_path
        assert len(slug(label)) <= 100
        assert slug(label).upper() not in {"CON", "NUL", "AUX"}


@pytest.mark.parametrize("label", ["a\x1b[31mred", "a\nb", "bell\x07", "~root"])
def test_labels_with_control_characters_are_refused(tmp_path: Path, pcaps: list[Path], label: str) -> None:
    _fill(tmp_path / "in" / label, pcaps)
    code, error = _code(tmp_path / "in")
    assert code == "input.name"
    assert "\x1b" not in error.input


def test_names_that_are_not_text_are_refused(tmp_path: Path, pcaps: list[Path]) -> None:
    _fill(Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff\xfe")), pcaps)
    assert _code(tmp_path / "in")[0] == "input.name"


def test_layouts_that_contradict_themselves(tmp_path: Path, pcaps: list[Path]) -> None:
    root = tmp_path / "loose"
    _fill(root / "Zeus", pcaps)
    shutil.copyfile(pcaps[0], root / "stray.pcap")
    code, error = _code(root)
    assert (code, error.where) == ("input.unlabelled", "stray.pcap")
    both = tmp_path / "both"
    _fill(both / "train" / "Zeus", pcaps)
    _fill(both / "Zeus", pcaps)
    assert _code(both)[0] == "input.layout"
    bare = tmp_path / "bare"
    _fill(bare / "train" / "Zeus", pcaps)
    _fill(bare / "test", pcaps)
    assert _code(bare)[0] == "input.unlabelled"
    twice = tmp_path / "twice"
    _fill(twice / "caf\u00e9", pcaps)
    _fill(twice / "cafe\u0301", pcaps)
    assert _code(twice)[0] == "input.label_twice"
    (tmp_path / "empty").mkdir()
    assert _code(tmp_path / "empty")[0] == "input.no_captures"
    assert _code(pcaps[0])[0] == "input.not_folder"


def test_any_depth_and_links(tmp_path: Path, pcaps: list[Path]) -> None:
    elsewhere = tmp_path / "elsewhere"
    _fill(elsewhere / "2020" / "monday", pcaps)
    root = tmp_path / "in"
    _fill(root / "train" / "Neris" / "a" / "b" / "c", pcaps)
    (root / "test").mkdir()
    (root / "test" / "Zeus").symlink_to(elsewhere)
    found = scan(root)
    assert found.labels == ("Neris", "Zeus")
    assert {file.split for file in found.files} == {"train", "test"}
    assert len(found.files) == 6
    (elsewhere / "up").symlink_to(root)
    code, error = _code(root)
    assert code == "input.link_loop"
    assert error.input.endswith("up")
    (elsewhere / "up").unlink()
    (elsewhere / "gone.pcap").symlink_to(tmp_path / "nothing")
    assert _code(root)[0] == "input.missing"


def _lines(path: Path, rows: list[object]) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


FIELDS = "ip.version: 4, ip.ttl: 128, ip.proto: 6, ip.src: 10.0.0.{0}, ip.dst: 1.2.3.4, tcp.srcport: {1}, tcp.dstport: 443, tcp.len: {0}"


def test_malformed_lines_of_the_originals_files_are_counted_with_their_numbers(tmp_path: Path) -> None:
    good = [{"instruction": "t\n<packet>: " + FIELDS.format(n, 2000 + n), "output": ("Gmail\u3002", "Neris")[n % 2]} for n in range(40)]
    bad: list[object] = ["{not json", {"instruction": 3, "output": "x"}, {"instruction": "only"}, "[]"]
    bad.append({"instruction": "a", "output": "\x1b[2J"})
    _lines(tmp_path / "u_detection_packet_train.json", [*good[:20], *bad, *good[20:]])
    manifest = build_dataset(
        tmp_path, task=get_task("MTD"), out=tmp_path / "ds", options=BuildOptions(profile="raw", split="flow")
    ).manifest
    assert manifest["labels"] == ["Gmail", "Neris"]
    assert manifest["dropped"]["malformed line"] == 5
    assert manifest["malformed"] == [f"u_detection_packet_train.json line {n}" for n in range(21, 26)]
    assert manifest["normalised"] == {"Gmail": 20}
    assert "line 21" in (tmp_path / "ds" / "card.md").read_text()
    _lines(tmp_path / "u_detection_packet_train.json", ["{", "["])
    with pytest.raises(InputError) as caught:
        build_dataset(tmp_path, task=get_task("MTD"), out=tmp_path / "no")
    assert caught.value.where == "line 1"


def test_generation_files_of_the_original_load(tmp_path: Path) -> None:
    forms = (
        lambda n: str({"ip.ttl": "64", "ip.proto": "17", "udp.srcport": f"{5000 + n}", "udp.length": f"{9 + n}"}),
        lambda n: FIELDS.format(n, 3000 + n),
        lambda n: bytes(range(n + 1)).hex(),
        lambda n: ":".join(f"{b:02x}" for b in range(n + 1)),
    )
    rows = [
        {"instruction": f"Please generate a packet of {('Neris', 'World Of Warcraft')[n % 2]} traffic.", "output": forms[n % 4](n)}
        for n in range(48)
    ]
    _lines(tmp_path / "ustc_generation_packet_train.json", [*rows, {"instruction": "Sing a song", "output": "no fields here"}])
    manifest = build_dataset(tmp_path, task=get_task("MTG"), out=tmp_path / "ds", options=BuildOptions(split="flow")).manifest
    assert manifest["labels"] == ["Neris", "World Of Warcraft"]
    assert manifest["dropped"]["malformed line"] == 1
    data = load(tmp_path / "ds")
    assert {record.kind for record in data.raw_records(range(len(data)))} == {"packet"}
    assert {record.proto for record in data.raw_records(range(len(data)))} == {0, 6, 17}
