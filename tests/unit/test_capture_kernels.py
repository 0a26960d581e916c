"""Kernels as they are shipped, and the parts of numba that its interface does not promise, which its short first call needs."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.packets import PACKET
from trafficllm.capture.kernels import compiling, shipped
from trafficllm.capture.kernels.decode import decode_frames
from trafficllm.capture.kernels.layout import SUMMARY
from trafficllm.capture.kernels.read import walk_records
from trafficllm.capture.kernels.sha1 import LANES, PLACES, name_flows
from trafficllm.capture.kernels.shipped import Native
from trafficllm.capture.kernels.warm import KERNELS

REMEDY = """numba {version} no longer has what capture/kernels/pipeline.py uses ({error}).
Nothing breaks: kernels compile by numba's own pipeline, which took 20 processor seconds where the short one took 12 (numba 0.68.1).
Measure the first call (`python bench/bench_start.py --kernels`): within 10 s without the file, delete it and this test; otherwise compare
numba.core.typed_passes, compiler and codegen with the classes in the file, mend them, and see that tests/golden stay the same."""
STALE = "the shipped kernels are not of these sources: run `make kernels` and commit src/trafficllm/capture/kernels/code"

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="kernels run as plain Python here")


def test_kernels_are_compiled_by_the_short_pipeline() -> None:
    try:
        from trafficllm.capture.kernels.pipeline import Part, Whole
    except (ImportError, AttributeError) as error:
        pytest.fail(REMEDY.format(version=numba.__version__, error=error))
    entry, part = compiling.entry(lambda x: x), compiling.inner(lambda x: x)
    assert entry.dispatcher._compiler.pipeline_class is Whole
    assert part.dispatcher._compiler.pipeline_class is Part
    assert decode_frames.dispatcher._compiler.pipeline_class is Whole


def test_the_shipped_kernels_are_of_these_sources() -> None:
    assert json.loads(shipped.MANIFEST.read_text())["sources"] == shipped.sources(), STALE
    names = {kernel.__name__ for kernel in KERNELS}
    assert len(names) == 10
    assert {name for name in names if shipped.shipped(name) is not None} == names


def test_a_capture_is_read_without_numba(captures: Path, tmp_path: Path) -> None:
    """In a fresh process with an empty cache: the second time the machine code comes from disk."""
    capture = next(captures.rglob("*.pcap"))
    code = """
