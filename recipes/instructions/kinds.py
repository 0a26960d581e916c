"""What a line of the corpus asks to be done: detect, generate, look up, facts of a capture, several of them, or nothing of ours."""

from __future__ import annotations

import re
from collections.abc import Sequence

FACTS = "facts"
ACTS = ("detect", "generate", "look up", FACTS, "several", "nothing")
GENERATION = frozenset({"MTG", "BTG", "EVG", "EAG"})
_OF_A_CAPTURE = re.compile(
    r"\bhow (?:many|much) (?:packets|flows|hosts|conversations|connections|bytes|sessions|frames)\b|\bpackets? count\b"
    r"|\b(?:count|number of) (?:the )?(?:syn |retransmissions|dns queries|packets)|\bhow long (?:is|does|was) (?:the capture|\S+\.pcap)"
    r"|\b(?:bandwidth graph|rtt histogram|histogram of ports|chart the bandwidth|sort the conversations)\b"
    r"|(?:wie viele|zähle?) (?:die )?pakete|combien de paquets|cuántos paquetes|quantos pacotes|сколько пакетов"
    r"|(?:多少|几)个?(?:数据)?包|パケット(?:数|は何|はいくつ)",
    re.IGNORECASE,
)


def act(tasks: Sequence[str], text: str, *, told: str = "") -> str:
    """The act of a line with these tasks; `told` is the key under which its author wrote it.

    >>> act([], "How many packets are in lunch.pcap?"), act(["MTG"], "make Zeus"), act([], "hello")
    ('facts', 'generate', 'nothing')
    """
    if not tasks:
        return FACTS if told == FACTS or _OF_A_CAPTURE.search(text) else "nothing"
    acts = {"generate" if task in GENERATION else "look up" if task == "FIELD" else "detect" for task in tasks}
    return "several" if len(tasks) > 1 else acts.pop()
