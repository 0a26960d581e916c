"""The comparison of decision 0007 in small: tiny arms, all stages, nothing done twice, the same flows for every arm."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import evaluate_samples
import infer_samples
import numpy as np
import pytest
import torch
from model_samples import save_model, save_tokenizer, traffic_tokens

from trafficllm.core.files import read_json, write_json
from trafficllm.evaluate.baselines import frozen
from trafficllm.lifecycle.studies.openworld import FrozenReadout
from trafficllm.model.base.load import load_base
from trafficllm.model.tokenizer.extend import load_auto, traffic_ids

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
MODULES = ("arms", "comparison", "comparison_page", "left_out", "openworld", "probing", "controls")


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> Iterator[SimpleNamespace]:
    for folder in ("results", "llm"):
        sys.path.insert(0, str(RECIPES / folder))
    before = list(sys.path)
    with evaluate_samples.few_trees():
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path[:] = [path for path in before if path not in (str(RECIPES / "llm"), str(RECIPES / "results"))]


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory, captures: Path) -> Path:
    """Three families with a reserved capture each, two of them of two sources; tiny bases in the place of the arms."""
    root = tmp_path_factory.mktemp("comparison")
    listed, origins = "task,label,file,part,why\n", ["file,origin"]
    for label in ("Geodo", "Neris", "Virut"):
        (root / "data" / "MTD_ustc2016" / label).mkdir(parents=True)
        for number in range(4):
            name = f"MTD_ustc2016/{label}/{label}_0{number}.pcap"
            (root / "data" / name).symlink_to(captures / "MTD" / label / f"{label}_0{number}.pcap")
            origins.append(f"{name},lab{number % 2}@12 x")
        listed += f"MTD_ustc2016,{label},MTD_ustc2016/{label}/{label}_03.pcap,all,test\n"
    for number, label in enumerate(("FTP", "Gmail", "SMB")):
        (root / "data" / "everyday" / label).mkdir(parents=True)
        for file in sorted((captures / "MTD" / label).iterdir())[:2]:
            (root / "data" / "everyday" / label / file.name).symlink_to(file)
            origins.append(f"everyday/{label}/{file.name},home{number}@12 x")
    (root / "data" / "RESERVED.csv").write_text(listed)
    (root / "data" / "manifest.csv").write_text("\n".join(origins))
    for seed, name in enumerate(("language", "runs/arms/scratch")):
        infer_samples.write_base(root / name, seed=seed)
    return root


def _small(recipe: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = recipe.comparison.PLAN
    monkeypatch.setitem(plan, "readout", plan["readout"] | {"tasks": ["MTD"], "pool": 24, "judged": 30, "shots": [3, 0], "draws": 2})
    monkeypatch.setitem(plan, "lora", plan["lora"] | {"tasks": ["MTD"], "shots": 3, "steps": {"MTD": 2}, "rank": 2, "batch_tokens": 256})
    monkeypatch.setitem(plan, "sources", plan["sources"] | {"studies": ["small"], "folds": 0, "most": 12})
    small = {"title": "Malware", "data": ["MTD_ustc2016"], "background": [], "folds": 0}
    monkeypatch.setattr(recipe.openworld, "STUDIES", {"small": small})
    monkeypatch.setitem(recipe.openworld.PLAN, "everyday", ["everyday"])


def test_every_stage_once(
    recipe: SimpleNamespace, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _small(recipe, monkeypatch)
    words = ["--data", str(place / "data"), "--language", str(place / "language"), "--out", str(place / "runs")]
    words += ["--arms", "language", "scratch"]

    def all_stages() -> None:
        assert recipe.comparison.main(["readout", *words]) == 0
        assert recipe.comparison.main(["lora", *words]) == 0
        assert recipe.comparison.main(["sources", *words]) == 0
        assert recipe.comparison.main(["page", *words, "--results", str(place / "out")]) == 0

    all_stages()
    body = read_json(place / "out" / "llm_comparison.json")
    strict = body["profiles"]["strict"]
    figures = strict["figures"]["MTD"]
    assert set(figures) == {"language", "scratch", "lightgbm", "random_forest"}
    assert set(figures["language"]) == {"linear", "knn", "lora"}
    assert figures["language"]["linear"]["3"]["runs"] == 2
    assert all(0 <= one["ci95"][0] <= one["macro_f1"] <= 1 for ways in figures.values() for by in ways.values() for one in by.values())
    row = next(one for one in strict["differences"] if (one["other"], one["way"]) == ("scratch", "lora"))
    ours, other = (figures[arm]["lora"]["3"]["macro_f1"] for arm in ("language", "scratch"))
    assert row["mean"]["difference"] == pytest.approx(ours - other, abs=2e-4)
    answers = {arm: read_json(place / "runs" / "lora" / f"strict-MTD-{arm}-0.0005-0.json") for arm in ("language", "scratch")}
    assert answers["language"]["tokens"] == answers["scratch"]["tokens"], "the same tokens seen"
    reserved = strict["judged"]["MTD"]
    assert reserved["captures"] == 3, "reserved captures alone are judged"
    left = body["left_out_sources"][0]
    assert left["sources"] == {"harmless": 3, "malicious": 2}
    (ours, other), less = (left["arms"][arm]["auroc"][0] for arm in ("language", "scratch")), left["language_less"]["scratch"]["auroc"]
    assert less[0] == pytest.approx(ours - other, abs=1e-9)
    assert less[1] <= less[0] <= less[2]
    page = (place / "out" / "llm_comparison.md").read_text()
    assert "Pretraining on language" in page
    assert "| (b) scratch, lora | " in page

    for name in ("compute", "_tuned", "_trees"):
        monkeypatch.setattr(recipe.comparison, name, None)
    capsys.readouterr()
    all_stages()
    assert (place / "out" / "llm_comparison.md").read_text() == page


def test_the_arms(recipe: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tokenizer("llama3", tmp_path / "plain")
    save_model(tmp_path / "plain", "LlamaConfig", tie_word_embeddings=True)
    monkeypatch.setitem(recipe.arms.PLAN, "training", recipe.arms.PLAN["training"] | {"steps": 2, "init": "mean", "held_blocks": 4})
    tokens = traffic_tokens()
    recipe.arms.make_traffic_base(tmp_path / "plain", tokens, tmp_path / "language", name="language")
    chooser = np.random.default_rng(0)
    for name in ("traffic", "replay", "held"):
        np.save(tmp_path / f"{name}.npy", chooser.integers(3, 40, (8, 16)).astype(np.uint32))
    places = recipe.arms.make(tmp_path / "plain", tmp_path / "language", tmp_path, tmp_path / "arms", tokens=tokens)
    facts = read_json(tmp_path / "arms" / "scratch-trained.json")
    assert (facts["tokens"], facts["curve"][0]["step"]) == (2 * 4 * 16, 0)
    weights = {name: load_base(places[name], dtype="float32").model.state_dict() for name in ("random", "scratch", "untrained", "shuffled")}
    table = "model.embed_tokens.weight"
    assert not torch.equal(weights["random"]["model.layers.0.mlp.up_proj.weight"], weights["scratch"]["model.layers.0.mlp.up_proj.weight"])
    assert weights["random"][table].abs().amax(dim=1).min() > 0, "no row of zeros, the padding token's neither"
    ids = list(traffic_ids(load_auto(places["shuffled"])).values())
    native = min(ids)
    assert torch.equal(weights["untrained"][table][:native].bfloat16(), weights["shuffled"][table][:native].bfloat16())
    assert not torch.equal(weights["untrained"][table][ids].bfloat16(), weights["shuffled"][table][ids].bfloat16())


def test_the_quick_probe_is_the_probe(recipe: SimpleNamespace) -> None:
    chooser = np.random.default_rng(1)
    y = np.array([0, 1, 2] * 10)
    centres = chooser.normal(size=(3, 200))
    train, judged = ((centres[k] + 4 * chooser.normal(size=(len(k), 200))).astype(np.float32) for k in (y, np.tile(y, 3)))
    labels = ("a", "b", "c")
    side = frozen.Side(train, [labels[k] for k in y])
    ways = (("frozen_linear", recipe.probing.linear, frozen.STRENGTHS), ("frozen_knn", recipe.probing.knn, frozen.NEIGHBOURS))
    for name, quick, settings in ways:
        known = frozen.probe(name, labels, side, None, judged)[0].argmax(axis=1)
        assert 0 < (known == np.tile(y, 3)).mean() < 1, "neither trivial nor hopeless"
        assert (quick(train, y, judged, settings) == known).mean() > 0.98


def test_the_probe_of_left_out_sources_is_the_readout_of_the_open_world(recipe: SimpleNamespace) -> None:
    chooser = np.random.default_rng(2)
    positive = np.array([0, 1] * 15)
    vectors = (chooser.normal(size=(2, 60))[positive] + 2 * chooser.normal(size=(30, 60))).astype(np.float32)
    weights = chooser.uniform(0.2, 2.0, 30)
    for width in (60, 10):  # more columns than rows, and fewer
        own = np.asarray(vectors[:, :width], dtype=np.float64)
        whole = FrozenReadout.fit_score(SimpleNamespace(), own[:20], positive[:20], weights[:20], own[20:])  # type: ignore[arg-type]
        quick = recipe.left_out.Probe(vectors).fit_score(own[:20], positive[:20], weights[:20], own[20:])
        assert quick == pytest.approx(whole, abs=0.02)
        assert np.ptp(whole) > 0.5


def test_the_verdict_needs_margin_and_interval(recipe: SimpleNamespace, tmp_path: Path) -> None:
    plan = recipe.comparison.PLAN | {"lora": {"tasks": ["MTD"], "shots": 20}, "readout": {"shots": [20]}}
    groups = [f"capture{k // 10}" for k in range(60)]
    truth = ["a" if k % 2 else "b" for k in range(60)]
    for kind in ("judged", "lora"):
        (tmp_path / kind).mkdir()
    facts = {"labels": ["a", "b"], "truth": truth, "groups": groups, "content": list(range(60))}
    write_json(tmp_path / "judged" / "strict-MTD.json", {**facts, "pool": 9, "pool_contents": 9, "judged": 60})
    right = [0 if label == "a" else 1 for label in truth]
    worse = [1 - k if place % 10 < 2 else k for place, k in enumerate(right)]
    unlike = [1 - k if place >= 55 else k for place, k in enumerate(right)]
    for other, word in ((worse, "helped"), (unlike, "did not help"), (right, "did not help")):
        for arm, answers in (("language", right), ("scratch", other)):
            write_json(tmp_path / "lora" / f"strict-MTD-{arm}-0.002-0.json", {"answers": answers, "tokens": 9, "processor_seconds": 1.0})
        assert f"Pretraining on language {word} here" in recipe.comparison_page.verdict(recipe.comparison_page.body_of(tmp_path, plan))
    unfinished = recipe.comparison_page.body_of(tmp_path, plan | {"lora": {"tasks": ["MTD", "EAC"], "shots": 20}})
    assert "not there yet" in recipe.comparison_page.verdict(unfinished)
