from __future__ import annotations

import errno
import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from capture_samples import Talk, enhanced, ethernet, interface, ipv4, pcap, section, udp, write

from trafficllm.capture.files.read import Skipped, expand, read_frames
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.info import capture_info
from trafficllm.core.errors import InputError, TrafficLLMError
from trafficllm.core.types import FrameBatch

FRAMES = [(1.5, ethernet(ipv4(17, udp(1000, 53, b"a")))), (2.25, ethernet(ipv4(17, udp(1000, 53, b"bb"))))]
EXPECTED = [1_500_000_000, 2_250_000_000]


def frames_of(path: Path, **options: int) -> list[FrameBatch]:
    return list(read_frames([path], **options))


def contents(path: Path, **options: int) -> list[tuple[int, bytes]]:
    found = []
    for batch in frames_of(path, **options):
        for i in range(len(batch)):
            start = int(batch.offset[i])
            found.append((int(batch.ts[i]), batch.buffer[start : start + int(batch.caplen[i])].tobytes()))
    return found


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_classic_pcap_of_both_byte_orders_and_clocks(tmp_path: Path, order: str, nano: bool) -> None:
    found = contents(write(tmp_path, pcap(FRAMES, order=order, nano=nano)))
    assert found == [(ts, frame) for ts, (_, frame) in zip(EXPECTED, FRAMES, strict=True)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_interfaces_keep_their_own_clock_and_link(tmp_path: Path, order: str) -> None:
    data = section(order) + interface(order=order) + interface(101, order=order, resolution=9)
    data += interface(order=order, resolution=0x80 | 10)
    data += enhanced(1_500_000, FRAMES[0][1], order=order) + enhanced(2_250_000_000, FRAMES[1][1][14:], face=1, order=order)
    data += enhanced(3 << 10, FRAMES[0][1], face=2, order=order)
    batch = frames_of(write(tmp_path, data, "x.pcapng"))[0]
    assert batch.ts.tolist() == [1_500_000_000, 2_250_000_000, 3_000_000_000]
    assert batch.link.tolist() == [1, 101, 1]
    assert batch.number.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("resolution", "units", "ns"),
    [
        (9, 1_500_000_001, 1_500_000_001),
        (18, 17 * 10**18, 17_000_000_000),
        (20, 17 * 10**17, 17_000_000),
        (20, 2**64 - 1, 184_467_440),
        (37, 2**64 - 1, 0),
        (127, 2**64 - 1, 0),
        (0x80 | 62, 3 * 2**61, 1_500_000_000),
        (0x80 | 63, 2**63 + 2**62, 1_500_000_000),
        (0x80 | 64, 2**63, 500_000_000),
        (0x80 | 127, 2**64 - 1, 0),
    ],
)
def test_pcapng_clocks_finer_than_a_nanosecond(tmp_path: Path, resolution: int, units: int, ns: int) -> None:
    data = section() + interface(resolution=resolution) + enhanced(units, b"frame")
    (batch,) = read_frames([write(tmp_path, data)])
    assert abs(int(batch.ts[0]) - ns) <= 1


def test_pcapng_sections_start_interfaces_anew(tmp_path: Path) -> None:
    data = section() + interface() + enhanced(1, FRAMES[0][1])
    data += section(">") + interface(113, order=">") + enhanced(2, FRAMES[1][1], order=">")
    links = [link for batch in frames_of(write(tmp_path, data, "x.pcapng")) for link in batch.link.tolist()]
    assert links == [1, 113]


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4"])
def test_compressed_captures_are_told_by_their_bytes(tmp_path: Path, codec: str) -> None:
    raw = gzip.compress(pcap(FRAMES)) if codec == "gzip" else pa.Codec(codec).compress(pcap(FRAMES), asbytes=True)
    assert [ts for ts, _ in contents(write(tmp_path, raw, "x.pcap"))] == EXPECTED


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe:
        buffer = io.BytesIO(pcap(FRAMES))

    monkeypatch.setattr(sys, "stdin", Pipe())
    assert [int(ts) for batch in read_frames(["-"]) for ts in batch.ts] == EXPECTED


def test_many_files_are_one_stream_with_their_names(tmp_path: Path) -> None:
    write(tmp_path, pcap(FRAMES), "b.pcap")
    write(tmp_path, pcap(FRAMES[:1]), "a.pcap")
    batches = list(read_frames([str(tmp_path / "*.pcap")]))
    assert [(b.source[0], len(b)) for b in batches] == [(0, 1), (1, 2)]
    assert [Path(name).name for name in batches[0].files] == ["a.pcap", "b.pcap"]


def test_small_windows_lose_nothing(tmp_path: Path) -> None:
    talk = Talk().open()
    for _ in range(400):
        talk.send(0, 24, b"x" * 1400)
    path = write(tmp_path, pcap(talk.frames))
    whole = contents(path)
    assert whole == contents(path, chunk_bytes=4096)
    assert len(whole) == 403


def test_a_cut_file_gives_what_is_there(tmp_path: Path) -> None:
    counts = CountsBuilder()
    path = write(tmp_path, pcap(FRAMES)[:-5])
    assert sum(len(batch) for batch in read_frames([path], counts=counts)) == 1
    assert counts.build().malformed == {"file.cut": 1}


