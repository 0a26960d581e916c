"""The original's published JSON format, end to end: one command, three ways, and what the honest split takes away."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import evaluate_samples
import infer_samples
import pytest

from trafficllm.core.errors import InputError
from trafficllm.core.files import read_json

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes" / "results"))

original = importlib.import_module("original")


@pytest.fixture(autouse=True, scope="module")
def _few_trees() -> Iterator[None]:
    with evaluate_samples.few_trees():
        yield


HEAD = "Given the following traffic data <packet> that contains protocol fields, name it.\n<packet>: "
FIELDS = (
    "frame.len: 94, frame.time_epoch: {time}, ip.version: 4, ip.ttl: 64, ip.proto: 6, ip.src: {src}, ip.dst: 198.51.100.7, "
    "tcp.stream: {stream}, tcp.srcport: {port}, tcp.dstport: 443, tcp.flags: 0x0018, tcp.window_size_value: 64240, tcp.len: {size}, "
    "tcp.payload: {payload}"
)


def _write(folder: Path) -> None:
    """Flows of four packets whose label only the client's address tells; packets are dealt to the parts at random, as published."""
    chooser, rows = random.Random(0), []
    for stream in range(60):
        label = ("Gmail", "Neris")[stream % 2]
        for packet in range(4):
            payload = ":".join(f"{chooser.randrange(256):02x}" for _ in range(12))
            shown = FIELDS.format(
                time=1e9 + stream, src=f"10.0.{stream % 2}.{stream}", stream=stream, port=40000 + stream, size=12 + packet, payload=payload
            )
            rows.append({"instruction": HEAD + shown, "output": label})
    chooser.shuffle(rows)
    folder.mkdir()
    for part, some in (("train", rows[:180]), ("test", rows[180:])):
        (folder / f"ustc_detection_packet_{part}.json").write_text("".join(json.dumps(row) + "\n" for row in some))
    (folder / "ustc_label.json").write_text('{"Gmail": 0, "Neris": 1}')


def test_three_ways_in_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "files")
    base = infer_samples.write_base(tmp_path / "base")
    words = ["--files", str(tmp_path / "files"), "--out", str(tmp_path / "out"), "--base", str(base), "--seconds", "0", "--steps", "2"]
    assert original.main([*words, "--budget", "1", "--json", str(tmp_path / "t.json")]) == 0
    (found,) = read_json(tmp_path / "t.json")["rows"]
    assert (found["task"], found["original_f1"]) == ("MTD", 0.9950)
    assert (found["published"]["mask"], found["published"]["split"]) == ("raw", "given")
    assert found["published"]["leaky"]
    assert (found["honest"]["mask"], found["honest"]["split"]) == ("strict", "flow")
    assert not found["honest"]["leaky"]
    assert "| ustc_detection_packet | 0.995 |" in capsys.readouterr().out
    assert (tmp_path / "out" / "ustc_detection_packet" / "honest" / "report.html").is_file()
    honest = found["honest"]["baselines"]
    best = max(row["macro_f1"] for name, row in honest.items() if name != "identifier_probe")
    assert best < 0.75, "the label is in the addresses alone: masks leave nothing to learn"
    assert found["published"]["baselines"]["identifier_probe"]["macro_f1"] > 0.95, "and as published they tell everything"


def test_a_folder_without_published_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no published data set"):
        original.find(tmp_path)
