"""The original system's published JSON files: one object a line, `{"instruction": ..., "output": ...}`.

Packets as `field: value` pairs with tshark's names, flows as hex frames between `<pck>` marks, HTTP requests as JSON,
direction strings. Labels that end in a full stop or sit in a sentence are normalised, and counted.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trafficllm.capture.facts.flow_facts import facts_of
from trafficllm.capture.flows.decode import decode
from trafficllm.capture.flows.packets import FLOW_PACKET
from trafficllm.core.errors import InputError
from trafficllm.core.files import hash64, slug
from trafficllm.core.types import FlowMeta, FrameBatch, Record
from trafficllm.records.codec.canonical import ICMP_PROTOS, TCP
from trafficllm.records.sources.captures import Gathered
from trafficllm.records.sources.cells import bits
from trafficllm.records.sources.requests import http_record, read_text

_NAME = re.compile(r"(?P<data>.+?)_(?P<kind>detection|generation)_(?P<unit>packet|flow)_(?P<part>train|test|valid)\.json")
_PAIR = re.compile(r"(?:^|, )([a-z0-9_]+(?:\.[a-z0-9_]+)+): ", re.IGNORECASE)
_QUOTED = re.compile(r"""['"]([a-z0-9_]+(?:\.[a-z0-9_]+)+)['"]\s*:\s*['"]?([^'",}]*)""", re.IGNORECASE)
_GENERATE = re.compile(
    r"(?i)\b(?:packets?|flows?|headers?|payloads?|traffic) (?:of|for|from) (?:the )?(.+?)"
    r"(?: (?:traffic|application|class|flow|packet))*[.!]?\s*$"
)
_STOPS = ".\u3002\uff0e\uff61 \t"
"""A label may end in a stop, a full-width one too."""
_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_SENTENCE = re.compile(r"(?i)(?:recogni[sz]ed|classified|identified|labelled) as ([^.]+)|(?:is|as) ([\w-]+)\.?$")


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file as a record, with its normalised label; `changed` when normalising did something; `number`: its line."""

    record: Record
    meta: FlowMeta
    label: str
    changed: bool
    number: int = 0


def is_original(path: Path) -> bool:
    """Whether the file's name is one of the original's data files."""
    return _NAME.fullmatch(path.name) is not None


def part_of(path: Path) -> str:
    """The split part that a file's name says."""
    match = _NAME.fullmatch(path.name)
    return {"train": "train", "test": "test", "valid": "val"}[match["part"]] if match else ""


def labels_beside(path: Path) -> tuple[str, ...]:
    """Labels of `<dataset>_label.json` in the same folder, if it is there."""
    match = _NAME.fullmatch(path.name)
    beside = path.with_name(f"{match['data']}_label.json") if match else path
    if not match or not beside.is_file():
        return ()
    try:
        table = json.loads(beside.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError("input.json", "not a label map", input=str(beside), hint='a label map is {"label": id}') from error
    return tuple(str(label) for label in table) if isinstance(table, dict) else ()


def rows(path: Path, labels: Collection[str] = (), report: Gathered | None = None) -> Iterator[Row]:
    """Every object of a detection or generation file; lines of another form are counted in `report` and left out.

    Raises InputError with the first line at fault where no line can be read.
    """
    names = tuple(labels_beside(path)) or tuple(labels)
    seen = Gathered() if report is None else report
    generation = kind_of(path) == "generation"
    good = 0
    for number, line in enumerate(read_text(path).decode("utf-8", "replace").split("\n"), 1):
        if not line.strip():
            continue
        row = _row(line, number, path, names, generation=generation)
        if row is None:
            seen.malformed.append(f"{path.name} line {number}")
            seen.dropped["malformed line"] += 1
            continue
        good += 1
        if row.changed:
            seen.normalised[row.label] += 1
        yield row
    if not good and seen.malformed:
        hint = 'each line is {"instruction": "...", "output": "..."}'
        where = seen.malformed[0].rsplit(" line ", 1)[1]
        raise InputError("input.json", "no line is of the original's form", input=str(path), where=f"line {where}", hint=hint)


def _row(line: str, number: int, path: Path, names: tuple[str, ...], *, generation: bool) -> Row | None:
    """One line as a record and its label; None where it is no object with the two keys, or holds no traffic or no label."""
    try:
        item = json.loads(line)
        instruction, output = item["instruction"], item["output"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(instruction, str) or not isinstance(output, str) or not output.strip():
        return None
    said = _asked_for(instruction) if generation else output
    label = normal_label(said, names)
    try:
        slug(label)
        record, meta = parse_generated(output) if generation else parse(instruction)
    except (ValueError, OverflowError, InputError):
        return None
    return Row(record, _placed(meta, path, number), label, label != said, number)


def kind_of(path: Path) -> str:
    """ "detection" or "generation", as the file's name says; "" for a name that is none of the original's."""
    match = _NAME.fullmatch(path.name)
    return match["kind"] if match else ""


def _asked_for(instruction: str) -> str:
    """The label in "Please generate a packet of Neris traffic."; "" where the sentence names none."""
    match = _GENERATE.search(instruction)
    return match[1].strip() if match else ""


def parse_generated(output: str) -> tuple[Record, FlowMeta]:
    """The packet or flow in the answer of a generation row: `field: value` pairs, a dict of them, or payload hex.

    >>> parse_generated("{'ip.ttl': '64', 'ip.proto': '17', 'udp.length': '12'}")[0].sizes
    (4,)
    """
    text = output.strip()
    if "<pck>" in text:
        return parse(f"<flow>: {text}")
    pairs = {m[1]: m[2].strip() for m in _QUOTED.finditer(text)} or dict(_pairs(text.strip("{}")))
    if pairs:
        return _packet(pairs)
    payload = _octets(text)
    if not payload or re.search(r"[^0-9a-fA-Fx:,\s]", text):
        raise ValueError("neither fields nor hex")
    return Record(kind="packet", dirs=(0,), sizes=(len(payload),), iats=(0,), payload=(payload, b"")), FlowMeta()


def normal_label(output: str, labels: Collection[str] = ()) -> str:
    """A label without its full stop or its sentence.

    >>> normal_label("The traffic category is likely to be recognized as benign.")
    'benign'
    """
    text = output.strip().rstrip(_STOPS).strip()
    by_case = {name.lower(): name for name in labels}
    if text.lower() in by_case:
        return by_case[text.lower()]
    if " " not in text:
        return text
    named = [by_case[word.lower().rstrip(_STOPS)] for word in _WORD.findall(text) if word.lower().rstrip(_STOPS) in by_case]
    if len(set(named)) == 1:
        return named[0]
    match = _SENTENCE.search(text)
    return next(g for g in match.groups() if g).strip() if match else text


def parse(instruction: str) -> tuple[Record, FlowMeta]:
    """The record in an instruction, and the addresses and times it carried."""
    _, mark, rest = instruction.rpartition("<flow>:")
    if mark:
        frames = [bytes.fromhex(h[: len(h) // 2 * 2]) for h in re.findall(r"(?:<pck>)([0-9a-fA-F]+)", rest)]
        return record_of_frames(frames) if frames else (bits(rest), FlowMeta())
    _, mark, rest = instruction.rpartition("<packet>:")
    body = rest if mark else instruction
    if _PAIR.search(body):
        return _packet(dict(_pairs(body.strip())))
    start = body.find("{")
    if start >= 0:
        return http_record(_request(body[start:])), FlowMeta()
    tail = body.strip().rsplit(None, 1)[-1] if body.strip() else ""
    return (bits(tail), FlowMeta()) if tail and set(tail) <= {"0", "1"} else (http_record(body.strip()), FlowMeta())


def packet_fields(text: str) -> dict[str, str]:
    """The `field: value` pairs of a pasted packet, tshark's names; empty where there are none.

    >>> packet_fields("what is this? <packet>: ip.ttl: 64, tcp.dstport: 443")
    {'ip.ttl': '64', 'tcp.dstport': '443'}
    """
    _, mark, rest = text.rpartition("<packet>:")
    return dict(_pairs(rest.strip())) if mark and _PAIR.search(rest.strip()) else {}


def _request(text: str) -> str:
    try:
        item = {str(k).lower(): str(v) for k, v in json.loads(text).items()}
    except (json.JSONDecodeError, AttributeError):
        return text
    head = f"{item.get('method', 'GET')} {item.get('url', '/')} HTTP/1.1"
    return f"{head}\n\n{item['body']}" if item.get("body") else head


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    marks = list(_PAIR.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=False):
        yield mark.group(1), text[mark.end() : following.start() if following else len(text)].strip()


def _packet(pairs: Mapping[str, str]) -> tuple[Record, FlowMeta]:
    six = any(name.startswith("ipv6.") for name in pairs)
    proto = _number(pairs, "ip.proto", "ipv6.nxt", default=6 if _has(pairs, "tcp.") else 17 if _has(pairs, "udp.") else 0)
    layer = {6: "tcp", 17: "udp"}.get(proto, "")
    payload = _octets(pairs.get(f"{layer}.payload") or pairs.get("data.data") or pairs.get("tls.app_data") or "")
    size = _number(pairs, "tcp.len", default=len(payload)) if proto == 6 else max(_number(pairs, "udp.length", default=8) - 8, len(payload))
    ports = (_number(pairs, f"{layer}.srcport"), _number(pairs, f"{layer}.dstport")) if layer else None
    record = Record(
        kind="packet",
        ip_version=6 if six else 4,
        proto=proto,
        ports=ports,
        dirs=(0,),
        sizes=(max(size, 0),),
        iats=(0,),
        flags=(_number(pairs, "tcp.flags", default=-1) & 0xFF if proto == 6 and "tcp.flags" in pairs else -1,),
        windows=(_number(pairs, "tcp.window_size_value", "tcp.window_size", default=-1) if proto == 6 else -1,),
        ttls=(_number(pairs, "ip.ttl", "ipv6.hlim", default=-1),),
        icmp=_number(pairs, "icmp.type", default=0) << 8 | _number(pairs, "icmp.code", default=0) if proto == 1 else -1,
        payload=(payload, b""),
    )
    ends = [pairs.get("ip.src") or pairs.get("ipv6.src", ""), pairs.get("ip.dst") or pairs.get("ipv6.dst", "")]
    stream = pairs.get(f"{layer}.stream", "") if layer else ""
    flow = "|".join(sorted(f"{a} {p}" for a, p in zip(ends, ports or (0, 0), strict=True)))
    meta = FlowMeta(
        host=ends[0],
        orig_h=ends[0],
        resp_h=ends[1],
        orig_p=ports[0] if ports else 0,
        resp_p=ports[1] if ports else 0,
        proto=proto,
        packets=1,
        ts=int(_real(pairs.get("frame.time_epoch", "0")) * 1e9),
        community_id=f"{proto} {flow} {stream}",
    )
    return record, meta


def _has(pairs: Mapping[str, str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in pairs)


def _number(pairs: Mapping[str, str], *names: str, default: int = 0) -> int:
    for name in names:
        if pairs.get(name):
            try:
                return int(pairs[name].split(",")[0], 0)
            except ValueError:
                continue
    return default


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _octets(text: str) -> bytes:
    digits = re.sub(r"[^0-9a-fA-F]", "", text)
    return bytes.fromhex(digits[: len(digits) // 2 * 2])


def _placed(meta: FlowMeta, path: Path, number: int) -> FlowMeta:
    """Rows without addresses are groups of their own; the file is the capture as far as anyone can know."""
    flow = meta.community_id or f"{path.name} {number}"
    return replace(meta, uid=f"C{hash64(f'{path.name} {number}'.encode()):016x}", capture=path.name, origin="", community_id=flow)


ETHERNET, RAW = 1, 101
_LIMIT = 512


def frame_batch(frames: Sequence[bytes]) -> FrameBatch:
    """Frames as a FrameBatch: Ethernet where an EtherType of IP stands at byte 12, raw IP else; all times 0."""
    sizes = [len(frame) for frame in frames]
    n = len(frames)
    return FrameBatch(
        buffer=np.frombuffer(b"".join(frames), dtype=np.uint8),
        offset=np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64),
        caplen=np.array(sizes, dtype=np.uint32),
        origlen=np.array(sizes, dtype=np.uint32),
        ts=np.zeros(n, dtype=np.int64),
        link=np.array([_link(frame) for frame in frames], dtype=np.uint16),
        source=np.zeros(n, dtype=np.uint32),
        number=np.arange(1, n + 1, dtype=np.int64),
        files=("",),
    )


def _link(frame: bytes) -> int:
    return ETHERNET if frame[12:14] in {b"\x08\x00", b"\x86\xdd", b"\x81\x00"} or frame[:1][0] >> 4 not in (4, 6) else RAW


def record_of_frames(frames: Sequence[bytes]) -> tuple[Record, FlowMeta]:
    """The packets of one flow as a record; sizes by the headers, though frames may be cut; gaps unknown.

    The first packet's sender is the originator. Frames without IP are left out; none at all gives an empty record.
    """
    nonempty = [frame for frame in frames if frame]
    if not nonempty:
        return Record(), FlowMeta()
    packets = decode(frame_batch(nonempty), tunnels=True)
    use = [i for i in range(len(nonempty)) if packets["usable"][i] == FLOW_PACKET]
    if not use:
        return Record(), FlowMeta()
    first = use[0]
    source, target = (packets.address(which) for which in ("src", "dst"))
    sport, dport = packets["sport"].tolist(), packets["dport"].tolist()
    start = (source[first].tobytes(), sport[first])
    dirs = tuple(int((source[i].tobytes(), sport[i]) != start) for i in use)
    payload = [b"", b""]
    for i, d in zip(use, dirs, strict=True):
        at = int(packets["payload"][i])
        if at >= 0:
            payload[d] += nonempty[i][at : at + int(packets["payload_cap"][i])]
    proto, version = int(packets["proto"][first]), int(packets["ip_version"][first])
    both = (payload[0][:_LIMIT], payload[1][:_LIMIT])
    ports = (sport[first], dport[first])
    icmp = proto in ICMP_PROTOS
    tcp = proto == TCP
    record = Record(
        kind="flow",
        ip_version=version,
        proto=proto,
        ports=None if icmp else ports,
        dirs=dirs,
        sizes=tuple(int(packets["payload_len"][i]) for i in use),
        iats=(0, *[-1] * (len(use) - 1)),
        flags=tuple(int(packets["flags"][i]) & 0xFF if tcp else -1 for i in use),
        windows=tuple(int(packets["window"][i]) if tcp else -1 for i in use),
        ttls=tuple(int(packets["ttl"][i]) for i in use),
        icmp=int(packets["icmp"][first]) if icmp else -1,
        payload=both,
        facts=facts_of(proto, *ports, *both),
    )
    orig, resp = (_text(version, rows[first].tobytes()) for rows in (source, target))
    ends = sorted((f"{orig} {ports[0]}", f"{resp} {ports[1]}"))
    meta = FlowMeta(
        host=orig,
        orig_h=orig,
        orig_p=ports[0],
        resp_h=resp,
        resp_p=ports[1],
        proto=proto,
        packets=len(use),
        community_id=f"{proto} {ends[0]} {ends[1]}",
    )
    return record, meta


def _text(version: int, raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET, raw[:4]) if version == 4 else socket.inet_ntop(socket.AF_INET6, raw)
