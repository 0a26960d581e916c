"""What a generator learns from: headers shown, identifiers hidden, flows as often as they were captured."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from records_samples import malware

from trafficllm.core.errors import InputError
from trafficllm.core.types import Record
from trafficllm.infer.generator.token_mask import TokenMask
from trafficllm.lifecycle.adapters.learn_generator import generator_data
from trafficllm.records.catalog import get_task
from trafficllm.records.codec import units, values
from trafficllm.records.codec.codec import decode, encode
from trafficllm.records.codec.grammar import Grammar, State
from trafficllm.records.dataset.dataset import Dataset, build_dataset, load

LABELS = ("Zeus", "Gmail")


@pytest.fixture(scope="module", name="built")
def _built(captures: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    place = tmp_path_factory.mktemp("mtg")
    build_dataset(malware(captures, place / "captures", LABELS), task=get_task("MTG"), out=place / "data")
    return load(place / "data")


def test_generation_data_keeps_flows_as_often_as_they_were_captured(built: Dataset) -> None:
    assert built.manifest["dropped"] == {}
    assert built.manifest["duplicates"]["share"] > 0.3
    parts = {part: built.indices(part) for part in ("train", "val", "test")}
    assert not set(built.groups(parts["train"])) & set(built.groups(parts["test"]))


def test_a_generator_learns_headers_and_no_identifier(built: Dataset) -> None:
    data = generator_data(built, task=get_task("MTG"), labels=["Zeus"])
    records = [decode(units) for units in data.answers]
    assert len(records) == sum(label == "Zeus" for label in built.labels_of(built.indices("train")))
    assert {record.ports[1] for record in records if record.ports} >= {53, 80, 1024}
    assert all(min(record.ttls) > 0 for record in records)
    assert len({window for record in records for window in record.windows}) > 3
    assert any(record.hidden for record in records)
    raw = built.raw_records(built.indices("train"))
    hosts = {str(record.facts.fields["http.host"]).encode() for record in raw if "http.host" in record.facts.fields}
    assert hosts
    assert not any(host in part for host in hosts for record in records for part in record.payload)


def test_a_label_without_training_records_is_refused(built: Dataset) -> None:
    with pytest.raises(InputError, match="Neris"):
        generator_data(built, task=get_task("MTG"), labels=["Zeus", "Neris"])


def test_values_stand_behind_buckets() -> None:
    raw = Record(
        proto=6,
        dirs=(0, 1, 0, 1),
        sizes=(1, 2, 3, 4),
        iats=(0, 70_000, 90_000, 75_000),
        flags=(24,) * 4,
        windows=(64240, 8192, 64240, 8100),
        ttls=(128, 57, 128, 57),
    )
    table = values.learnt([raw] * 3)
    assert table["windows"]["16"] == [[64240, 6]]
    assert table["ttls"] == {"4": [[57, 6]], "6": [[128, 6]]}
    told = decode(encode(raw))
    assert told.windows == (65535, 16383, 65535, 8191)
    back = values.drawn(told, table, random.Random(1))
    assert back.windows == raw.windows or back.windows == (64240, 8192, 64240, 8192)
    assert back.ttls == raw.ttls
    assert encode(back) == encode(told)
    assert back.iats != told.iats
    assert len({values.drawn(told, table, random.Random(seed)).iats for seed in range(9)}) == 9


def test_without_a_table_gaps_move_within_their_bucket() -> None:
    told = decode(encode(Record(proto=17, dirs=(0, 1, 0), sizes=(5, 5, 5), iats=(0, 10**6, 10**12))))
    for seed in range(20):
        back = values.drawn(told, {}, random.Random(seed))
        assert encode(back) == encode(told)
        assert back.iats[0] == 0


def test_attempts_end_before_readers_give_up() -> None:
    told = decode(encode(Record(proto=6, dirs=(0,) * 4, sizes=(0,) * 4, iats=(0, *(3 * 10**9,) * 3), flags=(2,) * 4)))
    back = values.drawn(told, {}, random.Random(0))
    assert sum(back.iats) < values.ATTEMPT
    assert back.iats[1] > 2 * 10**9


def test_whole_records_of_the_head_s_length() -> None:
    mask = TokenMask({unit: k for k, unit in enumerate(units.UNITS)}, Grammar())
    record = Record(
        proto=6,
        ip_version=4,
        ports=(1024, 80),
        dirs=(0, 1, 0),
        sizes=(0, 0, 0),
        iats=(0, 1000, 1000),
        flags=(2, 18, 16),
        windows=(501, 502, 501),
        ttls=(64, 57, 64),
    )

    def written(text: str, exact: TokenMask) -> bool:
        state: State | None = exact.start()
        for unit in text:
            token = units.UNITS.index(unit)
            state = exact.step(state, token) if state is not None else None
            exact = exact.after(token)
        return exact.grammar.accepts(state)

    whole = encode(record)
    assert written(whole, mask.exactly(3))
    assert not written(whole, mask.exactly(2))
    assert not written(whole, mask.exactly(4))
    assert not written(encode(replace(record, ttls=(-1, 57, 64))), mask.exactly(3))
    assert not written(encode(replace(record, windows=(501, -1, 501))), mask.exactly(3))
    assert not written(encode(replace(record, iats=(0, 1000, 400 * 10**9))), mask.exactly(3))
    assert not written(encode(replace(record, flags=(16, 16, 2))), mask.exactly(3))
    assert not written(encode(replace(record, flags=(4, 16, 16))), mask.exactly(3))
    assert written(encode(replace(record, flags=(2, 20, 4))), mask.exactly(3))
    assert written(encode(replace(record, ttls=(-1, -1, -1))), mask.exactly(0))
