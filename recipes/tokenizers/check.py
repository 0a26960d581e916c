"""Extend tokenizer files and hold them to what is promised; one JSON row a tokenizer.

    trafficllm tokenizer train D... -o vocabulary.json
    python recipes/tokenizers/check.py --tokenizers runs/tokenizers --vocabulary vocabulary.json --data D... --corpus DOCS --out rows.json

`--tokenizers` holds `<name>/plain/tokenizer.json` (kinds.py) or `<name>/tokenizer.json` (any file at hand). A row already in `--out` is
kept: the command resumes. Checked: ids of 100,000 lines of text, every native entry's id, records exact and cut by longest match,
tokens a flow, every surface of the vocabulary in a question, a payload and a label, and the time of runs of 16 to 64 kB.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kinds import corpus_lines

from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.files import read_json, sha256_file, write_json
from trafficllm.core.types import Record, Segment
from trafficllm.lifecycle.bases.vocabulary import read
from trafficllm.model.base.folder import COMPANIONS, TOKENIZER
from trafficllm.model.base.load import default_base
from trafficllm.model.tokenizer.compare import compare, segmentation_agrees
from trafficllm.model.tokenizer.extend import extend, load_auto, load_raw, record_text, traffic_ids
from trafficllm.model.tokenizer.learn import Matcher
from trafficllm.model.tuning.encode import Encoder
from trafficllm.records.codec.codec import decode, encode
from trafficllm.records.codec.units import UNITS
from trafficllm.records.dataset.dataset import load

RANGES = {
    "latin": (0x20, 0x2FF),
    "greek to ethiopic": (0x370, 0x139F),
    "hebrew, arabic (right to left)": (0x590, 0x77F),
    "punctuation, symbols": (0x2000, 0x2BFF),
    "CJK": (0x3040, 0x9FFF),
    "hangul": (0xAC00, 0xD7A3),
    "private use (icons)": (0xE000, 0xF8FF),
    "presentation forms": (0xFB1D, 0xFEFC),
    "emoji": (0x1F300, 0x1FAFF),
    "control": (0x00, 0x1F),
    "plane 15 private use": (0xF0000, 0xF0FFF),
}
_JOINERS = ("\u200d", "\u202e", "\u200f", "\ufeff", "\u0301", "\ufe0f", "  ", "\t\t", "\n\n\n", "\r\n", "\u3000", "    ", "\u00a0", "\x00")


def text_lines(corpus: Path, count: int) -> list[str]:
    """`count` lines: documentation, a tenth of it with odd spaces and controls mixed in, and a tenth drawn from every script."""
    chooser = random.Random(7)
    lines = list(itertools.islice(corpus_lines(corpus), 0, None, 2))[: count * 8 // 10]
    mixed = [_mix(line, chooser) for line in lines[: count // 10]]
    drawn = [_drawn(chooser) for _ in range(count - len(lines) - len(mixed))]
    return [*lines, *mixed, *drawn]


def _mix(line: str, chooser: random.Random) -> str:
    words = line.split(" ")
    return "".join(word + chooser.choice((" ", *_JOINERS)) for word in words)


def _drawn(chooser: random.Random) -> str:
    low, high = RANGES[chooser.choice(list(RANGES))]
    return "".join(chr(chooser.randint(low, high)) + chooser.choice(("", "", "", " ", *_JOINERS)) for _ in range(24))


def batches(rows: Sequence[Any], size: int = 4000) -> Iterator[Sequence[Any]]:
    """Slices of a long list."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def changed_lines(plain: Path, traffic: Path, lines: Sequence[str]) -> dict[str, int]:
    """Lines whose ids the extension changed, by the class of the folder and (every tenth) by the file alone."""
    one, two = load_auto(plain), load_auto(traffic)
    by_class = sum(
        a != b for part in batches(lines) for a, b in zip(one(list(part))["input_ids"], two(list(part))["input_ids"], strict=True)
    )
    few = list(lines[::10])
    raw = [load_raw(folder).encode_batch(few, add_special_tokens=False) for folder in (plain, traffic)]
    return {"lines": len(lines), "changed": by_class, "changed_raw": sum(a.ids != b.ids for a, b in zip(*raw, strict=True))}


