"""Memory of learning a vocabulary on growing corpora, and the time of long runs: `bench_tokenizer.py --json --gigabytes 0.1 1 10`.

Each corpus is made on the fly from the bundled captures' records with fresh random payload in every record, and learnt from in a process
of its own; the figure is that process' peak resident memory. A corpus' size is that of its unit strings in UTF-8 (4 bytes a unit).
`--stored 1` adds a corpus of that many GB written as a data set and read back as `tokenizer train` reads one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peak_memory import peak_bytes

from trafficllm.core.files import write_json
from trafficllm.core.types import Silent
from trafficllm.lifecycle.bases.vocabulary import stream
from trafficllm.model.tokenizer.learn import SAMPLE_UNITS, learn
from trafficllm.records.codec.units import bytes_units, codec_hash

CAPTURES = Path(__file__).resolve().parents[1] / "src" / "trafficllm" / "data" / "captures"
SIZE = 4096
FRESH = 24


def corpus(gigabytes: float, seed: int = 0) -> Iterator[str]:
    """Records of the bundled captures over and over, each with 24 bytes that no other has."""
    chooser = random.Random(seed)
    records = list(stream([CAPTURES], Counter(), Silent()))
    pool = bytes_units(chooser.randbytes(1 << 20))
    left, place = int(gigabytes * 1e9), 0
    while left > 0:
        for record in records:
            place = (place + 7919) % (len(pool) - FRESH)
            text = record + pool[place : place + FRESH]
            left -= 4 * len(text)
            yield text
            if left <= 0:
                return


def write_data_set(gigabytes: float, folder: Path) -> None:
    """The corpus as a data set's training part: the columns that learning reads, in row groups of the builder's size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from trafficllm.records.dataset.builder import ROW_GROUP

    batches = corpus(gigabytes)
    schema = pa.schema({"part": pa.string(), "units": pa.string()})
    with pq.ParquetWriter(folder / "records.parquet", schema, compression="zstd") as out:
        while texts := list(itertools.islice(batches, ROW_GROUP)):
            out.write_table(pa.table([["train"] * len(texts), texts], schema=schema))
    write_json(folder / "manifest.json", {"codec_hash": codec_hash()})


def learn_once(gigabytes: float, stored: Path | None = None) -> dict[str, Any]:
    """Learn from one corpus in this process, made here or `stored` as a data set: peak memory in MB, CPU seconds, records."""
    seen = 0

    def counted() -> Iterator[str]:
        nonlocal seen
        for text in stream([stored], Counter(), Silent()) if stored else corpus(gigabytes):
            seen += 1
            yield text

    begun = time.process_time()
    tokens = learn(counted(), SIZE)
    peak = peak_bytes() / 2**20
    spent = round(time.process_time() - begun, 1)
    row = {"gigabytes": gigabytes, "records": seen, "tokens": len(tokens), "peak_mb": round(peak), "cpu_s": spent}
    return {**row, "from": "a data set on disk" if stored else "made on the fly"}


def memory_curve(sizes: list[float], stored: list[float]) -> list[dict[str, Any]]:
    """One process a corpus."""
    rows = []

    def add(size: float, *also: str) -> None:
        command = [sys.executable, __file__, "--once", str(size), *also]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(rows[-1], file=sys.stderr, flush=True)

    for size in sizes:
        add(size)
    for size in stored:
        with tempfile.TemporaryDirectory() as folder:
            write_data_set(size, Path(folder))
            add(size, "--folder", folder)
    return rows


def run_times(repeats: int = 5) -> dict[str, Any]:
    """CPU seconds of one run of equal bytes of 16, 32 and 64 kB under the shipped traffic base; ratios to the half."""
    from trafficllm.model.base.load import default_base
    from trafficllm.model.tokenizer.extend import load_raw
    from trafficllm.records.codec.units import UNITS

    raw = load_raw(default_base())
    times: dict[int, list[float]] = {16384: [], 32768: [], 65536: []}
    for _ in range(repeats):
        for size, found in times.items():
            begun = time.process_time()
            raw.encode(UNITS[0] * size, add_special_tokens=False)
            found.append(time.process_time() - begun)
    ratios = {
        f"{big // 1024}k/{small // 1024}k": sorted(round(a / b, 2) for a, b in zip(times[big], times[small], strict=True))
        for small, big in ((16384, 32768), (32768, 65536))
    }
    return {
        "seconds": {f"{size // 1024}k": round(statistics.median(found), 4) for size, found in times.items()},
        "ratio": {name: {"median": statistics.median(found), "range": [found[0], found[-1]]} for name, found in ratios.items()},
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.03, 0.3, 1.0])
    parser.add_argument("--stored", type=float, nargs="*", default=[])
    parser.add_argument("--once", type=float)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--small", action="store_true", help="a trial of seconds: its figures mean nothing")
    options = parser.parse_args()
    if options.small:
        options.gigabytes = [0.002]
    if options.once:
        print(json.dumps(learn_once(options.once, options.folder)))
        return
    curve = memory_curve(options.gigabytes, options.stored)
    body = {"bench": "tokenizer", "sample_units": SAMPLE_UNITS, "size": SIZE, "run": run_times(1 if options.small else 5), "memory": curve}
    print(json.dumps(body, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
