"""Field questions: "what is the TTL of packet 3?" is read from the decoded packet, no model takes part."""

from __future__ import annotations

import bisect
import re
from collections.abc import Collection, Mapping, Sequence

from trafficllm.core.escape import spoken

_NAME = re.compile(r"\b[a-z0-9_]+(?:\.[a-z0-9_]+)+\b", re.IGNORECASE)
_FRAME = re.compile(r"\b(?:packet|frame)\s*(?:number\s*|no\.?\s*|#\s*)?(\d{1,7})\b", re.IGNORECASE)
_ASKS = re.compile(r"\b(?:what(?:'s| is| are| was)|value of|give me|tell me|show me|which)\b", re.IGNORECASE)
_REACH = 40
"""Characters between such a word and what it asks for; no sentence ends among them."""

_PHRASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"source (?:ip )?address|source ip|src ip", ("ip.src", "ipv6.src")),
    (r"destination (?:ip )?address|destination ip|dst ip", ("ip.dst", "ipv6.dst")),
    (r"source port|src port", ("tcp.srcport", "udp.srcport")),
    (r"destination port|dst port", ("tcp.dstport", "udp.dstport")),
    (r"ttl|time.to.live|hop limit", ("ip.ttl", "ipv6.hlim")),
    (r"window(?: size)?", ("tcp.window_size_value", "tcp.window_size")),
    (r"tcp flags|flags", ("tcp.flags",)),
    (r"(?:ip )?protocol number|ip protocol", ("ip.proto", "ipv6.nxt")),
    (r"(?:frame|packet) (?:length|size)", ("frame.len",)),
    (r"sequence number", ("tcp.seq_raw", "tcp.seq")),
    (r"acknowledge?ment number", ("tcp.ack_raw", "tcp.ack")),
    (r"identification|ip id", ("ip.id",)),
    (r"icmp type", ("icmp.type", "icmpv6.type")),
    (r"icmp code", ("icmp.code", "icmpv6.code")),
)


def asked_fields(question: str, known: Collection[str]) -> tuple[str, ...]:
    """Fields a question is about: tshark names in it, or what a phrase stands for; empty for other questions.

    >>> asked_fields("What is the time to live?", {"ip.ttl", "ip.src"})
    ('ip.ttl',)
    """
    named = [match.group().lower() for match in _NAME.finditer(question)]
    found = dict.fromkeys(name for name in named if name in known)
    if not found:
        asked = [match.end() for match in _ASKS.finditer(question)]
        for pattern, names in _PATTERNS if asked else ():
            if any(_is_asked(question, asked, match.start()) for match in pattern.finditer(question)):
                found |= dict.fromkeys(name for name in names if name in known)
    return tuple(found)


_PATTERNS = tuple((re.compile(rf"\b(?:{phrase})\b", re.IGNORECASE), names) for phrase, names in _PHRASES)


def _is_asked(question: str, asked: Sequence[int], at: int) -> bool:
    """Whether a phrase at `at` stands within reach of the last asking word before it. Linear: each phrase looks at one of them."""
    before = bisect.bisect_right(asked, at) - 1
    if before < 0 or at - asked[before] > _REACH:
        return False
    return not any(stop in question[asked[before] : at] for stop in ".?\n")


def asked_frame(question: str) -> int:
    """The frame a question names, or the first.

    >>> asked_frame("the ttl of packet 12?")
    12
    """
    match = _FRAME.search(question)
    return max(1, int(match.group(1))) if match else 1


def field_answer(values: Mapping[str, str]) -> str:
    """Fields that are there as `name: value`, one a line; a value that is no plain word or number is marked as captured."""
    there = [f"{name}: {spoken(value)}" for name, value in values.items() if value]
    return "\n".join(there) or "The packet has no such field."
