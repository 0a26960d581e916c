"""The embedded base's recipes in small: mixed batches, a run that resumes to the same weights, the `small` base end to end."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import learn_samples as samples
import pytest
import torch

from trafficllm.core.files import read_json
from trafficllm.core.types import Facts, Record, Span

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "recipes" / name) for name in ("nano", "small", "tokenizers")]

import fields  # noqa: E402 - the recipes are scripts beside each other
import mixture  # noqa: E402
import sizes  # noqa: E402
import small  # noqa: E402
import traffic  # noqa: E402

SHARES = {"route": 0.4, "field": 0.2, "traffic": 0.3, "english": 0.1}
NOISE = {"word_dropout": 0.6, "slips": 0.05, "shuffled": 0.2, "joined": 0.3}
MIX = {**NOISE, "bpe_dropout": 0.1, "block": 16, "blocks": 2, "tokens": 128, "shares": SHARES, "views": {"read": 0.6, "hidden": 0.4}}
TINY: dict[str, Any] = {
    "tokenizer": {"vocab_size": 400},
    "model": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 256},
    "plain": {"block": 32, "batch_size": 2, "learning_rate": 1e-3, "max_seconds": 0.3},
    "traffic": {**MIX, "vocab_size": 700, "learning_rate": 1e-3, "english_tokens": 2000, "max_steps": 6, "max_seconds": 60.0, "seed": 0},
}


@pytest.fixture(scope="module", name="runs")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the nano recipe leaves, in small: a corpus, one folder's data set, the bundled ones."""
    place = tmp_path_factory.mktemp("runs")
    chooser = random.Random(0)
    words = ("packet", "resolver", "window", "session", "route", "label", "the", "of", "sends", "drops")
    (place / "corpus").mkdir()
    texts = [" ".join(chooser.choices(words, k=60)) for _ in range(200)]
    (place / "corpus" / "corpus.txt").write_text("\f".join(texts), encoding="utf-8")
    (place / "corpus" / "manifest.json").write_text('{"parts": []}', encoding="utf-8")
    samples.data_set(place / "traffic" / "data" / "ONE", samples.KINDS, seed=1)
    for seed, task in enumerate(("MTD", "EAC"), 2):
        samples.data_set(place / "traffic" / "bundled" / task, samples.KINDS, seed=seed)
    return place