def test_a_cut_gzip_gives_what_is_there(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    frames = [(float(i), ethernet(ipv4(17, udp(1000 + i, 53, noise.bytes(1000))))) for i in range(100)]
    path = write(tmp_path, gzip.compress(pcap(frames))[:-3000], "x.pcap.gz")
    info = capture_info([path])
    assert info.packets > 0
    assert info.malformed == {"file.cut": 1}


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("empty.pcap", b"", "input.empty"),
        ("text.pcap", b"GET / HTTP/1.1\r\n\r\n", "input.format"),
        ("short.pcap", pcap([])[:19], "input.cut"),
        ("old.pcap", pcap([])[:4] + b"\x63\x00" + pcap([])[6:], "input.version"),
        ("garbage.pcapng", b"\x0a\x0d\x0d\x0a" + bytes(40), "input.pcapng"),
    ],
)
def test_what_is_no_capture_is_refused_with_a_hint(tmp_path: Path, name: str, data: bytes, code: str) -> None:
    with pytest.raises(InputError) as caught:
        list(read_frames([write(tmp_path, data, name)]))
    assert caught.value.code == code
    assert caught.value.input.endswith(name)
    assert caught.value.hint


def test_missing_paths_and_empty_folders(tmp_path: Path) -> None:
    for given, code in ((tmp_path / "no.pcap", "input.missing"), (tmp_path, "input.no_captures"), (tmp_path / "*.pcap", "input.missing")):
        with pytest.raises(InputError) as caught:
            expand([given])
        assert caught.value.code == code


def test_a_folder_gives_its_captures_only(tmp_path: Path) -> None:
    write(tmp_path, pcap(FRAMES))
    (tmp_path / "b.pcap.gz").write_bytes(gzip.compress(pcap(FRAMES)))
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert len(expand([tmp_path])) == 2


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    record = pcap([(1.0, bytes(1000))])[24:]
    path = tmp_path / "bomb.pcap.gz"
    with gzip.open(path, "wb", compresslevel=9) as stream:
        stream.write(pcap([]))
        for _ in range(80):
            stream.write(record * 1000)
    with pytest.raises(InputError) as caught:
        capture_info([path])
    assert caught.value.code == "input.bomb"


def test_info_counts_add_up(captures: Path) -> None:
    counts = capture_info([captures])
    assert counts.packets > 1000
    assert counts.flows > 100
    assert sum(counts.link_types.values()) == counts.packets
    assert counts.first <= counts.last


@pytest.mark.parametrize("packing", ["plain", "gzip"])
def test_progress_ends_with_all_bytes_of_the_files(packing: str, tmp_path: Path, captures: Path) -> None:
    """Bytes as they lie on disk, compressed ones where they are compressed: what is left can be told."""
    from trafficllm.capture.flows.assembly import read_flows

    sources = sorted((captures / "EAC" / "DNS").glob("*.pcap"))[:3]
    paths = []
    for source in sources:
        data = source.read_bytes()
        paths.append(tmp_path / source.name)
        paths[-1].write_bytes(gzip.compress(data) if packing == "gzip" else data)
    said: list[tuple[str, int, int | None]] = []

    class Sink:
        def update(self, stage: str, done: int, total: int | None) -> None:
            said.append((stage, done, total))

    list(read_flows(paths, progress=Sink()))
    whole = sum(path.stat().st_size for path in paths)
    read = [(done, total) for stage, done, total in said if stage == "read"]
    assert read[-1] == (whole, whole)
    assert read == sorted(read, key=lambda row: row[0])


def test_a_bad_file_among_good_ones_is_told_and_left_out(tmp_path: Path) -> None:
    good = write(tmp_path, pcap([(1.0, b"x" * 60)] * 3), "a.pcap")
    last = write(tmp_path, pcap([(2.0, b"y" * 60)] * 2), "z.pcap")
    bad = write(tmp_path, b"no capture at all", "m.pcap")
    told: list[TrafficLLMError] = []
    skipped, counts = Skipped(told.append), CountsBuilder()
    batches = list(read_frames([good, bad, tmp_path / "none.pcap", last], counts=counts, skipped=skipped))
    assert [len(batch) for batch in batches] == [3, 2]
    assert [(error.code, Path(error.input)) for error in told] == [("input.missing", tmp_path / "none.pcap"), ("input.format", bad)]
    assert skipped.errors == told
    assert counts.read == sum(path.stat().st_size for path in (good, bad, last))
    assert [path.name for path in expand([tmp_path], skipped)] == ["a.pcap", "m.pcap", "z.pcap"]
    assert [path.name for path in expand([tmp_path])] == ["a.pcap", "z.pcap"]


def test_nothing_readable_raises_as_ever(tmp_path: Path) -> None:
    bad = write(tmp_path, b"no capture at all", "m.pcap")
    told: list[TrafficLLMError] = []
    cases = [([bad], "input.format", 0), ([tmp_path / "none"], "input.missing", 0)]
    cases += [([bad, second], "input.none_readable", 2) for second in (bad, tmp_path / "none")]
    for paths, code, count in cases:
        told.clear()
        with pytest.raises(InputError) as caught:
            list(read_frames(paths, skipped=Skipped(told.append)))
        assert (caught.value.code, len(told)) == (code, count)


def test_no_memory_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("trafficllm.capture.files.decompress.SettledFile", full)
    with pytest.raises(MemoryError):
        list(read_frames([write(tmp_path, pcap([(1.0, b"x" * 60)]))]))
