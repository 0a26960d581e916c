"""A traffic vocabulary as a file: learnt from data sets or captures of any size, read back by `tokenizer extend`, shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError, InputError
from trafficllm.core.files import read_json, write_json
from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.bases.results import Pieces, TokenizerShow, TokenizerTrain
from trafficllm.records.codec.units import CODEC_VERSION, UNIT_NAMES, UNITS, codec_hash

SCHEMA = "trafficllm.vocabulary/1"
_NAMES = {name: char for char, name in UNIT_NAMES.items()}
_ROWS = 2048
"""Records read at once from a data set: some MB, whatever its size."""


def stream(paths: Sequence[str | Path], seen: Counter[str], progress: ProgressSink) -> Iterator[str]:
    """Unit strings of the training records of data sets, and of every flow of captures under strict masks, one at a time.

    A capture that a RESERVED.csv in or above its folder names is left out. `seen` counts records by source. Raises InputError
    or ArtifactError for paths that are neither.
    """
    for path in map(Path, paths):
        rows = _data_set(path) if (path / "manifest.json").is_file() else _captures(path)
        for text in rows:
            seen[str(path)] += 1
            if seen.total() % 4096 == 0:
                progress.update("reading", seen.total(), None)
            yield text


def _data_set(path: Path) -> Iterator[str]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("codec_hash") != codec_hash():
        raise ArtifactError("artifact.codec", "no data set of this codec", input=str(path), hint="build it with `trafficllm data build`")
    # Buffering ahead, the library's default, would hold both columns of the whole file.
    with pq.ParquetFile(path / "records.parquet", pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=_ROWS, columns=["part", "units"]):
            train = batch.filter(pc.equal(batch["part"].cast("string"), "train"))
            yield from train["units"].to_pylist()


def _captures(path: Path) -> Iterator[str]:
    from trafficllm.capture.files.read import expand
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.records import masks
    from trafficllm.records.codec.codec import encode
    from trafficllm.records.codec.flows import housekeeping, records_in
    from trafficllm.records.dataset.reserved import Reserved

    reserved = Reserved.find(path if path.is_dir() else path.parent)
    files = [file for file in expand([path]) if not (reserved and reserved.share("/".join(file.parts[-2:])))]
    for batch in read_flows(files) if files else ():
        for start in range(0, len(batch.ts), _ROWS):
            for record, _ in records_in(batch, start, min(start + _ROWS, len(batch.ts))):
                if not housekeeping(record):
                    yield encode(masks.wiped(masks.apply(record, "strict")))


def train(paths: Sequence[str | Path], out: Path, *, size: int, seed: int, progress: ProgressSink) -> TokenizerTrain:
    """Learn `size` traffic tokens and write them to `out` (JSON, one token a line of unit names); `tokenizer train`."""
    from trafficllm.model.tokenizer.learn import SAMPLE_UNITS, learn

    seen: Counter[str] = Counter()
    progress.update("reading", 0, None)
    tokens = learn(stream(paths, seen, progress), size, seed=seed)
    if not seen:
        raise InputError("input.no_records", "no flow to learn from", input=", ".join(map(str, paths)), hint="name data sets or captures")
    body = {
        "schema": SCHEMA,
        "codec_version": CODEC_VERSION,
        "codec_hash": codec_hash(),
        "size": len(tokens),
        "seed": seed,
        "sample_units": SAMPLE_UNITS,
        "records": seen.total(),
        "tokens": [" ".join(UNIT_NAMES[char] for char in token) for token in tokens],
    }
    write_json(out, body)
    longest = max(map(len, tokens))
    return TokenizerTrain(out=str(out), size=len(tokens), units=len(UNITS), records=seen.total(), longest=longest)


def read(path: str | Path) -> list[str]:
    """The tokens of a vocabulary file. Raises ArtifactError where it is none, or of another codec."""
    body = read_json(path)
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        raise ArtifactError(
            "artifact.vocabulary", "is no traffic vocabulary", input=str(path), hint="make one with `trafficllm tokenizer train`"
        )
    if body.get("codec_hash") != codec_hash():
        raise ArtifactError("artifact.codec", "was learnt with another codec", input=str(path), hint="learn it again")
    try:
        tokens = ["".join(_NAMES[name] for name in words.split(" ")) for words in body["tokens"]]
    except (KeyError, AttributeError, TypeError) as error:
        raise ArtifactError("artifact.vocabulary", f"holds an unknown unit: {error}", input=str(path), hint="learn it again") from error
    if tokens[: len(UNITS)] != list(UNITS) or len(set(tokens)) != len(tokens):
        raise ArtifactError(
            "artifact.vocabulary", "does not begin with every single unit, or repeats one", input=str(path), hint="learn it again"
        )
    return tokens


def show(name: str, *, limit: int, text: str | None) -> TokenizerShow:
    """What a vocabulary file or a base's tokenizer holds, and how it reads `text` as a person's question; `tokenizer show`."""
    path = Path(name)
    if path.is_file():
        tokens = read(path)
        return TokenizerShow(**_facts(name, "vocabulary", tokens, limit))
    from trafficllm.model.base.load import resolve
    from trafficllm.model.tokenizer.extend import load_auto, traffic_ids
    from trafficllm.model.tuning.encode import Encoder

    folder = resolve(name)
    tokenizer = load_auto(folder)
    encoder = Encoder(tokenizer)
    reading: dict[str, Pieces] = {}
    if text is not None:
        from trafficllm.records.prompts import question_text

        ids = tokenizer(question_text(text, encoder.forbidden), add_special_tokens=False)["input_ids"]
        reading["text"] = Pieces(ids=ids, tokens=tokenizer.convert_ids_to_tokens(ids))
    return TokenizerShow(
        **_facts(name, "tokenizer", list(traffic_ids(tokenizer)), limit),
        vocab_size=len(tokenizer),
        control=sorted(encoder.forbidden)[:limit],
        chat_template=bool(encoder.before or encoder.after),
        **reading,
    )


def _facts(name: str, kind: str, tokens: Sequence[str], limit: int) -> dict[str, Any]:
    learnt = [token for token in tokens if len(token) > 1]
    return {
        "name": name,
        "kind": kind,
        "traffic_tokens": len(tokens),
        "units": len(tokens) - len(learnt),
        "learnt": len(learnt),
        "mean_length": round(sum(map(len, learnt)) / len(learnt), 2) if learnt else 0.0,
        "longest": max(map(len, tokens), default=0),
        "codec_hash": codec_hash(),
        "most_useful": [" ".join(UNIT_NAMES.get(char, "?") for char in token) for token in learnt[:limit]],
    }