import sys
from trafficllm.capture.flows.assembly import read_flows
assert sum(map(len, read_flows([sys.argv[1]])))
assert "numba" not in sys.modules
"""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(capture)], check=True, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)})
        (file,) = tmp_path.iterdir()
        before = file.stat()
        assert before.st_mode & 0o077 == 0
        assert blake2b(shipped.CODE.read_bytes(), digest_size=8).hexdigest() in file.name
    assert file.stat().st_mtime_ns == before.st_mtime_ns


@pytest.fixture(name="pairs")
def _pairs() -> list[tuple[Any, tuple[Any, ...]]]:
    rng = np.random.default_rng(0)
    rows = np.zeros(64, dtype=SUMMARY)
    for name in ("orig_hi", "orig_lo", "resp_hi", "resp_lo"):
        rows[name] = rng.integers(-(2**63), 2**63 - 1, 64)
    rows["orig_p"], rows["resp_p"] = rng.integers(0, 65536, 64), rng.integers(0, 65536, 64)
    rows["ip_version"], rows["proto"] = rng.choice([4, 6], 64), rng.choice([1, 6, 17, 58, 132], 64)
    names = (rows, np.zeros(64, np.uint8), np.zeros((PLACES, LANES), np.uint32), np.zeros((64, 31), np.uint8))
    data = b"".join(int(at).to_bytes(4, "little") + bytes(4) + (16).to_bytes(4, "little") * 2 + bytes(16) for at in range(50)) + bytes(7)
    columns = (np.zeros(60, np.int64), np.zeros(60, np.uint32), np.zeros(60, np.uint32), np.zeros(60, np.int64))
    return [(name_flows, names), (walk_records, (np.frombuffer(data, np.uint8), False, 1000, 0, 262144, *columns))]


def test_numba_and_the_shipped_code_agree(pairs: list[tuple[Any, tuple[Any, ...]]]) -> None:
    for kernel, arguments in pairs:
        mine, other = ([one.copy() if isinstance(one, np.ndarray) else one for one in arguments] for _ in range(2))
        assert kernel(*mine) == kernel.dispatcher(*other)
        assert all(np.array_equal(one, two) for one, two in zip(mine, other, strict=True))
        assert any(not np.array_equal(one, two) for one, two in zip(mine, arguments, strict=True))


WRONG: dict[str, tuple[int, Any]] = {
    "another dtype": (5, np.zeros(60, np.int32)),
    "two dimensions": (5, np.zeros((60, 1), np.int64)),
    "not contiguous": (5, np.zeros(120, np.int64)[::2]),
    "not aligned": (5, np.zeros(60 * 8 + 1, np.uint8)[1:].view(np.int64)),
    "a list": (0, [1, 2, 3]),
    "nothing": (0, None),
    "a float": (2, 1000.0),
    "too large a number": (2, 2**63),
    "truth for a number": (2, True),
    "a number for truth": (1, 0),
}


@pytest.mark.parametrize("name", WRONG)
def test_arguments_of_other_types_are_left_to_numba(pairs: list[tuple[Any, tuple[Any, ...]]], name: str) -> None:
    (_, arguments), (place, value) = pairs[1], WRONG[name]
    native = shipped.shipped("walk_records")
    assert isinstance(native, Native)
    assert native.words(arguments) is not None
    changed = [value if k == place else one for k, one in enumerate(arguments)]
    assert native.words(changed) is None
    assert native.words(changed[:-1]) is None


def test_what_is_written_must_be_writable(pairs: list[tuple[Any, tuple[Any, ...]]]) -> None:
    native = shipped.shipped("walk_records")
    assert native is not None
    arguments = list(pairs[1][1])
    arguments[5].flags.writeable = False
    assert native.words(arguments) is None


def test_a_table_of_another_layout_is_left_to_numba() -> None:
    kind = shipped.type_of([{"dtype": shipping_form(PACKET), "ndim": 1, "writable": True}])[0]
    assert kind.fits(np.zeros(3, dtype=PACKET))
    assert not kind.fits(np.zeros(3, dtype=[(name, PACKET.fields[name][0]) for name in reversed(PACKET.names)]))


def shipping_form(dtype: Any) -> Any:
    """As `shipping` writes it."""
    from trafficllm.capture.kernels.shipping import form_of

    return json.loads(json.dumps(form_of(dtype)))


def test_changed_sources_are_compiled_by_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shipped.loaded()
    monkeypatch.setattr(shipped, "sources", lambda: "other")
    assert not shipped.loaded()


def test_an_older_llvm_is_not_given_newer_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    manifest = json.loads(shipped.MANIFEST.read_text()) | {"llvm": [99, 0, 0]}
    (tmp_path / "kernels.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(shipped, "MANIFEST", tmp_path / "kernels.json")
    assert not shipped.loaded()


def test_code_that_is_damaged_or_open_to_others_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert shipped.loaded()
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    assert shipped.read_code(file) == data[16:]
    file.chmod(0o622)
    assert shipped.read_code(file) is None
    file.chmod(0o600)
    for spoilt in (data[:-1], data[:100] + bytes([data[100] ^ 1]) + data[101:], b""):
        file.write_bytes(spoilt)
        assert shipped.read_code(file) is None
    assert shipped.loaded()
    assert file.read_bytes() == data


def test_without_a_place_to_write_it_works_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert len(shipped.loaded()) == 10


@pytest.mark.soak
def test_numba_reads_captures_as_the_shipped_code_does(captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same sources give the same code."""
    command = [sys.executable, "-m", "trafficllm.capture.kernels.shipping", str(tmp_path)]
    subprocess.run(command, check=True)
    assert filecmp.cmp(tmp_path / "kernels.bc", shipped.CODE, shallow=False), STALE
    files = sorted(captures.rglob("*.pcap*"))
    assert len(files) > 200
    mine = list(read_flows(files))
    monkeypatch.setattr(shipped, "enabled", False)
    other = list(read_flows(files))
    assert len(mine) == len(other)
    for one, two in zip(mine, other, strict=True):
        for name in one.__slots__:
            assert np.array_equal(getattr(one, name), getattr(two, name)), name