def forged(encoder: Encoder, limit: int) -> dict[str, int]:
    """Every entry of the vocabulary in a question, a payload and a label: how many became control or traffic, or lost a byte."""
    tokenizer = encoder.tokenizer
    surfaces = list(dict.fromkeys([*encoder.forbidden, *(f"<0x{b:02X}>" for b in range(256)), *sorted(tokenizer.get_vocab())]))
    keep = len(encoder.forbidden) + 256
    if limit and len(surfaces) > limit:  # all control surfaces always, the others drawn
        surfaces = surfaces[:keep] + random.Random(3).sample(surfaces[keep:], max(limit - keep, 0))
    traffic = set(traffic_ids(tokenizer).values())
    own = [i for i in encoder.prompt(_asks("a")) if i in encoder.control]
    wrong = {"question": 0, "payload": 0, "label": 0}
    inverse = 0
    for part in batches(surfaces, 1000):
        for ids in encoder.prompts([_asks(f"a{surface} b") for surface in part]):
            wrong["question"] += [i for i in ids if i in encoder.control] != own or not traffic.isdisjoint(ids)
        rows = [_flow(surface.encode("utf-8", "surrogatepass")[:48]) for surface in part]
        units = [encode(row) for row in rows]
        alone = tokenizer(units, add_special_tokens=False)["input_ids"]
        for row, text, ids in zip(rows, units, alone, strict=True):
            wrong["payload"] += not set(ids) <= traffic
            back = record_text(tokenizer, ids)
            inverse += back != text or decode(back).payload[0] != row.payload[0]
        for surface in part:
            ids = encoder.label(f"x{surface}")
            wrong["label"] += not encoder.control.isdisjoint(ids)
    placements = {"surfaces": len(surfaces), "placements": 3 * len(surfaces)}
    return {**placements, **{f"forged_{k}": v for k, v in wrong.items()}, "inverse_wrong": inverse}


def _asks(question: str) -> tuple[Segment, ...]:
    return (Segment("instruction", "request: "), Segment("question", question), Segment("instruction", "\ntask: "))


def _flow(data: bytes) -> Record:
    return Record(proto=6, port_class="ew", dirs=(0,), sizes=(len(data),), iats=(0,), flags=(24,), payload=(data, b""))


def run_times(tokenizer: Any, repeats: int = 3) -> dict[str, float]:
    """CPU seconds of byte runs of 16, 32 and 64 kB (all one byte: the longest walk), best of a few."""
    out = {}
    for size in (16384, 32768, 65536):
        text, best = UNITS[0] * size, 9.0
        for _ in range(repeats):
            begun = time.process_time()
            tokenizer(text, add_special_tokens=False)
            best = min(best, time.process_time() - begun)
        out[f"{size // 1024}k"] = round(best, 4)
    return out


def row(source: Path, work: Path, *, tokens: list[str], records: Sequence[Record], lines: Sequence[str], limit: int) -> dict[str, Any]:
    """Everything about one tokenizer folder."""
    plain, traffic = work / "plain", work / "traffic"
    shutil.rmtree(work, ignore_errors=True)
    plain.mkdir(parents=True)
    for name in (TOKENIZER, *COMPANIONS):
        if (source / name).is_file():
            shutil.copyfile(source / name, plain / name)
    report = extend(plain, tokens, traffic)
    raw, extended = load_raw(plain), load_auto(traffic)
    old, new = raw.get_vocab(with_added_tokens=True), load_raw(traffic).get_vocab(with_added_tokens=True)
    state = read_json(plain / TOKENIZER)
    found = {
        "sha256": sha256_file(plain / TOKENIZER),
        "model": state["model"]["type"] + (" byte_fallback" if state["model"].get("byte_fallback") else ""),
        "class": type(extended).__name__,
        "vocabulary": report.base_vocab,
        "added_by_base": len(state["added_tokens"]),
        "traffic_tokens": report.tokens_added,
        "native_ids_moved": sum(new.get(token) != index for token, index in old.items()),
        "text": changed_lines(plain, traffic, lines),
        "flow": compare(load_auto(plain), extended, records).as_dict(),
        "longest_match": segmentation_agrees(extended, records[:500]),
        "seconds_cpu": run_times(extended),
    }
    found["forging"] = forged(Encoder(extended), limit)
    return found


def main() -> None:
    """Check every tokenizer of the folder and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/tokenizers-extended"))
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--flows", type=int, default=2000)
    parser.add_argument("--surfaces", type=int, default=0, help="at most so many surfaces a tokenizer; 0: all")
    options = parser.parse_args()
    sets = [load(path) for path in options.data]
    records = [record for data in sets for record in data.records(data.indices("val")[: options.flows // len(sets)])]
    tokens, lines = read(options.vocabulary), text_lines(options.corpus, options.lines)
    units = [encode(record) for record in records]
    floor = sum(len(Matcher(tokens).segment(text)) for text in units) / len(units)
    body = read_json(options.out) if options.out.is_file() else {"rows": {}}
    body |= {"records": len(records), "vocabulary_sha256": sha256_file(options.vocabulary)}
    body["units_per_flow"] = round(sum(map(len, units)) / len(units), 2)
    body["longest_match_per_flow"] = round(floor, 2)
    body["shipped"] = forged(Encoder(load_auto(default_base())), 0)
    for place in sorted(path for path in options.tokenizers.iterdir() if path.is_dir()):
        source = place / "plain" if (place / "plain").is_dir() else place
        if place.name in body["rows"]:
            continue
        begun = time.monotonic()
        try:
            body["rows"][place.name] = row(
                source, options.work / place.name, tokens=tokens, records=records, lines=lines, limit=options.surfaces
            )
        except TrafficLLMError as error:
            body["rows"][place.name] = {"refused": str(error)}
        write_json(options.out, body)
        print(f"{place.name}: {time.monotonic() - begun:.0f} s {body['rows'][place.name]}", flush=True)


if __name__ == "__main__":
    main()
