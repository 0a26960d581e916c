"""Spans made once: most flows of a protocol have theirs in the same places, and what is shared costs neither memory nor collection."""

from __future__ import annotations

from functools import lru_cache

from trafficllm.core.types import Span

span_of = lru_cache(maxsize=1 << 14)(Span)
"""`Span`, the same object where it was asked for before."""
