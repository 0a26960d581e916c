"""Background: everyday captures of other sources, which a detection adapter learns beside its labels.

A capture's source is the repository or laboratory it comes from. Background flows are negatives of the umbrella question and examples of
what the task does not name; they are never a label of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.errors import InputError
from trafficllm.core.files import hash64, json_text, sha256_bytes, sha256_file
from trafficllm.core.sampling import evenly_spaced, fair_shares
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import FlowMeta, ProgressSink, Record, Silent
from trafficllm.records.codec.codec import encode
from trafficllm.records.codec.flows import records_in
from trafficllm.records.dataset.duplicates import sequence_hash
from trafficllm.records.dataset.reserved import Reserved
from trafficllm.records.sources.folders import LabelledDir, csv_rows, scan_unlabelled
from trafficllm.records.sources.origins import Origins, source_name

if TYPE_CHECKING:
    import pyarrow as pa

    from trafficllm.records.dataset.dataset import Dataset

_REMEDY = "give captures of other sources, or --no-background to learn without any"
_MEANING = "without background no threshold can be chosen on other sources: expect many harmless flows of other networks to be flagged"


@dataclass(frozen=True, slots=True)
class BackgroundFile:
    """One capture of the background: `name` is its folder's name and its path in it, `flows` how many of its flows are kept."""

    name: str
    source: str
    sha256: str
    flows: int


@dataclass(frozen=True, slots=True)
class Background:
    """Raw records of background flows, with where each came from and its source; `files` are the captures they were read from.

    `meta[i].capture` is the name of a file in `files`. `reserved` counts captures that were left out because they are kept for scoring.
    `positive` are flows of the umbrella's positive side from other sources, beside the negatives that all others are: malware of families
    that the task does not name, say.
    """

    raw: Sequence[Record]
    meta: Sequence[FlowMeta]
    sources: Sequence[str]
    files: Sequence[BackgroundFile] = ()
    reserved: int = 0
    positive: Background | None = None

    def __len__(self) -> int:
        return len(self.raw)

    def as_dict(self) -> dict[str, Any]:
        """A manifest's `background`: flows of each source, captures, flows, and one hash over the captures and how much of each is kept."""
        facts = sorted((file.source, file.sha256, file.flows) for file in self.files)
        own: dict[str, Any] = {
            "sources": dict(sorted(Counter(self.sources).items())),
            "captures": len(self.files),
            "flows": len(self),
            "sha256": sha256_bytes(json_text(facts).encode()),
        }
        return own | ({"positive": self.positive.as_dict()} if self.positive else {})

    def plus(self, other: Background) -> Background:
        """Both backgrounds; of a source that both have, all flows."""
        columns = (self.raw, other.raw), (self.meta, other.meta), (self.sources, other.sources), (self.files, other.files)
        raw, meta, sources, files = ((*mine, *others) for mine, others in columns)
        positive = self.positive.plus(other.positive) if self.positive and other.positive else self.positive or other.positive
        return Background(raw, meta, sources, files, self.reserved + other.reserved, positive)

    def where(self, wanted: Callable[[BackgroundFile], bool]) -> Background:
        """The part of the background whose captures are wanted: without one source, say."""
        files = [file for file in self.files if wanted(file)]
        names = {file.name for file in files}
        return replace(self.rows([k for k, meta in enumerate(self.meta) if meta.capture in names]), files=files)

    def rows(self, places: Sequence[int]) -> Background:
        """The flows at these places, of the same files."""
        raw, meta = [self.raw[k] for k in places], [self.meta[k] for k in places]
        return replace(self, raw=raw, meta=meta, sources=[self.sources[k] for k in places])


NO_BACKGROUND = Background((), (), ())


def packaged(name: str = "background") -> Path:
    """The folder of captures that the package brings as background, or as flows of a positive side (a task's `others`)."""
    return Path(str(resources.files("trafficllm").joinpath("data", name)))


