"""One endpoint's byte stream: sequence arithmetic, history letters, what has been delivered and what is missing."""

# ruff: noqa: PLR0917 - kernels take their arrays by position
from __future__ import annotations

from typing import Any

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.capture.kernels.layout import CLOSED, ESTABLISHED, HISTORY, ISLANDS, L_BAD_SUM, L_GAP


@inner
def delta32(a: Word, b: Word) -> Word:
    """Signed distance from b to a in 32-bit sequence space."""
    gap = (a - b) & 0xFFFFFFFF
    return gap - 0x100000000 if gap & 0x80000000 else gap


@inner
def relative(end: Any, number: Word, last_rel: Word) -> Word:
    """A 32-bit number relative to the endpoint's start, unwrapped around `last_rel`."""
    return last_rel + delta32(number, (i64(end["start_seq"]) + last_rel) & 0xFFFFFFFF)


@inner
def letter(flow: Any, history: Any, code: Word, originator: bool) -> None:
    """Append a history letter: upper case for the originator, lower for the responder."""
    length = i64(flow["hist_len"])
    if length < HISTORY:
        history[length] = code if originator else code + 32
        flow["hist_len"] = length + 1


@inner
def once(flow: Any, history: Any, bit: Word, code: Word, originator: bool) -> Word:
    """Append a letter the first time; True if it had been there."""
    mask = bit if originator else bit << 16
    seen = i64(flow["hist_seen"])
    if seen & mask:
        return True
    flow["hist_seen"] = seen | mask
    letter(flow, history, code, originator)
    return False


@inner
def scaled(count: Word, threshold: Word) -> Word:
    """Letters on the 1st, 10th, 100th... occurrence: (threshold afterwards, whether now)."""
    if count == max(threshold, 1):
        return max(threshold, 1) * 10, True
    return threshold, False


@inner
def count_gap(flow: Any, history: Any, end: Any, originator: bool) -> None:
    """History 'g'."""
    end["gaps"] = i64(end["gaps"]) + 1
    end["gaps_at"], now = scaled(i64(end["gaps"]), i64(end["gaps_at"]))
    if now:
        letter(flow, history, L_GAP, originator)


@inner
def count_bad_sum(flow: Any, history: Any, end: Any, originator: bool) -> None:
    """History 'c'."""
    end["bad_sums"] = i64(end["bad_sums"]) + 1
    end["bad_sums_at"], now = scaled(i64(end["bad_sums"]), i64(end["bad_sums_at"]))
    if now:
        letter(flow, history, L_BAD_SUM, originator)


@inner
def pending(end: Any) -> Word:
    """Data below the FIN is still missing."""
    return end["next_rel"] < end["last_rel"] - 1


@inner
def _absorb(end: Any, islands: Any) -> None:
    """Join stretches that the delivered part now touches."""
    n = i64(end["islands"])
    again = n > 0
    while again:
        again = False
        for i in range(n):
            if islands[2 * i] <= end["next_rel"]:
                end["next_rel"] = max(end["next_rel"], islands[2 * i + 1])
                n -= 1
                islands[2 * i] = islands[2 * n]
                islands[2 * i + 1] = islands[2 * n + 1]
                again = n > 0
                break
    end["islands"] = n


@inner
def deliver(end: Any, islands: Any, low: Word, high: Word) -> None:
    """Note bytes [low, high) as received."""
    if high <= end["next_rel"]:
        return
    if low <= end["next_rel"]:
        end["next_rel"] = high
        _absorb(end, islands)
        return
    n = i64(end["islands"])
    for i in range(n):
        if low <= islands[2 * i + 1] and high >= islands[2 * i]:
            islands[2 * i] = min(low, islands[2 * i])
            islands[2 * i + 1] = max(high, islands[2 * i + 1])
            return
    if n == ISLANDS:
        islands[2 * n - 2] = min(low, islands[2 * n - 2])
        islands[2 * n - 1] = max(high, islands[2 * n - 1])
        return
    islands[2 * n] = low
    islands[2 * n + 1] = high
    end["islands"] = n + 1


@inner
def _clean(end: Any) -> Word:
    state = i64(end["state"])
    return state == ESTABLISHED or (state == CLOSED and i64(end["previous"]) == ESTABLISHED)


@inner
def acknowledge(flow: Any, history: Any, end: Any, peer: Any, islands: Any, upto: Word, originator: bool) -> None:
    """The peer acknowledged `end`'s bytes below `upto`: what was not seen by now is a gap."""
    if end["fins"] > 0 and upto >= end["fin_rel"]:
        upto = end["fin_rel"] - 1
    if upto <= end["next_rel"] or (upto <= 2 and flow["partial"]):
        return
    clean = _clean(end) and _clean(peer)
    while end["next_rel"] < upto:
        if clean:
            count_gap(flow, history, end, originator)
        low = i64(upto)
        for i in range(i64(end["islands"])):
            low = min(low, islands[2 * i])
        end["next_rel"] = low
        _absorb(end, islands)


@inner
def clear_ends(one: Any, two: Any) -> None:
    """Both endpoints of a new flow: nothing sent, nothing seen."""
    for end in (one, two):
        end["packets"], end["ip_bytes"], end["sent"] = 0, 0, -1
        end["last_rel"], end["ack_rel"], end["fin_rel"], end["next_rel"] = 0, 0, 0, 1
        end["hist_syn"], end["hist_fin"], end["hist_rst"] = 0, 0, 0
        end["prefix"], end["buffer"], end["start_seq"] = 0, -1, 0
        end["chunk"], end["wanted"], end["chunks"], end["closed_hello"] = -1, 0, 0, 0
        end["rexmit"], end["gaps"], end["zero_windows"], end["bad_sums"] = 0, 0, 0, 0
        end["rexmit_at"], end["gaps_at"], end["zero_windows_at"], end["bad_sums_at"] = 0, 0, 0, 0
        end["fins"], end["state"], end["previous"], end["closed"] = 0, 0, 0, 0
        end["islands"], end["eof"], end["scattered"] = 0, 0, 0
