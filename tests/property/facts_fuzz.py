"""Coverage-guided fuzzing of the decoders that read what a client says first, with atheris (a tool beside, not a dependency).

    python tests/property/facts_fuzz.py quic 60        # seconds; targets: quic, initial, hpack, dtls, facts, wlan
    python tests/property/facts_fuzz.py quic 60 --keep # and keep what reached new code, one hex line an input, in tests/property/corpus

A target takes bytes and must never raise. The corpus is played back by test_capture_facts_fuzz.py, where atheris is not needed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
sys.path.insert(0, str(HERE.parent / "unit"))

if __name__ == "__main__" and "wlan" in sys.argv:
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # kernels as Python: their branches are seen, and a read outside the frame raises

import numpy as np  # noqa: E402 - numba must not be loaded before
from hello_samples import initial  # noqa: E402 - a module of the tests

from trafficllm.capture.facts.dtls import dtls_fields  # noqa: E402
from trafficllm.capture.facts.flow_facts import facts_of  # noqa: E402
from trafficllm.capture.facts.http2 import PREFACE, http2_facts  # noqa: E402
from trafficllm.capture.facts.quic import quic_fields  # noqa: E402
from trafficllm.capture.flows.decode import decode, trace  # noqa: E402
from trafficllm.core.types import FrameBatch  # noqa: E402

_LONGEST, _KEPT_LINE, _MOST, _PREFIX = 1100, 400, 64, 512


def fuzz_quic(data: bytes) -> None:
    """Datagrams as they come from the wire: headers, tokens, lengths."""
    quic_fields([data[:1500], data[1500:]])


def fuzz_initial(data: bytes) -> None:
    """Frames of Initial packets that open, two of them where there is enough: CRYPTO frames, the hello, transport parameters."""
    half = len(data) // 2
    quic_fields([initial(data[:_LONGEST])])
    quic_fields([initial(data[half:][:_LONGEST]), initial(data[:half][:_LONGEST], packet=1)])


def fuzz_hpack(data: bytes) -> None:
    """HTTP/2 frames and header blocks of both directions."""
    http2_facts(PREFACE + data, data)
    http2_facts(PREFACE + len(data).to_bytes(3, "big") + b"\x01\x04\x00\x00\x00\x01" + data, b"")


def fuzz_dtls(data: bytes) -> None:
    """DTLS records and fragments."""
    dtls_fields([data[:300], data[300:]])


def fuzz_facts(data: bytes) -> None:
    """All parsers: the first bytes choose transport, port and where the input is cut into both directions and what lies beyond."""
    if len(data) < 4:
        return
    port = (22, 25, 53, 80, 88, 102, 389, 443, 500, 502, 1080, 1194, 1883, 3306, 5060, 5432)[data[0] & 15]
    cut = len(data) * data[1] // 256
    orig, resp = data[4 : 4 + cut], data[4 + cut :]
    facts = facts_of(17 if data[0] & 16 else 6, 40000, port, orig[:_PREFIX], resp[:_PREFIX], beyond=(orig[_PREFIX:], resp[_PREFIX:]))
    sizes = (min(len(orig), _PREFIX), min(len(resp), _PREFIX))
    assert all(0 <= span.start <= span.end <= sizes[span.dir] for span in facts.spans)


def fuzz_wlan(data: bytes) -> None:
    """802.11 frames, bare or behind Radiotap, Prism and AVS: the first byte says which. What is found lies within the frame."""
    if len(data) < 2:
        return
    size, one = len(data) - 1, np.ones(1, dtype=np.int64)
    frames = FrameBatch(
        buffer=np.frombuffer(data[1:], dtype=np.uint8).copy(),
        offset=0 * one,
        caplen=(size * one).astype(np.uint32),
        origlen=(size * one).astype(np.uint32),
        ts=one,
        link=np.array([(105, 127, 119, 163)[data[0] & 3]], dtype=np.uint16),
        source=np.zeros(1, dtype=np.uint32),
        number=one,
        files=("fuzz",),
    )
    for packets in (decode(frames, checksums=True), decode(frames, tunnels=True), trace(frames)[0]):
        row = packets.rows[0]
        assert all(-1 <= row[name] <= size for name in ("l3", "l4", "payload"))
        assert row["payload"] < 0 or row["payload"] + row["payload_cap"] <= size


TARGETS: dict[str, Callable[[bytes], None]] = {
    "quic": fuzz_quic,
    "initial": fuzz_initial,
    "hpack": fuzz_hpack,
    "dtls": fuzz_dtls,
    "facts": fuzz_facts,
    "wlan": fuzz_wlan,
}


def corpus(target: str) -> list[bytes]:
    """Inputs kept of a target."""
    return [bytes.fromhex(line) for line in (CORPUS / f"{target}.txt").read_text().split()]


def _keep(target: str, folder: Path) -> None:
    """The corpus, and as many inputs that reached new code as fit, the shortest first."""
    before = corpus(target)
    fresh = sorted({path.read_bytes() for path in folder.iterdir()} - set(before), key=lambda data: (len(data), data))
    inputs = [*before, *(data for data in fresh if 0 < len(data) <= _KEPT_LINE)]
    (CORPUS / f"{target}.txt").write_text("\n".join(data.hex() for data in inputs[:_MOST]) + "\n")


def main() -> None:
    """Fuzz one target for some seconds."""
    import atheris

    target, seconds = sys.argv[1], int(sys.argv[2])
    run = TARGETS[target]
    atheris.instrument_all()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, data in enumerate(corpus(target)):
            (folder / str(number)).write_bytes(data)
        if os.fork() == 0:
            atheris.Setup([sys.argv[0], name, f"-max_total_time={seconds}", "-max_len=2000", "-seed=1", "-print_final_stats=1"], run)
            atheris.Fuzz()
        _, status = os.wait()
        if "--keep" in sys.argv[3:] and status == 0:
            _keep(target, folder)
    sys.exit(status != 0)


if __name__ == "__main__":
    main()
