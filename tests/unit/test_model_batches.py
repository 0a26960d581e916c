"""Batches, label tries, answer losses and augmentation: exact on small cases."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import records

from trafficllm.core.errors import ArtifactError
from trafficllm.core.types import Facts, Record, Span
from trafficllm.model.tuning.augment import Strength, augment
from trafficllm.model.tuning.collate import Sample, StepData, answer_loss, collate, length_batches, plan_batches
from trafficllm.model.tuning.job import class_weights
from trafficllm.model.tuning.run import even_share
from trafficllm.model.tuning.trie import LabelTrie
from trafficllm.records.codec.codec import canonical, decode, encode


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80), st.integers(1, 4000), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_row_is_in_one_batch_and_their_number_does_not_change(lengths: list[int], tokens: int, seed: int) -> None:
    batches = plan_batches(lengths, tokens, seed)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(batches)
    assert len(batches) == len(plan_batches(lengths, tokens, seed + 1))


def test_batches_are_little_padded() -> None:
    chooser = random.Random(0)
    lengths = [chooser.randint(20, 300) for _ in range(2000)]
    batches = plan_batches(lengths, 4096, 0)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.25 * sum(lengths)


def test_steps_follow_from_seed_and_place_alone() -> None:
    made: list[tuple[int, int]] = []

    def make(row: int, epoch: int) -> Sample:
        made.append((row, epoch))
        return Sample([1] * (row + 1), [2, 0])

    data = StepData([row + 2 for row in range(20)], make, pad=0, batch_tokens=60, epochs=3, seed=4)
    late = data[len(data) - 1]["input_ids"]
    assert {epoch for _, epoch in made} == {2}
    again = StepData(data.lengths, make, pad=0, batch_tokens=60, epochs=3, seed=4)
    for step in range(len(again)):
        last = again[step]["input_ids"]
    assert torch.equal(late, last)


def test_the_loss_is_the_tries_and_padding_changes_nothing() -> None:
    trie = LabelTrie.of(["a", "ab", "c"], [[4], [4, 5], [6, 7]], eos=0)
    assert trie.paths == ((4, 0), (4, 5), (6, 7))
    assert [len(trie.choices(k)) for k in range(3)] == [2, 2, 1]
    assert trie.forced((6,)) == (6, 7)
    samples = [Sample([1, 2], [*trie.paths[k][:2], 0][:2], trie.choices(k)) for k in range(3)]
    batch = collate(samples, pad=9)
    logits = torch.randn(3, 2, 10)
    expected = []
    for row, sample in enumerate(samples):
        for place, children, taken in sample.choices:
            expected.append(-float(logits[row, place, list(children)].log_softmax(0)[taken]))
    assert float(answer_loss(logits, batch, full=0.0)) == pytest.approx(sum(expected) / 3, rel=1e-5)
    wide = torch.cat([torch.randn(3, 4, 10), logits], dim=1)
    assert torch.equal(answer_loss(wide, batch, full=0.1), answer_loss(logits, batch, full=0.1))
    smooth = answer_loss(logits, batch, full=0.0, smoothing=0.1)
    assert torch.isfinite(smooth)
    assert float(smooth) != pytest.approx(float(answer_loss(logits, batch, full=0.0)))


def test_labels_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ArtifactError):
        LabelTrie.of(["a", "b"], [[1], [1]], eos=0)
    with pytest.raises(ArtifactError):
        LabelTrie.of(["a", ""], [[1], []], eos=0)


def test_rows_are_left_padded_with_positions() -> None:
    batch = collate([Sample([5, 6, 7], [8, 0]), Sample([5], [8, 9, 0])], pad=3)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [3, 5, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 1, 2]]
    assert batch["target"].tolist() == [[-100, 8, 0], [8, 9, 0]]


def test_weights_balance_and_average_to_one() -> None:
    answers = ["a"] * 90 + ["b"] * 10
    full = class_weights(answers, 1.0)
    assert full["b"] / full["a"] == pytest.approx(9.0)
    assert sum(full[answer] for answer in answers) == pytest.approx(100.0)
    share = even_share(answers, 20, seed=0)
    assert sum(answers[row] == "b" for row in share) == 10
    assert share == even_share(answers, 20, seed=0)

    assert [sorted(batch) for batch in length_batches([5, 50, 6], 20)] == [[0, 2], [1]]


def test_augmented_records_stay_records_and_show_nothing_new() -> None:
    same_begin = dict.fromkeys(("miss_begin", "other_headers", "show_address"), 0.0)
    calm = Strength(split_segments=0, other_ip=0, scramble=0, **same_begin)
    always = Strength(1, 1, 1, 0.5, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1, **same_begin)
    changed = 0
    for place, row in enumerate(records()[0]):
        for strength in (calm, always):
            new = augment(row, random.Random(place), strength)
            assert new == augment(row, random.Random(place), strength)
            assert decode(encode(new)) == canonical(new)
            assert len(new.dirs) <= len(row.dirs)
            assert all(row.payload[d].startswith(new.payload[d]) for d in (0, 1))
            changed += new != row
    assert changed > 400
    other = Record(kind="packet", proto=17, dirs=(0,), sizes=(5,), iats=(0,))
    assert augment(other, random.Random(0)) is other


NOTHING = {field.name: 0.0 for field in dataclasses.fields(Strength)}


def test_flows_as_seen_elsewhere_stay_records() -> None:
    """Split segments carry the same bytes, IPv6 and random payload change nothing else, a beginning is one, and missing values are -1."""
    split = begun = lost = missed = 0
    for place, row in enumerate(records()[0]):

        def seen(name: str, row: Record = row, place: int = place) -> Record:
            new = augment(row, random.Random(place), Strength(**(NOTHING | {name: 1.0})))
            assert decode(encode(new)) == canonical(new)
            return new

        apart = seen("split_segments")
        if len(apart.dirs) < 32:
            assert sum(apart.sizes) == sum(row.sizes)
            assert sum(apart.iats) == sum(row.iats) + 12_000 * (len(apart.dirs) - len(row.dirs))
        split += len(apart.dirs) > len(row.dirs)
        assert seen("other_ip").ip_version == (6 if row.proto in (6, 17) else row.ip_version)
        noise = seen("scramble")
        assert [len(data) for data in noise.payload] == [len(data) for data in row.payload]
        assert (noise.dirs, noise.sizes, noise.iats) == (row.dirs, row.sizes, row.iats)
        assert noise.facts.service == ""
        head = seen("begin_only")
        assert head.dirs == row.dirs[: len(head.dirs)]
        assert all(data.startswith(part) for data, part in zip(row.payload, head.payload, strict=True))
        begun += len(head.dirs) < len(row.dirs)
        thin = seen("lose_packets")
        lost += len(thin.dirs) < len(row.dirs)
        assert len(thin.dirs) >= 1
        holes = seen("miss_values")
        pairs = [
            (a, b)
            for name in ("sizes", "iats", "flags", "windows", "ttls")
            for a, b in zip(getattr(holes, name), getattr(row, name), strict=True)
        ]
        assert all(a in (b, -1) for a, b in pairs)
        missed += any(a != b for a, b in pairs)
    assert min(begun, lost, missed) > 20, (split, begun, lost, missed)


def one_change(name: str, row: Record, seed: int = 0) -> Record:
    new = augment(row, random.Random(seed), Strength(**(NOTHING | {name: 1.0})))
    assert decode(encode(new)) == canonical(new)
    return new


def test_a_flow_that_began_before_its_capture() -> None:
    sizes, gaps = (0, 0, 0, 4, 6, 3, 5), (0, -1, 3000, 4000, 5000, 6000, 7000)
    row = Record(
        proto=6,
        port_class="ew",
        dirs=(0, 1, 0, 0, 1, 0, 1),
        sizes=sizes,
        iats=gaps,
        flags=(2, 18, 16, 24, 24, 24, 24),
        windows=(65535,) * 7,
        ttls=(-1,) * 7,
        payload=(b"GET ab1", b"HTTP/1 200"),
        hidden=(Span(0, 5, 7, "name"), Span(1, 2, 8, "content")),
        facts=Facts("http", {"http.request.method": "GET"}),
        masked=frozenset({"iat_first", "window_value"}),
    )
    seen = {}
    for seed in range(40):
        new = one_change("miss_begin", row, seed)
        assert new.dirs == row.dirs[-len(new.dirs) :]  # a well-known port says which end is the responder
        assert new.sizes == sizes[len(sizes) - len(new.sizes) :]
        seen[len(sizes) - len(new.sizes)] = new
    assert sorted(seen) == [1, 2, 3, 4]
    assert (seen[1].payload, seen[1].facts, seen[1].hidden) == (row.payload, row.facts, row.hidden)  # no payload lost yet
    assert (seen[4].payload, seen[4].facts.service) == ((b"aa0", b"AAAA.0 000"), "")
    assert seen[4].hidden == (Span(0, 1, 3, "name"), Span(1, 2, 8, "content"))
    assert seen[4].iats == (0, -1, 7000)  # the mask of the first gap holds for the new first gap
    assert one_change("miss_begin", replace(row, sizes=(-1,) * 7)).payload == (b"", b"")
    turned = [one_change("miss_begin", replace(row, port_class="re"), seed) for seed in range(40)]
    assert {new.dirs[0] for new in turned} == {0}  # who is seen first is the originator
    other = next(new for new in turned if len(new.dirs) == 6)
    assert (other.port_class, other.payload, other.facts.service) == ("er", row.payload[::-1], "")
    assert other.hidden == (Span(1, 5, 7, "name"), Span(0, 2, 8, "content"))


def test_other_hosts_change_what_a_set_up_marks() -> None:
    payload = b"GET / HTTP/1.1\r\nHost: secret\r\nUser-Agent: curl/8\r\nVia: 10.0.0.1\r\n\r\n"
    host, address = payload.index(b"secret"), payload.index(b"10.0")
    row = Record(
        proto=6,
        port_class="rw",
        dirs=(0, 1) * 4,
        sizes=(len(payload), *(0,) * 7),
        iats=(0,) * 8,
        windows=(1, 65535) * 4,
        payload=(payload, b""),
        hidden=(Span(0, host, host + 6, "http.host"), Span(0, address, address + 8, "address")),
        masked=frozenset({"window_value"}),
    )
    agents, windows, classes = set(), set(), set()
    for seed in range(60):
        agents.add(one_change("other_headers", row, seed).payload[0])
        windows.add(one_change("other_windows", row, seed).windows)
        classes.add(one_change("translate", row, seed).port_class)
    assert all(data[: host + 6] == payload[: host + 6] and data[address : address + 8] == b"10.0.0.1" for data in agents)
    assert len({data[host + 20 :] for data in agents}) > 10
    assert classes == {"rw", "ew"}
    assert len(windows) > 10
    assert {value for row in windows for value in row} == {1, 65535}
    shown = one_change("show_address", row)
    assert shown.hidden == row.hidden[:1]
    assert len(shown.payload[0]) == len(payload)
    assert shown.payload[0][address : address + 8] != b"10.0.0.1"
    assert one_change("translate", replace(row, port_class="ww")).port_class == "ww"
    assert one_change("other_windows", replace(row, masked=frozenset())).windows == row.windows


def test_augmented_requests_are_cut_and_hide_what_was_hidden() -> None:
    text = "POST /a?name=\u00e9\udcff&key=SECRET HTTP/1.1"
    start = len(text.split("SECRET", maxsplit=1)[0].encode("utf-8", "surrogateescape"))
    row = Record(kind="http", ip_version=0, proto=-1, text=text, hidden=(Span(0, start, start + 6, "http.header_value"),))
    lengths = set()
    for seed in range(60):
        new = augment(row, random.Random(seed), Strength(cut_text=1.0))
        assert text.startswith(new.text)
        assert decode(encode(new)) == canonical(new)
        assert "SECRET"[:2] not in canonical(new).text
        lengths.add(len(new.text))
    assert len(lengths) > 10


def test_augmented_cells_lose_a_few_and_keep_their_order() -> None:
    row = Record(kind="cells", ip_version=0, proto=-1, dirs=(0, 1, 1) * 100, iats=(0, 5_000_000, 1_000) * 100)
    counts = set()
    for seed in range(40):
        new = augment(row, random.Random(seed))
        assert 280 <= len(new.dirs) == len(new.iats) <= 300
        assert decode(encode(new)) == canonical(new)
        counts.add(len(new.dirs))
    assert len(counts) > 3
