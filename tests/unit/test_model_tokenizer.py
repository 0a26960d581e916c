"""The extension on each tokenizer pipeline: native ids stay, records are cut by longest match and come back exactly."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from model_samples import KINDS, recipe, records, save_model, save_tokenizer, sentences, traffic_tokens

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.model.base.folder import TOKENIZER
from trafficllm.model.tokenizer.compare import compare, plain_text, segmentation_agrees
from trafficllm.model.tokenizer.extend import extend, forgeable, load_auto, load_raw, record_text, traffic_ids
from trafficllm.model.tokenizer.learn import MAX_TOKEN_UNITS, STARTS, Matcher, _sample, learn, words
from trafficllm.records.codec.codec import decode, encode
from trafficllm.records.codec.units import UNITS

LINES = 2000


@pytest.fixture(scope="module", name="pair", params=KINDS)
def _pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp(request.param)
    save_tokenizer(request.param, place / "plain")
    extend(place / "plain", traffic_tokens(), place / "traffic")
    return place / "plain", place / "traffic"


def _unicode_lines(count: int) -> list[str]:
    chooser = random.Random(2)
    ranges = ((32, 0x2FF), (0x370, 0x1FFF), (0x2000, 0x2BFF), (0x4E00, 0x9FFF), (0xE000, 0xF8FF), (0x1F300, 0x1FAFF))
    return ["".join(chr(chooser.randint(*chooser.choice(ranges))) for _ in range(20)) for _ in range(count)]


def _wrapped(tokenizer: Any, lines: list[str]) -> list[str]:
    controls = sorted(token.content for token in tokenizer.added_tokens_decoder.values())
    return [f"{a}{line}{b}" for a in controls for b in controls for line in lines]


def test_natural_language_keeps_its_ids(pair: tuple[Path, Path]) -> None:
    plain, traffic = load_auto(pair[0]), load_auto(pair[1])
    lines = sentences(LINES, seed=9) + _unicode_lines(LINES) + _wrapped(plain, sentences(20, seed=3))
    assert len(lines) > 2 * LINES
    assert plain(lines)["input_ids"] == traffic(lines)["input_ids"]
    raw_plain, raw_traffic = load_raw(pair[0]), load_raw(pair[1])
    assert [e.ids for e in raw_plain.encode_batch(lines)] == [e.ids for e in raw_traffic.encode_batch(lines)]


def test_native_entries_keep_their_ids_and_new_ones_follow(pair: tuple[Path, Path]) -> None:
    plain, traffic = load_auto(pair[0]), load_auto(pair[1])
    old, new = plain.get_vocab(), traffic.get_vocab()
    assert all(new[token] == index for token, index in old.items())
    assert sorted(new.values()) == list(range(len(old) + len(traffic_tokens())))
    assert list(traffic_ids(traffic)) == list(traffic_tokens())
    flags = {(t.lstrip, t.rstrip, t.single_word, t.normalized, t.special) for t in _added(traffic)}
    assert flags == {(False, False, False, False, False)}


def _added(tokenizer: Any) -> list[Any]:
    ids = set(traffic_ids(tokenizer).values())
    return [token for index, token in tokenizer.added_tokens_decoder.items() if index in ids]


def test_records_come_back_and_are_cut_by_longest_match(pair: tuple[Path, Path]) -> None:
    traffic = load_auto(pair[1])
    rows = records()[0]
    assert segmentation_agrees(traffic, rows)
    for row in rows[:100]:
        ids = traffic(encode(row), add_special_tokens=False)["input_ids"]
        assert record_text(traffic, ids) == encode(row)
        assert encode(decode(record_text(traffic, ids))) == encode(row)
    chooser = random.Random(4)
    for _ in range(200):  # unit strings that no codec wrote
        text = "".join(chooser.choice(UNITS) for _ in range(60))
        assert record_text(traffic, traffic(text, add_special_tokens=False)["input_ids"]) == text


def test_saved_again_it_is_the_same(pair: tuple[Path, Path], tmp_path: Path) -> None:
    traffic = load_auto(pair[1])
    traffic.save_pretrained(tmp_path / "again")
    again = load_auto(tmp_path / "again")
    texts = [encode(row) for row in records()[0][:40]] + sentences(200, seed=5)
    assert again(texts)["input_ids"] == traffic(texts)["input_ids"]


def test_a_record_takes_less_than_half_the_tokens(pair: tuple[Path, Path]) -> None:
    found = compare(load_auto(pair[0]), load_auto(pair[1]), records()[0])
    assert found.exact
    assert found.ratio >= 2.07  # the original's own figure for its packets
    assert found.byte_fallback > 0  # Unigram without byte fallback: one <unk> for all, nothing kept
    assert found.original_form > found.extended
    assert found.as_dict()["flows"] == 300


def test_a_long_run_takes_linear_time(pair: tuple[Path, Path]) -> None:
    traffic = load_auto(pair[1])
    run = UNITS[0] * 65536
    ids = traffic(run, add_special_tokens=False)["input_ids"]
    assert record_text(traffic, ids) == run  # a quadratic matcher would not return within the suite's time


def test_the_extension_writes_the_same_bytes_twice(tmp_path: Path) -> None:
    save_tokenizer("gpt2", tmp_path / "plain")
    reports = [extend(tmp_path / "plain", traffic_tokens(), tmp_path / name) for name in "ab"]
    assert reports[0] == reports[1]
    assert (tmp_path / "a" / TOKENIZER).read_bytes() == (tmp_path / "b" / TOKENIZER).read_bytes()
    assert reports[0].tokens_added == len(traffic_tokens())
    with pytest.raises(ArtifactError, match="plane-16"):
        extend(tmp_path / "a", traffic_tokens(), tmp_path / "twice")


def test_tokenizers_that_cannot_be_extended_safely_are_refused(tmp_path: Path) -> None:
    save_tokenizer("gpt2", tmp_path / "plain")
    state = json.loads((tmp_path / "plain" / TOKENIZER).read_text())
    entry = {**state["added_tokens"][0], "id": 1500, "content": "ENDOFTEXT"}
    (tmp_path / "plain" / TOKENIZER).write_text(json.dumps({**state, "added_tokens": [*state["added_tokens"], entry]}))
    with pytest.raises(ArtifactError, match="ENDOFTEXT"):
        extend(tmp_path / "plain", traffic_tokens(), tmp_path / "out")
    vocabulary = state["model"]["vocab"]
    state["model"]["vocab"] = {token: index + (index > 1000) for token, index in vocabulary.items()}
    (tmp_path / "plain" / TOKENIZER).write_text(json.dumps(state))
    with pytest.raises(ArtifactError, match="holes"):
        extend(tmp_path / "plain", traffic_tokens(), tmp_path / "out")
    (tmp_path / "plain" / TOKENIZER).write_text("{cut")
    with pytest.raises(ArtifactError):
        extend(tmp_path / "plain", traffic_tokens(), tmp_path / "out")
    with pytest.raises(ArtifactError):
        extend(tmp_path, traffic_tokens(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unused_ids_are_filled_and_native_ones_stay(tmp_path: Path) -> None:
    """o200k-style files leave ids free below their control tokens; the library would give the first new token a used id."""
    save_tokenizer("qwen", tmp_path / "plain")
    state = json.loads((tmp_path / "plain" / TOKENIZER).read_text())
    for entry in state["added_tokens"]:
        entry["id"] += 19
        state["model"]["vocab"][entry["content"]] = entry["id"]
    (tmp_path / "plain" / TOKENIZER).write_text(json.dumps(state))
    report = extend(tmp_path / "plain", traffic_tokens(), tmp_path / "traffic")
    old, new = load_raw(tmp_path / "plain").get_vocab(), load_raw(tmp_path / "traffic").get_vocab()
    assert max(old.values()) + 1 == len(old) + 19 == report.base_vocab
    assert all(new[token] == index for token, index in old.items())
    assert sorted(new.values()) == list(range(report.vocab_size))
    lines = [*sentences(300, seed=8), *_unicode_lines(300), "<|im_start|>a<|im_end|>", "<unused id 1600>"]
    assert load_auto(tmp_path / "plain")(lines)["input_ids"] == load_auto(tmp_path / "traffic")(lines)["input_ids"]
    assert segmentation_agrees(load_auto(tmp_path / "traffic"), records()[0][:50])


def test_a_class_that_adds_tokens_on_load_does_not_take_our_ids(tmp_path: Path) -> None:
    save_tokenizer("t5", tmp_path / "plain")
    config = json.loads((tmp_path / "plain/tokenizer_config.json").read_text())
    config.update(tokenizer_class="T5Tokenizer", extra_ids=10)
    (tmp_path / "plain/tokenizer_config.json").write_text(json.dumps(config))
    extend(tmp_path / "plain", traffic_tokens(), tmp_path / "traffic")
    plain, traffic = load_auto(tmp_path / "plain"), load_auto(tmp_path / "traffic")
    assert segmentation_agrees(traffic, records()[0][:50])
    lines = sentences(300, seed=8)
    assert plain(lines)["input_ids"] == traffic(lines)["input_ids"]


def test_control_surfaces_of_safe_letters_are_named() -> None:
    assert forgeable({"<s>", "EOS", "[INST]", "a b", ""}) == ["EOS", "a b"]


def test_learning_keeps_all_units_and_is_deterministic() -> None:
    texts = [encode(row) for row in records()[0]]
    tokens = learn(texts, 900)
    assert tokens == learn(iter(texts), 900)
    assert tokens[: len(UNITS)] == list(UNITS)
    assert len(set(tokens)) == len(tokens) <= 900
    assert max(map(len, tokens)) <= MAX_TOKEN_UNITS
    assert not any(char in STARTS for token in tokens for char in token[1:])
    larger = learn(texts, 1000)
    assert _cost(larger, texts) <= _cost(tokens, texts) < _cost(list(UNITS), texts)


def _cost(tokens: list[str], texts: list[str]) -> int:
    matcher = Matcher(tokens)
    return sum(len(matcher.segment(text)) for text in texts)


def test_a_cut_never_depends_on_what_came_before() -> None:
    matcher = Matcher(traffic_tokens())
    for row in records()[0][:100]:
        text = encode(row)
        assert "".join(words(text)) == text
        assert [piece for word in words(text) for piece in matcher.segment(word)] == matcher.segment(text)


def test_learning_holds_a_bounded_sample() -> None:
    texts = (encode(row) for _ in range(30) for row in records()[0])
    tokens = learn(texts, 800, sample_units=5000)
    assert tokens[: len(UNITS)] == list(UNITS)
    with pytest.raises(UsageError):
        learn([], 10)
    assert learn([], 2000) == list(UNITS)


def test_every_record_has_the_same_chance_and_the_bound_is_hard() -> None:
    texts = [chr(0x100000 + k % 256) * (1 + k % 7) for k in range(3000)]
    taken = [_sample(texts, 500, seed) for seed in range(40)]
    assert all(400 < sum(len(word) * n for word, n in counts.items()) <= 500 for counts in taken)
    early = sum(n for counts in taken for word, n in counts.items() if ord(word[0]) < 0x100080)
    assert 0.4 < early / sum(counts.total() for counts in taken) < 0.6
    whole = _sample(texts, 10**6, 0)
    assert sum(whole.values()) == 3000


def test_a_vocabulary_of_32k_of_the_qwen_kind(tmp_path: Path) -> None:
    """The other kinds at this size: `recipes/tokenizers`, `make soak`."""
    sources = sorted(Path(json.__file__).parents[1].glob("*.py"))
    lines = [line for path in sources for line in path.read_text(encoding="utf-8", errors="ignore").splitlines() if line.strip()]
    recipe.save(recipe.pipeline("qwen", lines, 32768), "qwen", tmp_path / "plain")
    report = extend(tmp_path / "plain", traffic_tokens(), tmp_path / "traffic")
    assert report.base_vocab >= 32768
    plain, traffic = load_auto(tmp_path / "plain"), load_auto(tmp_path / "traffic")
    mixed = lines[:: len(lines) // 4000] + _unicode_lines(1000)
    assert plain(mixed)["input_ids"] == traffic(mixed)["input_ids"]
    assert segmentation_agrees(traffic, records()[0])
    assert compare(plain, traffic, records()[0]).ratio >= 2.07


def test_the_plain_form_says_what_the_record_says() -> None:
    text = plain_text(records()[0][0])
    assert text.isascii()
    assert "16 03 01" in text


def test_a_base_of_a_family_shares_the_tokenizer_folder(tmp_path: Path) -> None:
    from trafficllm.model.base.extend import make_traffic_base

    save_tokenizer("qwen", tmp_path / "plain", chat=True)
    save_model(tmp_path / "plain", "Qwen3Config", head_dim=8)
    make_traffic_base(tmp_path / "plain", traffic_tokens(), tmp_path / "traffic")
    traffic = load_auto(tmp_path / "traffic")
    units = encode(records()[0][0])
    chat = traffic.apply_chat_template([{"role": "user", "content": f"What is {units}?"}], tokenize=True, return_dict=False)
    alone = traffic(units, add_special_tokens=False)["input_ids"]
    assert any(chat[k : k + len(alone)] == alone for k in range(len(chat)))


def test_a_class_that_takes_its_added_tokens_from_the_configuration(tmp_path: Path) -> None:
    """Released Llama-2 and Qwen folders list added tokens in tokenizer_config.json; their classes forget all others on load."""
    save_tokenizer("llama2", tmp_path / "plain")
    path = tmp_path / "plain" / "tokenizer_config.json"
    state = json.loads((tmp_path / "plain" / TOKENIZER).read_text())
    controls = {str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in state["added_tokens"]}
    config = {**json.loads(path.read_text()), "tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": controls, "legacy": False}
    path.write_text(json.dumps(config))
    extend(tmp_path / "plain", traffic_tokens(), tmp_path / "traffic")
    plain, traffic = load_auto(tmp_path / "plain"), load_auto(tmp_path / "traffic")
    assert type(traffic).__name__ == "LlamaTokenizer"
    assert list(traffic_ids(traffic)) == list(traffic_tokens())
    lines = sentences(300, seed=5)
    assert plain(lines)["input_ids"] == traffic(lines)["input_ids"]
    unit = encode(records()[0][0])
    assert record_text(traffic, traffic(unit, add_special_tokens=False)["input_ids"]) == unit


def test_a_file_with_private_use_pieces_of_its_own(tmp_path: Path) -> None:
    """Gemma 3 has four plane-16 pieces, two of which our units use: they become unreachable, everything else stays."""
    save_tokenizer("gemma", tmp_path / "plain")
    path = tmp_path / "plain" / TOKENIZER
    state = json.loads(path.read_text())
    vocabulary = state["model"]["vocab"]
    for letter in (chr(0x100083), chr(0x10FC01)):
        vocabulary[letter] = len(vocabulary)
    path.write_text(json.dumps(state))
    before = load_raw(tmp_path / "plain").get_vocab()
    extend(tmp_path / "plain", traffic_tokens(), tmp_path / "traffic")
    after = load_auto(tmp_path / "traffic")
    gone = {letter for letter in before if letter in (chr(0x100083), chr(0x10FC01))}
    assert len(gone) == 2
    assert all(after.get_vocab()[token] == index for token, index in before.items() if token not in gone)
    assert list(traffic_ids(after)) == list(traffic_tokens())
    unit = encode(records()[0][0])
    assert record_text(after, after(unit, add_special_tokens=False)["input_ids"]) == unit
