"""Tokens per flow: the same record for a plain tokenizer, for the extended one, and in the original system's text form.

The plain form is what a tokenizer without traffic tokens would be given: the codec's own readable text with spaced hex bytes
("flow tcp ip4 e w | > S 0 | < SA 0 26ms | payload orig 16 03 01"). Handing it the unit characters instead costs about four
tokens a unit by byte fallback; that is printed as its own column and never used for the ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trafficllm.core.files import hash64
from trafficllm.core.types import Record
from trafficllm.model.results import Tokens
from trafficllm.model.tokenizer.extend import record_text, traffic_ids
from trafficllm.model.tokenizer.learn import Matcher
from trafficllm.records.codec.codec import encode, pretty

ORIGINAL_FRAMES = 10
ORIGINAL_HEX = 256
"""The original's flow prompt: the first ten frames, each cut at 256 hex digits."""


def plain_text(record: Record) -> str:
    """The record as readable text: all it says, in the letters that a plain tokenizer knows."""
    return pretty(encode(record))


def original_text(record: Record) -> str:
    """The flow in the original system's form: "<pck>" and the frame's hex, ten frames, 256 digits each.

    Frames are rebuilt from the record with documentation addresses and stand-in checksums; payload that the record does not hold is
    left out, so the count is a lower bound. An HTTP record is its text.
    """
    if record.kind == "http":
        return record.text
    left = [record.payload[0], record.payload[1]]
    frames = []
    for place, direction in enumerate(record.dirs[:ORIGINAL_FRAMES]):
        size = record.sizes[place] if place < len(record.sizes) else 0
        data, left[direction] = left[direction][: max(size, 0)], left[direction][max(size, 0) :]
        frames.append("<pck>" + (_headers(record, place, max(size, 0)) + data).hex()[:ORIGINAL_HEX])
    return "".join(frames)


def _headers(record: Record, place: int, size: int) -> bytes:
    """Ethernet, IPv4 and transport headers of one packet, RFC 791 and 9293 layouts."""
    mix = hash64(f"{record.proto} {record.dirs} {record.sizes} {place}".encode()).to_bytes(8, "big")
    ends = (b"\xc0\x00\x02\x0a", b"\xc6\x33\x64\x14")
    macs = (b"\x00\x00\x5e\x00\x53\x01", b"\x00\x00\x5e\x00\x53\x02")
    ports = (b"\xc3\x50", b"\x01\xbb")
    d = record.dirs[place] & 1
    flags = record.flags[place] if place < len(record.flags) and record.flags[place] >= 0 else 0x10
    transport = ports[d] + ports[1 - d]
    if record.proto == 6:
        transport += mix[:4] + mix[4:] + bytes([0x50, flags & 0xFF]) + b"\xff\xff" + mix[2:4] + b"\x00\x00"
    else:
        transport += (size + 8).to_bytes(2, "big") + mix[:2]
    length = (20 + len(transport) + size) & 0xFFFF
    ip = b"\x45\x00" + length.to_bytes(2, "big") + mix[6:8] + b"\x40\x00\x40" + bytes([max(record.proto, 0) & 0xFF])
    return macs[1 - d] + macs[d] + b"\x08\x00" + ip + mix[4:6] + ends[d] + ends[1 - d] + transport


def _mean_tokens(tokenizer: Any, texts: Sequence[str]) -> float:
    rows = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return sum(len(ids) for ids in rows) / max(len(texts), 1)


def compare(plain: Any, extended: Any, records: Sequence[Record]) -> Tokens:
    """Count tokens of `records` under a plain tokenizer and its extension (both transformers tokenizers)."""
    units = [encode(record) for record in records]
    ids = extended(list(units), add_special_tokens=False, return_attention_mask=False)["input_ids"] if units else []
    mean = sum(len(row) for row in ids) / max(len(units), 1)
    readable = _mean_tokens(plain, [plain_text(record) for record in records])
    original = [original_text(record) for record in records]
    return Tokens(
        flows=len(records),
        plain=round(readable, 2),
        extended=round(mean, 2),
        ratio=round(readable / mean, 2) if mean else 0.0,
        byte_fallback=round(_mean_tokens(plain, units), 2),
        original_form=round(_mean_tokens(plain, original), 2),
        original_form_extended=round(_mean_tokens(extended, original), 2),
        exact=all(record_text(extended, row) == text for row, text in zip(ids, units, strict=True)),
        vocabulary=len(extended),
    )


def segmentation_agrees(extended: Any, records: Sequence[Record]) -> bool:
    """Whether the tokenizer cuts every record as longest match over its traffic tokens does."""
    matcher = Matcher(traffic_ids(extended))
    for record in records:
        units = encode(record)
        ids = extended(units, add_special_tokens=False)["input_ids"]
        if extended.convert_ids_to_tokens(ids) != matcher.segment(units):
            return False
    return True
