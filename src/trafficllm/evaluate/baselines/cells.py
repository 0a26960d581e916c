"""Columns of a cell sequence for trees: what website fingerprinting counts (k-fingerprinting, Hayes and Danezis 2016; CUMUL,
Panchenko et al. 2016), from the bursts that the codec carries.
"""

from __future__ import annotations

import numpy as np

from trafficllm.core.types import F64, RESP, Record
from trafficllm.records.codec.page_load import MOMENTS as LOAD_MOMENTS
from trafficllm.records.codec.page_load import PARTS

CUMULATIVE, OUTGOING, CHUNKS, CHUNK, MOMENTS = 60, 24, 24, 20, 12
_QUANTILES = (0.25, 0.5, 0.75, 0.9)
_ENDS = ("orig", "resp")

NAMES = (
    *(f"cumulative[{k}]" for k in range(CUMULATIVE)),
    *(f"orig_place[{k}]" for k in range(OUTGOING)),
    *(f"orig_in_chunk[{k}]" for k in range(CHUNKS)),
    *(f"log_time[{k}]" for k in range(MOMENTS)),
    *(f"bursts.{end}.{what}" for end in _ENDS for what in ("count", "mean", "max", "std", *(f"q{int(100 * q)}" for q in _QUANTILES))),
    "orig_share",
    "orig_place_mean",
    "orig_place_std",
    "load.orig",
    "load.resp",
    *(f"load.orig_part[{k}]" for k in range(PARTS)),
    *(f"load.log_time[{k}]" for k in range(LOAD_MOMENTS)),
)


def columns(shown: Record, absent: float) -> F64:
    """float64 [len(NAMES)] of one record as the codec carries it; `absent` past the end of a short one.

    `cumulative`: resp minus orig cells at even places; `orig_place`: places of the first cells that the client sent;
    `orig_in_chunk`: its cells in each 20; `log_time`: log2 of microseconds at even places; burst lengths each way; `load`: what the
    codec adds up of the whole load, which may go on beyond the bursts shown (`records.codec.page_load`).
    """
    signs = np.where(np.asarray(shown.dirs, dtype=np.int64) == RESP, 1, -1)
    if not len(signs):
        return np.full(len(NAMES), absent)
    sent = np.flatnonzero(signs < 0)
    chunks = signs[: CHUNKS * CHUNK] < 0
    padded = np.pad(chunks, (0, CHUNKS * CHUNK - len(chunks))).reshape(CHUNKS, CHUNK).sum(axis=1).astype(np.float64)
    padded[-(-len(chunks) // CHUNK) :] = absent
    times = np.cumsum(np.maximum(np.asarray(shown.iats, dtype=np.int64), 0)) / 1000.0
    ends = np.flatnonzero(np.diff(signs)) + 1
    runs = np.split(signs, ends)
    lengths = [np.array([len(run) for run in runs if run[0] == sign], dtype=np.float64) for sign in (-1, 1)]
    places = np.full(OUTGOING, absent)
    places[: min(len(sent), OUTGOING)] = sent[:OUTGOING]
    tail = [len(sent) / len(signs), sent.mean(), sent.std()] if len(sent) else [0.0, absent, absent]
    return np.concatenate(
        [
            _sampled(np.cumsum(signs), CUMULATIVE),
            places,
            padded,
            np.log2(1.0 + _sampled(times, MOMENTS)),
            *(_spread(length) for length in lengths),
            tail,
            _load(shown.load, absent),
        ]
    )


def _load(load: tuple[int, ...], absent: float) -> F64:
    values = np.asarray(load, dtype=np.float64)
    times = values[2 + PARTS :]
    return np.concatenate([values[: 2 + PARTS], np.where(times < 0, absent, np.log2(1.0 + np.maximum(times, 0) / 1000.0))])


def _sampled(values: F64, count: int) -> F64:
    return np.asarray(np.interp(np.linspace(0, len(values) - 1, count), np.arange(len(values)), values), dtype=np.float64)


def _spread(lengths: F64) -> F64:
    if not len(lengths):
        return np.zeros(4 + len(_QUANTILES))
    moments = [len(lengths), lengths.mean(), lengths.max(), lengths.std()]
    return np.concatenate([moments, np.quantile(lengths, _QUANTILES)])