def read_background(
    folders: Sequence[Path],
    *,
    options: FlowOptions | None = None,
    per_source: int = 400,
    per_capture: int = 60,
    progress: ProgressSink | None = None,
) -> Background:
    """The flows of all captures below these folders, housekeeping included; `options` cut flows as the data set's are.

    At most `per_capture` flows of a capture and `per_source` of a source, at even distances; a source's captures give alike. Captures kept
    for scoring are left out: those that a list in or above the folder names, and the reserved captures of the package. Equal captures count
    once. InputError names a folder that holds no flow to learn from.
    """
    sink, how = progress or Silent(), options or FlowOptions()
    read: dict[str, _Capture] = {}
    reserved = 0
    for number, folder in enumerate(folders):
        sink.update("background", number, len(folders))
        captures, held = _captures(Path(folder), how, per_capture, read)
        reserved += held
        if not any(capture.rows for capture in captures):
            why = f"all {held} captures here are kept for scoring" if held and not captures else "no flows in this background"
            raise InputError("input.background", f"{why}; {_MEANING}", input=str(folder), hint=_REMEDY)
    sink.update("background", len(folders), len(folders))
    capped = list(_capped([capture for capture in read.values() if capture.rows], per_source))
    rows = [(record, meta, capture.file.source) for capture in capped for record, meta in capture.rows]
    return Background(
        tuple(record for record, _, _ in rows),
        tuple(meta for _, meta, _ in rows),
        tuple(source for _, _, source in rows),
        tuple(capture.file for capture in capped),
        reserved,
    )


def require_captures(folder: Path) -> LabelledDir:
    """The captures below a folder of background. InputError where it is missing, or where there are none."""
    try:
        return scan_unlabelled(folder)
    except InputError as error:
        if error.code != "input.no_captures":
            raise
        raise InputError("input.background", f"no captures in this background; {_MEANING}", input=str(folder), hint=_REMEDY) from error


@dataclass(frozen=True, slots=True)
class _Capture:
    """A capture and the flows of it that are kept."""

    file: BackgroundFile
    rows: Sequence[tuple[Record, FlowMeta]]


def _captures(folder: Path, options: FlowOptions, most: int, read: dict[str, _Capture]) -> tuple[list[_Capture], int]:
    """The captures below a folder, put into `read` by hash, and how many are reserved."""
    scanned = require_captures(folder)
    source_of, is_reserved = _sources(scanned.root), _reserved(scanned.root)
    out, held = [], 0
    for file in scanned.files:
        digest = sha256_file(file.path)
        if is_reserved(file.path, digest):
            held += 1
            continue
        if digest not in read:
            name = f"{scanned.root.resolve().name}/{file.rel}"
            if any(capture.file.name == name for capture in read.values()):  # folders of equal names
                name += f" ({digest[:8]})"
            source = source_of(file.rel)
            rows = _thinned(file.path, options, most, capture=name, origin=f"{source}/{file.rel}")
            read[digest] = _Capture(BackgroundFile(name, source, digest, len(rows)), rows)
        out.append(read[digest])
    return out, held


def _thinned(path: Path, options: FlowOptions, most: int, *, capture: str, origin: str) -> list[tuple[Record, FlowMeta]]:
    """At most `most` flows of a capture at even distances.

    Read in one pass: every `step`-th flow is kept, and `step` doubles whenever twice as many are there as wanted, so that a capture of
    any length takes the memory of `2 * most` flows.
    """
    rows: list[tuple[Record, FlowMeta]] = []
    step, before, number = 1, 0, 0
    for batch in read_flows([path], options=options):
        while number < before + len(batch):
            at = number - before
            rows += records_in(batch, at, at + 1, capture=capture, origin=origin)
            if len(rows) > 2 * most:
                rows, step = rows[::2], 2 * step
            number = len(rows) * step
        before += len(batch)
    return evenly_spaced(rows, most)


def _capped(captures: Sequence[_Capture], per_source: int) -> Iterator[_Capture]:
    """The captures with at most `per_source` flows of each source, in their order."""
    by_source: dict[str, list[int]] = {}
    for k, capture in enumerate(captures):
        by_source.setdefault(capture.file.source, []).append(k)
    shares: dict[int, int] = {}
    for places in by_source.values():
        shares.update(zip(places, fair_shares([len(captures[k].rows) for k in places], per_source), strict=True))
    for k, capture in enumerate(captures):
        if shares[k]:
            rows = evenly_spaced(capture.rows, shares[k])
            yield _Capture(replace(capture.file, flows=len(rows)), rows)


def _sources(root: Path) -> Callable[[str], str]:
    """The source of a capture by its path in the folder: what a manifest in or above the folder says, else the first folder below it, else
    the folder's own name."""
    origins, own = Origins.find(root), root.resolve().name
    return lambda rel: source_name(origins.origin_of(rel)) or (rel.split("/")[0] if "/" in rel else own)


def _reserved(root: Path) -> Callable[[Path, str], bool]:
    """Whether a capture, by its path and hash, is kept for scoring: in whole or in part, by a list or as one of the package's."""
    base = root.resolve()
    lists = [reserved for reserved in (Reserved.find(base), Reserved.find(base.parent)) if reserved is not None]
    own = _packaged_reserved()
    return lambda path, digest: digest in own or any(reserved.share(str(path.absolute())) > 0 for reserved in lists)


