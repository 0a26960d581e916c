"""The wording model: what it reads, that its file is sound, and that it is heard beside the LLM."""

from __future__ import annotations

import json
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import infer_samples as samples
import numpy as np
import pytest

from trafficllm.core.errors import ArtifactError
from trafficllm.core.types import NONE
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.router import wording
from trafficllm.infer.router.phrases import KINDS, concepts, glossary, in_concepts, in_english, normalised, parts, phrases
from trafficllm.infer.router.router import Router
from trafficllm.infer.router.wording import FACTS, SEVERAL, Wording, shipped
from trafficllm.lifecycle.adapters.learn_router import exact
from trafficllm.lifecycle.adapters.learn_wording import fit, targets
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import load_tasks
from trafficllm.records.instructions import load
from trafficllm.records.prompts import QUESTION_LIMIT

ROOT = Path(__file__).resolve().parents[2]
TASKS = sorted(load_tasks())
NASTY = ("", " ", "\x00", "?", "🦠" * 3000, "\ud800x", "ﷺ" * 2000, "a" * 100_000, "\U00100000", "0x" + "f" * 5000, "1.2" * 2000, "{" * 5000)


@pytest.fixture(scope="module", name="engine")
def _engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    place: Path = tmp_path_factory.mktemp("wording")
    samples.write_base(place / "base")
    return Engine(load_base(place / "base", dtype="float32"))


def test_the_shipped_file_is_sound_and_small() -> None:
    model = shipped()
    assert model.columns == (*TASKS, NONE, SEVERAL, FACTS)
    folder = ROOT / "src" / "trafficllm" / "data" / "routing"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    assert model.facts["glossary_sha256"] == wording.glossary_hash(), "the glossary changed: run recipes/instructions/wording.py"
    for kind in KINDS:
        table = model.tables[kind]
        assert len(table.keys) > 500
        assert np.isfinite(table.idf).all()
        assert (table.scale > 0).all()


@pytest.mark.parametrize("text", NASTY)
def test_any_text_has_finite_scores(text: str) -> None:
    z = shipped().log_odds([text])
    assert z.shape == (1, len(TASKS) + 3)
    assert np.isfinite(z).all()
    assert len(normalised(text)) <= 12 * QUESTION_LIMIT


