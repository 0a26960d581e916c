"""Identifiers of training captures in generated ones: addresses, names, cookies, session ids. There must be none."""

from __future__ import annotations

from collections.abc import Iterable

from trafficllm.core.types import FlowMeta, Record
from trafficllm.evaluate.fidelity.results import Overlap

_KINDS = frozenset(("tls.sni", "tls.session_id", "tls.ticket", "tls.cert_name", "dns.name", "http.host", "http.cookie"))
_LEAST = 6
"""Bytes: shorter stretches turn up in random payload by chance."""

Rows = Iterable[tuple[Record, FlowMeta]]


def addresses(rows: Rows) -> set[str]:
    """Addresses at either end of these flows."""
    return {address for _, meta in rows for address in (meta.orig_h, meta.resp_h) if address}


def names(rows: Rows) -> set[bytes]:
    """Bytes of names, cookies and session ids in the payload of raw records, of 6 bytes or more."""
    out = set()
    for record, _ in rows:
        for span in record.facts.spans:
            value = record.payload[span.dir][span.start : span.end]
            if span.kind in _KINDS and len(value) >= _LEAST and value.strip(b"\0"):
                out.add(value)
    return out


def overlap(train: Rows, synthetic: Rows) -> Overlap:
    """How many addresses and names of training flows stand in synthetic ones; names anywhere in their payload.

    Both are raw records: masks would hide what is looked for.
    """
    train, synthetic = list(train), list(synthetic)
    text = b"\n".join(part for record, _ in synthetic for part in record.payload)
    return Overlap(addresses=len(addresses(train) & addresses(synthetic)), names=sum(name in text for name in names(train)))