@lru_cache(maxsize=1)
def _packaged_reserved() -> frozenset[str]:
    """Hashes of the package's captures that are kept for scoring."""
    root = Path(str(resources.files("trafficllm").joinpath("data", "captures")))
    return frozenset(sha256_file(root / row["file"]) for row in csv_rows(root / "reserved.csv"))


@dataclass(frozen=True, slots=True)
class Shared:
    """A capture of the background that a data set holds too: `labelled` is the data set's name for it, `share` how many of its flows."""

    name: str
    labelled: str
    share: float


COMPARED = 8
"""First packets by which two flows are compared: captures are often cut to the first twenty or fewer of each flow."""
_WIRE = ("proto", "ports", "dirs", "sizes", "iats")


def shared_captures(background: Background, dataset: Dataset, labelled: Sequence[Path] = ()) -> list[Shared]:
    """The captures of a background that a data set holds too, equal in every byte or with more than half of their flows.

    Two flows are the same where their addresses, ports and start are, or where ports, directions, sizes and gaps of their first packets
    are (two packets at least). Flows that only look like one of the data set's count for neither side: a build keeps one of equal
    contents. `labelled` are captures that go with the data set without being in it.
    """
    files = {str(row["sha256"]): str(row["file"]) for row in dataset.manifest.get("files", ())}
    files |= {sha256_file(path): str(path) for path in labelled}
    out = [Shared(file.name, files[file.sha256], 1.0) for file in background.files if file.sha256 in files]
    rest = background.where(lambda file: file.sha256 not in files)
    same, absent = _compared(rest, dataset)
    for file in rest.files:
        hits = Counter(same.get(file.name, ()))
        if hits.total() > absent[file.name]:
            share = hits.total() / (hits.total() + absent[file.name])
            out.append(Shared(file.name, hits.most_common(1)[0][0], round(share, 3)))
    return out


def refuse_shared(background: Background, dataset: Dataset, labelled: Sequence[Path] = ()) -> None:
    """InputError where captures of the background are labelled in the data set too: one flow cannot teach a label and its absence."""
    shared = shared_captures(background, dataset, labelled)
    if shared:
        pairs = "; ".join(f"{row.name} is {row.labelled} ({row.share:.0%} of its flows)" for row in shared[:5])
        more = f"; and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise InputError(
            "input.background",
            f"{len(shared)} captures of the background are labelled ones too: {pairs}{more}",
            input=shared[0].name,
            hint="take these captures out of the background, or out of their label's folder",
        )


def _compared(background: Background, dataset: Dataset) -> tuple[dict[str, list[str]], Counter[str]]:
    """By background capture: the data set's names for the flows that both hold, and how many flows the data set holds nothing like.

    A data set of masked records alone (an update's) tells flows of six packets or more, by their content, and names its label.
    """
    table = dataset.table
    raw = "iats" in table.column_names
    name_of: dict[Hashable, str] = {}
    names = table["capture" if raw else "label"].to_pylist()
    for keys in (table["uid"].to_pylist(), _wires(table)) if raw else (table["content"].to_pylist(),):
        name_of.update((key, name) for key, name in zip(keys, names, strict=True) if key)
    contents = set(table["content"].to_pylist())
    same: dict[str, list[str]] = {}
    absent: Counter[str] = Counter()
    for record, meta in zip(background.raw, background.meta, strict=True):
        masked = dataset.mask(record)
        content = hash64(encode(masked, dataset.codec).encode())
        keys = (meta.uid, wire_hash(record))
        if not raw:
            keys = (content if sequence_hash(masked) is not None else None,)
        name = next((name_of[key] for key in keys if key in name_of), None)
        if name is not None:
            same.setdefault(meta.capture, []).append(name)
        elif content not in contents:
            absent[meta.capture] += 1
    return same, absent


def wire_hash(record: Record) -> int | None:
    """Hash of a raw flow's ports, and of directions, sizes and gaps of its first packets; None for fewer than two or without payload."""
    return _wire(record.proto, record.ports, record.dirs, record.sizes, record.iats)


def _wires(table: pa.Table) -> Iterator[int | None]:
    return (_wire(*row) for row in zip(*(table[name].to_pylist() for name in _WIRE), strict=True))


def _wire(proto: int, ports: Sequence[int] | None, dirs: Sequence[int], sizes: Sequence[int], iats: Sequence[int]) -> int | None:
    if len(dirs) < 2 or not any(sizes[:COMPARED]):
        return None
    head = [list(column[:COMPARED]) for column in (dirs, sizes, iats)]
    return hash64(repr((proto, list(ports or ()), head)).encode())