@pytest.fixture(scope="module", name="made")
def _made(runs: Path) -> Path:
    """The small recipe run with tiny sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(small.nano_traffic.RECIPE, "folders", {"ONE": "EAC"})
        patch.setitem(small.nano_traffic.RECIPE, "block", 16)
        small.main(["--runs", str(runs), "--out", str(runs / "small")], TINY)
    return runs / "small"


def test_the_small_recipe_ends_in_a_stock_checkpoint(made: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(made / "final"), AutoTokenizer.from_pretrained(made / "final")
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer) > 400
    facts = read_json(made / "final" / "trafficllm.json")["training"]
    assert facts["steps"] == 6
    assert facts["records"] == {"ONE": 96}
    assert 0 < facts["held_out_loss"] < 20
    assert (made / "final" / "seen.bin").stat().st_size > 0


def test_a_finished_small_recipe_is_left_alone(made: Path, runs: Path) -> None:
    before = (made / "final" / "model.safetensors").stat().st_mtime_ns
    small.main(["--runs", str(runs), "--out", str(made)], TINY)
    assert (made / "final" / "model.safetensors").stat().st_mtime_ns == before


def test_the_small_recipe_is_of_the_promised_size() -> None:
    model = small.RECIPE["model"]
    rows = small.RECIPE["tokenizer"]["vocab_size"] + small.RECIPE["traffic"]["vocab_size"]
    width = model["hidden_size"]
    layer = 4 * width**2 + 3 * width * model["intermediate_size"] + 2 * width
    assert rows * width + model["num_hidden_layers"] * layer + width <= 30_000_000
    assert small.RECIPE["plain"]["max_seconds"] + small.RECIPE["traffic"]["max_seconds"] <= 460


def test_rows_of_a_vocabulary_count_as_in_the_shipped_base() -> None:
    from safetensors.torch import load_file

    from trafficllm.model.base.load import default_base

    every = sum(tensor.numel() for tensor in load_file(default_base() / "model.safetensors").values())
    rows, share = sizes.parameters(3072)
    assert rows == 3072 * 192
    assert share == pytest.approx(rows / every)


def test_a_size_is_learnt_counted_and_tried(made: Path, runs: Path, tmp_path: Path) -> None:
    from trafficllm.records.codec.codec import encode
    from trafficllm.records.codec.units import UNITS
    from trafficllm.records.dataset.dataset import load

    data = load(runs / "traffic" / "data" / "ONE")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(small.nano_traffic.RECIPE, "folders", {"ONE": "EAC"})
        patch.setitem(small.nano_traffic.RECIPE, "block", 16)
        patch.setattr(sizes, "PROBED", {"EAC": "ONE"})
        records = small.nano_traffic.strict(data, data.indices("train"))
        flows = sizes.Flows.of({"ONE": data}, 5)
        strings, units = [encode(record) for record in records], flows.units()
        assert {task: len(rows) for task, rows in units.items()} == {"EAC": 5}
        few, many = (sizes.measure(size, strings, units, made / "plain", tmp_path) for size in (len(UNITS), len(UNITS) + 40))
        assert few["per_flow"]["EAC"] == sum(map(len, units["EAC"])) / 5 > many["per_flow"]["EAC"]
        assert few["rare_learnt"] == 0
        trained = sizes.judge(tmp_path / str(len(UNITS) + 40), records, units, {"ONE": data}, 0.2)
    assert trained["steps"] > 0
    assert 0 < trained["nats_a_unit"] < 20
    assert 0 <= trained["probe_f1"]["EAC"] <= 1


def test_rare_tokens_are_those_seen_less_than_ten_times() -> None:
    from trafficllm.records.codec.units import UNITS

    often, seldom = UNITS[0] * 2, UNITS[1] * 2
    found = sizes.rarity([*UNITS[:2], often, seldom], [often] * 10 + [seldom] * 9)
    assert found == {"rare_learnt": 0.5, "rare_all": 0.75}


def _mixture(made: Path, runs: Path) -> tuple[Any, Any]:
    from trafficllm.model.base.load import load_base
    from trafficllm.records import instructions
    from trafficllm.records.dataset.dataset import load

    base = load_base(made / "extended", dtype="float32")
    data = load(runs / "traffic" / "data" / "ONE")
    rows = data.indices("train")
    english = torch.randint(5, 300, (8, 16), generator=torch.Generator().manual_seed(0)).numpy()
    asked = instructions.load("train")[::40]
    recipe = {**MIX, "bpe_dropout": 0.0, "seed": 0}
    return base, mixture.Mixture(base.tokenizer, asked, data.records(rows), data.raw_records(rows), english=english, recipe=recipe)


def test_an_interrupted_run_resumes_to_the_same_weights(made: Path, runs: Path, tmp_path: Path) -> None:
    from trafficllm.model.tuning.pretrain import PretrainOptions, continue_on

    options = PretrainOptions(learning_rate=1e-3, max_steps=8, max_seconds=1e9, save_steps=2, log_steps=4)
    whole, mix = _mixture(made, runs)
    whole.model.train()
    assert continue_on(whole.model, mix, tmp_path / "whole", options=options)["steps"] == 8

    def dies(step: int) -> dict[str, Any]:
        if step == 5:
            raise KeyboardInterrupt
        return mix(step)

    for make in (dies, mix):
        broken, _ = _mixture(made, runs)
        broken.model.train()
        try:
            continue_on(broken.model, make, tmp_path / "broken", options=options)
        except KeyboardInterrupt:
            assert make is dies
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(broken.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_batches_follow_the_step_and_ask_at_the_answer_only(made: Path, runs: Path) -> None:
    _, mix = _mixture(made, runs)
    kinds = set()
    for step in range(40):
        batch, again = mix(step), mix(step)
        assert all(torch.equal(batch[key], again[key]) for key in batch)
        kinds.add("target" in batch)
        if "target" in batch:
            answers = batch["target"]
            assert (answers[:, -1] == mix.encoder.eos).all()
            assert batch["input_ids"].shape[1] > answers.shape[1]
    assert kinds == {True, False}
    assert mix.splitter.dropout is None


def test_a_disturbed_question_keeps_most_of_its_letters() -> None:
    chooser = random.Random(1)
    text = "Is there any malware in the capture of the reception computer"
    seen = {mixture.disturbed(text, chooser, words=0.4, slips=0.1, order=0.5) for _ in range(30)}
    assert len(seen) > 10
    assert all(word == word.lower() and len(word) > len(text) / 4 for word in seen)
    assert mixture.disturbed(text, chooser, words=0.0, slips=0.0, order=0.0) == text.lower()
    assert sorted(mixture.disturbed(text, chooser, words=0.0, slips=0.0, order=1.0)) == sorted(text.lower())
    assert 2 <= len(mixture.disturbed("\u8fd9\u4e2a\u6d41\u91cf\u6709\u75c5\u6bd2\u5417", chooser, words=0.6, slips=0.0, order=0.0)) <= 8


def test_field_questions_are_answered_as_tshark_prints_them() -> None:
    record = Record(
        proto=6,
        ports=(50000, 443),
        dirs=(0, 1),
        sizes=(0, 1460),
        flags=(0x02, 0x12),
        iats=(0, 5),
        ttls=(64, 55),
        facts=Facts("tls", {"tls.handshake.version": 0x0303}),
    )
    asked = dict(fields.questions(record))
    assert asked["tcp.dstport"] == "443"
    assert asked["tcp.flags of packet 2"] == "0x0012"
    assert asked["tcp.len of packet 2"] == "1460"
    assert asked["ip.ttl"] == "64"
    assert asked["tls.handshake.version"] == "0x0303"
    assert not list(fields.questions(Record(kind="http", proto=-1, text="GET /")))
    assert "tcp.srcport" not in asked  # the client's system draws it: nothing foretells it
    cells = dict(fields.questions(Record(kind="cells", proto=-1, dirs=(0, 1, 1), iats=(0, 5, 5))))
    assert (cells["cells sent"], cells["cells received"], cells["cells sent up to part 24"]) == ("1", "2", "1")


def _hello() -> Record:
    """A flow to a named server: its name lies in the payload, as in a reader's record."""
    payload = b"\x16\x03\x01" + b"mail.example.co.uk" + b"\x00"
    name = {"tls.handshake.extensions_server_name": "mail.example.co.uk"}
    return Record(
        proto=6,
        ports=(50000, 993),
        dirs=(0, 1),
        sizes=(22, 0),
        flags=(0x18, 0x10),
        iats=(0, 5),
        windows=(64240, 501),
        ttls=(64, 55),
        payload=(payload, b""),
        facts=Facts("tls", name, (Span(0, 3, 21, "tls.sni"),)),
    )