def test_of_a_long_question_only_the_beginning_is_read() -> None:
    text = "is this malware 4500aabb ip.ttl: 64, 恶意软件 " * 4000
    assert np.array_equal(shipped().log_odds([text]), shipped().log_odds([text[:QUESTION_LIMIT]]))
    assert not np.array_equal(shipped().log_odds([text]), shipped().log_odds([text[: QUESTION_LIMIT // 2]]))


def test_pasted_parts_and_numbers_are_one_word() -> None:
    packet = "<packet>: frame.len: 54, ip.ttl: 64, ip.src: 10.0.0.1, tcp.payload: 9c:ef:3c:1a:92:2c"
    assert normalised(f"Is this a bot? {packet}") == normalised("is this a bot? <packet>ip.ttl: 3, tcp.srcport: 80")
    assert normalised("make 20 flows") == normalised("make 5,000 flows")
    assert "tcp.dstport" in normalised("read tcp.dstport please")


def test_other_languages_get_english_words() -> None:
    assert in_english("这是恶意软件吗") == in_english(normalised("这是恶意软件吗")) != ""
    assert "malware" in in_english("악성코드가 있나요")
    assert in_english("") == ""
    terms = [term for found in glossary().values() for term, _ in found]
    assert all(term == unicodedata.normalize("NFKC", term).lower() and term.strip() for term in terms)


def test_words_that_mean_the_same_are_one_concept() -> None:
    ask = ("Behave like Skype and write packets", "act as gmail, produce packets")
    assert in_concepts(normalised(ask[0])) == in_concepts(normalised(ask[1])) == ["be", "named", "make", "traffic"]
    assert in_concepts("tcp.dstport of the synthesised c2 flow") == ["header", "make", "botnet", "traffic"]
    assert in_concepts("qwxz") == []
    whole, begins = concepts()
    assert all(term == unicodedata.normalize("NFKC", term).lower() for term in (*whole, *begins))
    assert not [term for term in begins if len(term) < 3]
    assert all(in_concepts(term) == [concept] for term, concept in whole.items() if len(term.split()) > 1)


def test_two_concepts_count_in_either_order() -> None:
    one, other = (phrases(text)["concepts"][0] for text in ("zeus? generate!", "generate zeus"))
    assert len(np.intersect1d(one, other)) == 3, "both, and the pair"
    assert len(one) == len(other) == 4, "and the neighbours in their order"


def test_a_model_from_before_there_were_concepts_answers_by_its_words(tmp_path: Path) -> None:
    columns = ("MTD", NONE)
    model = fit(["is this malware?", "hello there"] * 3, targets([["MTD"], []] * 3, columns), columns)
    before = Wording(model.columns, {kind: model.tables[kind] for kind in ("words", "characters")}, model.bias, model.facts)
    wording.write(before, tmp_path)
    again = wording.read(tmp_path)
    assert set(again.tables) == {"words", "characters"}
    z = again.log_odds(["is this malware?"])[0]
    assert z[0] > z[1]


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("how many packets are there?", True),
        ("top talkers", True),
        ("which TLS versions occur?", True),
        ("when did it begin?", True),
        ("Wie viele Pakete sind das?", True),
        ("which hosts are infected?", False),
        ("what is the ttl of this packet?", False),
        ("write a poem", False),
    ],
)
def test_facts_of_a_capture_are_asked_for_or_not(engine: Engine, text: str, asked: bool) -> None:
    """No task answers them: they are read and not judged."""
    route = Router(engine, "", TASKS, wording=(shipped(),)).combined(_even(len(TASKS) + 1), [text])[0]
    assert route.facts is not None
    assert (route.facts >= 0.5) is asked
    assert not (asked and route.tasks)
    assert route.row()["facts"] == route.facts


def test_parts_of_a_question_are_heard_one_by_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word model that never says "several", as where no list of requests was taught."""
    assert parts("find the trojan and name the apps") == ["find the trojan", "name the apps"]
    assert parts("is this malware") == parts("?? ; . and ") == []
    assert len(parts("a word, " * 1000)) == 6
    model = shipped()
    place = model.columns.index(SEVERAL)
    bias = model.bias.copy()
    bias[place] = -3.0
    tables = {kind: replace(table, scale=np.where(np.arange(len(bias)) == place, 0, table.scale)) for kind, table in model.tables.items()}
    router = Router(engine, "", TASKS, wording=(Wording(model.columns, tables, bias, model.facts),))
    text = "check the DoH traffic for tunnels and generate 20 flows of Zeus malware"
    assert {name for name, _ in router.combined(_even(len(TASKS) + 1), [text])[0].tasks} == {"MDD", "MTG"}
    monkeypatch.setattr("trafficllm.infer.router.router.parts", lambda _: [])
    assert len(router.combined(_even(len(TASKS) + 1), [text])[0].tasks) == 1


def test_without_wording_nothing_is_said_of_facts(engine: Engine) -> None:
    assert "facts" not in Router(engine, "", TASKS).route("how many packets are there?").row()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Behave like the Spotify app and write its packets", {"EAG"}),
        ("synthesise a C2 flow", {"BTG"}),
        ("which app runs inside the tunnel?", {"EVD"}),
        ("has Instagram's traffic changed since training?", {"CD"}),
        ("who is the most suspicious host?", {"MTD"}),
        ("rcode", {"FIELD"}),
        ("the word malware bores me", set()),
    ],
)
def test_kinds_of_question_that_were_taken_for_others(engine: Engine, text: str, wanted: set[str]) -> None:
    route = Router(engine, "", TASKS, wording=(shipped(),)).combined(_even(len(TASKS) + 1), [text])[0]
    assert {name for name, _ in route.tasks} == wanted


def test_the_same_corpus_gives_the_same_bytes(tmp_path: Path) -> None:
    rows, columns = load("train")[::60], ("MTD", "EAC", NONE)
    for name in ("one", "two"):
        model = fit([row.text for row in rows], targets([row.tasks for row in rows], columns), columns)
        wording.write(model, tmp_path / name)
    files = (wording.WEIGHTS, wording.TOLD)
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    again = wording.read(tmp_path / "one")
    texts = [row.text for row in rows[:20]]
    assert np.allclose(again.log_odds(texts), model.log_odds(texts), atol=1e-3)


def _broken(folder: Path, how: str) -> None:
    facts = json.loads((folder / wording.TOLD).read_text())
    if how == "columns":
        facts["columns"].append("MORE")
        (folder / wording.TOLD).write_text(json.dumps(facts))
    elif how == "cut":
        data = (folder / wording.WEIGHTS).read_bytes()
        (folder / wording.WEIGHTS).write_bytes(data[: len(data) // 2])
    elif how == "missing":
        (folder / wording.WEIGHTS).unlink()
    else:
        (folder / wording.TOLD).write_text("[]")


@pytest.mark.parametrize("how", ["columns", "cut", "missing", "list"])
def test_a_broken_file_is_refused(tmp_path: Path, how: str) -> None:
    columns = ("MTD", NONE)
    wording.write(fit(["malware?", "hello"] * 3, targets([["MTD"], []] * 3, columns), columns), tmp_path)
    _broken(tmp_path, how)
    with pytest.raises(ArtifactError, match="wording"):
        wording.read(tmp_path)


def test_it_is_heard_beside_a_model_that_knows_nothing(engine: Engine) -> None:
    """Held-out authors: random weights route by chance, the combination by words."""
    rows = load("heldout")[::30]
    router = Router(engine, "", TASKS, wording=(shipped(),))
    alone, heard = zip(*router.both([row.text for row in rows]), strict=True)
    assert sum(exact(rows, heard)) / len(rows) > sum(exact(rows, alone)) / len(rows) + 0.05
    assert sum(exact(rows, heard)) / len(rows) > 0.6
    bare = list(Router(engine, "", TASKS).stream([row.text for row in rows[:9]]))
    assert [[name for name, _ in route.tasks] for route in bare] == [[name for name, _ in route.tasks] for route in alone[:9]]


def _even(labels: int) -> np.ndarray:
    return np.full((1, labels), 1 / labels)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("check this capture for malware and tell me whether the host is part of a botnet", {"MTD", "BND"}),
        ("is this VPN or Tor, and what is the user doing?", {"EVD", "TBD"}),
        ("prüfe auf Malware und ob der Rechner zu einem Botnetz gehört", {"MTD", "BND"}),
        ("generate 20 flows of Zeus malware", {"MTG"}),
        ("what is the weather tomorrow?", set()),
        ("इस ट्रैफ़िक में मैलवेयर है क्या?", {"MTD"}),
    ],
)
def test_several_tasks_and_none(engine: Engine, text: str, wanted: set[str]) -> None:
    """Where the LLM is undecided the words alone choose."""
    router = Router(engine, "", TASKS, wording=(shipped(),))
    assert {name for name, _ in router.combined(_even(len(TASKS) + 1), [text])[0].tasks} == wanted


def test_a_task_without_a_column_is_the_models_own(engine: Engine) -> None:
    router = Router(engine, "", ["MTD", "MINE"], wording=(shipped(),))
    sure = router.combined(np.array([[0.0, 1.0, 0.0]]), ["qwxz"])[0]
    assert sure.tasks[0][0] == "MINE"
    assert sure.tasks[0][1] == pytest.approx(0.999)
    own = fit(["run MINE on it", "malware?", "hello there"] * 3, targets([["MINE"], [], []] * 3, ("MINE",)), ("MINE",))
    found = Router(engine, "", ["MTD", "MINE"], wording=(own,)).combined(_even(3), ["run MINE on it"])[0]
    assert [name for name, _ in found.tasks] == ["MINE"]


def test_a_question_for_a_task_that_is_not_there_is_none(engine: Engine) -> None:
    router = Router(engine, "", ["MTG", "EAG"], wording=(shipped(),))
    assert router.combined(_even(3), ["is the host part of a botnet?"])[0].tasks == ()


def test_phrases_are_the_same_everywhere() -> None:
    """Stored keys are only as good as the hash: these numbers were written down once."""
    keys = phrases("is it Tor?")["words"][0]
    assert keys.dtype == np.uint32
    assert keys.tolist() == KNOWN


KNOWN = [68434575, 602803358, 1329895131, 1639970249, 2813913073]


def test_the_recipe_knows_no_held_out_author(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "instructions"))
    sys.modules.pop("wording", None)
    import wording as recipe  # type: ignore[import-not-found]

    rows = load("train")[::80]
    model: Wording = recipe.make(rows, folds=True)
    assert model.columns == shipped().columns
    told = model.facts["out_of_fold"]
    assert 0.3 < told["accuracy"] < 1
    assert "heldout" not in Path(recipe.__file__).read_text(encoding="utf-8").replace("held-out", "")
