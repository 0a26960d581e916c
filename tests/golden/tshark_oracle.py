"""tshark as an oracle: the same header fields of the same packets, side by side, each difference with its place.

A difference counts as explained when `tshark_differences.toml` beside this file has a row for its file, field and frame; the row says why.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from trafficllm.capture.fields.table import FIELDS, FRAME_FIELDS, packet_rows
from trafficllm.core.errors import TrafficLLMError

HERE = Path(__file__).resolve().parent
NAMES = (*FRAME_FIELDS, *FIELDS)
TSHARK = shutil.which("tshark")
_CAPTURES = (".pcap", ".pcapng", ".pcap.gz", ".pcapng.gz")


class Difference(NamedTuple):
    """One field of one frame, as tshark and as this reader show it; `frame` 0 is about the whole file."""

    file: str
    frame: int
    field: str
    theirs: str
    ours: str


def tshark_rows(path: Path, names: Sequence[str] = NAMES) -> Iterator[list[str]]:
    """Fields of every packet as `tshark -T fields` prints them, one list a packet; nothing for a file it cannot open.

    pcapng blocks that are no packets are records to tshark, without an encapsulation type: they are left out.
    """
    with path.open("rb") as stream:
        blocks = stream.read(4) == b"\x0a\x0d\x0d\x0a"
    arguments = [argument for name in (*names, "frame.encap_type") for argument in ("-e", name)]
    done = subprocess.run([str(TSHARK), "-n", "-r", str(path), "-T", "fields", *arguments], capture_output=True, check=False, timeout=600)
    for line in done.stdout.decode("utf-8", "replace").split("\n")[:-1]:
        *row, encapsulation = line.split("\t")
        if encapsulation or not blocks:
            yield row


def _ours(path: Path) -> Iterator[tuple[str, ...]]:
    try:
        yield from packet_rows([path], NAMES)
    except TrafficLLMError:
        return


def compare(path: Path, name: str) -> tuple[int, list[Difference]]:
    """(fields that either side shows, those that differ) over all packets of a capture; `name` stands in the differences."""
    compared, found = 0, []
    for frame, (theirs, ours) in enumerate(zip_longest(tshark_rows(path), _ours(path)), 1):
        if theirs is None or ours is None:
            found.append(Difference(name, 0, "rows", "-" if theirs is None else str(frame), "-" if ours is None else str(frame)))
            return compared, found
        for field, one, two in zip(NAMES, theirs, ours, strict=True):
            compared += bool(one or two)
            if one != two:
                found.append(Difference(name, frame, field, one, two))
    return compared, found


def explained() -> dict[str, list[tuple[frozenset[str], list[tuple[int, int]]]]]:
    """The committed list: file -> (fields, spans of frames)."""
    out: dict[str, list[tuple[frozenset[str], list[tuple[int, int]]]]] = {}
    for row in tomllib.loads((HERE / "tshark_differences.toml").read_text())["difference"]:
        spans = [(int(low), int(high or low)) for low, _, high in (part.partition("-") for part in row["frames"].split())]
        assert row["why"].strip()
        out.setdefault(row["file"], []).append((frozenset(row["fields"]), spans))
    return out


def unexplained(found: Sequence[Difference]) -> list[Difference]:
    """Differences that the committed list does not name."""
    known = explained()

    def listed(one: Difference) -> bool:
        rows = known.get(one.file, [])
        return any(one.field in fields and any(low <= one.frame <= high for low, high in spans) for fields, spans in rows)

    return [one for one in found if not listed(one)]


def capture_files(folder: Path) -> list[Path]:
    """Every capture below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name.endswith(_CAPTURES))


def sampled(files: Sequence[Path], root: Path, share: float) -> list[Path]:
    """About this share of the files, by a hash of each name: a file that is added changes nothing for the others."""
    return [path for path in files if _drawn(path.relative_to(root).as_posix()) < share]


def _drawn(name: str) -> float:
    """A number in [0, 1) that the name alone decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