def test_what_masks_hide_is_asked_of_a_record_that_hides_it() -> None:
    show, ask = fields.VIEWS["hidden"]
    asked, shown = dict(ask(_hello())), show(_hello())
    assert asked["tcp.window_size_value of the client"] == "64240"
    assert (asked["ip.ttl of the client"], asked["ip.ttl of the server"], asked["tcp.dstport"]) == ("64", "55", "993")
    assert asked["domain of tls.handshake.extensions_server_name"] == "example.co.uk"
    assert (shown.ports, shown.ttls, set(shown.windows)) == (None, (-1, -1), {65535, 1})
    assert b"example" not in shown.payload[0]
    assert "tcp.dstport" not in dict(ask(replace(_hello(), ports=(993, 50000))))


def test_names_are_asked_for_where_they_are_shown_too() -> None:
    show, ask = fields.VIEWS["named"]
    assert dict(ask(_hello())) == {"domain of tls.handshake.extensions_server_name": "example.co.uk"}
    assert b"mail.example.co.uk" in show(_hello()).payload[0]
    assert show(_hello()).ports is None


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("a.b.example.com.", "example.com"),
        ("x.com.br", "x.com.br"),
        ("WWW.gov.uk", "www.gov.uk"),
        ("10.1.2.3", ""),
        ("localhost", ""),
        ("", ""),
    ],
)
def test_the_registrable_part_of_a_name(name: str, domain: str) -> None:
    assert fields.registrable(name) == domain


def test_hidden_values_that_few_records_have_are_not_asked_for() -> None:
    odd = replace(_hello(), windows=(31_337, 501))
    every = mixture._askable([_hello(), _hello(), odd], "hidden", 2)
    assert [found.get("tcp.window_size_value of the client") for _, found in every] == ["64240", "64240", None]
    assert all(found["tcp.dstport"] == "993" for _, found in every)
    assert len(mixture._askable([_hello(), odd], "read", 2)) == 2


def test_a_share_of_the_records_shows_its_headers() -> None:
    from trafficllm.records.codec.units import unit

    records, headers = [fields.hidden(_hello())] * 200, [traffic.view.shown(_hello())] * 200
    strings = list(traffic.passes(records, headers, 1, seed=0))
    assert 0.05 < sum(unit("ttl:64") in text for text in strings) / 200 < 0.3
    assert not any(unit("ttl:64") in text for text in traffic.passes(records, records, 1, seed=0))


def test_labels_that_a_data_set_would_refuse_are_left_out(tmp_path: Path) -> None:
    for label in ("A", "B"):
        (tmp_path / "folder" / label).mkdir(parents=True)
    assert traffic._without(tmp_path / "folder", [], tmp_path / "copy") == tmp_path / "folder"
    assert [path.name for path in traffic._without(tmp_path / "folder", ["B"], tmp_path / "copy").iterdir()] == ["A"]
