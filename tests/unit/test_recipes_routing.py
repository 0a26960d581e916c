"""A language base for stage 1, as a probe of frozen states and tuned: few lines, a tiny base, every part scored, nothing done twice."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import infer_samples
import pytest
import torch

from trafficllm.core.files import read_json
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import NONE
from trafficllm.model.adapter import lora
from trafficllm.model.base.load import load_base
from trafficllm.model.tuning import run
from trafficllm.model.tuning.collate import answer_loss, collate
from trafficllm.model.tuning.forward import answer_output
from trafficllm.records.instructions import Instruction, load

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "instructions"


@pytest.fixture(name="probed")
def _probed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    names = ("probed", "tuned", "routed", "left_out", "wording", "kinds")  # other folders of recipes have modules of these names
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(RECIPE))
    yield importlib.import_module("probed")
    for name in names:
        sys.modules.pop(name, None)


def test_a_probe_gives_a_question_for_two_tasks_to_both(probed: Any) -> None:
    four = [Instruction("one", ("MTD",)), Instruction("both", ("MTD", "EAC")), Instruction("other", ("EAC",)), Instruction("no", ())]
    vectors = torch.eye(4)
    p = probed.probed(vectors.repeat(500, 1), four * 500, vectors)
    assert p.shape == (4, len(probed.LABELS))
    assert torch.tensor(p.sum(1)).allclose(torch.ones(4, dtype=torch.float64))
    one, both, _, none = p
    mtd, eac = probed.LABELS.index("MTD"), probed.LABELS.index("EAC")
    assert one.argmax() == mtd
    assert none.argmax() == probed.LABELS.index(NONE)
    assert both[mtd] == pytest.approx(both[eac], abs=0.05)
    assert set(both.argsort()[-2:].tolist()) == {mtd, eac}


def test_every_part_is_scored_and_states_are_computed_once(probed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    infer_samples.write_base(tmp_path / "base", seed=0)
    styles = {style for fold in probed.left_out.FOLDS[:2] for style in fold}
    unread = [row for row in load("train") if row.author in probed.left_out.UNREAD and row.style in styles][::60]
    few = {"train": load("train")[::400] + unread, "heldout": load("heldout")[::100]}
    monkeypatch.setattr(probed, "load", few.__getitem__)
    monkeypatch.setattr(probed.left_out, "FOLDS", probed.left_out.FOLDS[:2])
    monkeypatch.setattr(sys, "argv", ["probed.py", "--base", str(tmp_path / "base"), "--name", "tiny", "--work", str(tmp_path / "work")])
    sys.argv += ["--out", str(tmp_path / "figures.json")]
    probed.main()
    body = read_json(tmp_path / "figures.json")["tiny"]
    assert body["lines"] == len(few["train"])
    for way in ("probe", "probe and words"):
        assert set(body[way]) == {"held-out authors", "exam", "exam, later part", "kinds left out"}
        assert body[way]["held-out authors"]["n"] == len(few["heldout"])
        asked = sum(count for _, count in body[way]["kinds left out"]["by_kind"].values())
        assert asked == sum(row.author in probed.left_out.UNREAD and row.style in styles for row in few["train"])
    assert body["probe and words"]["exam"]["accuracy"] > body["probe"]["exam"]["accuracy"], "a tiny base knows nothing, words do"
    monkeypatch.setattr(probed, "states", None)
    probed.main()
    assert read_json(tmp_path / "figures.json")["tiny"] == body


def test_a_router_is_tuned_once_and_reads_what_questions_share_once_a_step(
    probed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = importlib.import_module("tuned")
    infer_samples.write_base(tmp_path / "base", seed=0)
    few = {"train": load("train")[::400], "heldout": load("heldout")[::200]}
    monkeypatch.setattr(tuned, "load", few.__getitem__)
    words = ["--base", str(tmp_path / "base"), "--name", "tiny", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "figures.json")]
    monkeypatch.setattr(sys, "argv", ["tuned.py", *words, "--every", "1", "--asked-every", "2", "--whole", "--steps", "2"])
    tuned.main()
    body = read_json(tmp_path / "figures.json")[tuned.KEY]["tiny"]
    assert (body["lines"], body["tuning"]["steps"]) == (len(few["train"]), 2)
    for way in ("tuned", "tuned and words"):
        counts = [body[way][part]["n"] for part in ("held-out authors", "held-out authors, all lines")]
        assert counts == [len(few["heldout"][::2]), len(few["heldout"])]
    assert body["tuned and words"]["exam"]["accuracy"] > body["tuned"]["exam"]["accuracy"], "a tiny base knows nothing, words do"
    tuned.main()
    assert read_json(tmp_path / "figures.json")[tuned.KEY]["tiny"] == body, "the finished run is not done again"

    base = load_base(str(tmp_path / "base"), dtype="float32")
    questions = tuned.instruct_data(tuned.TASKS, few["train"])
    prefix = tuned._prefix(base, questions.prompts)
    assert prefix
    model = lora.attach_for(base.model, TuneOptions(r=2))
    found = []
    for shared in (contextlib.nullcontext(), tuned.Shared(base, prefix)):
        with shared:
            rows = run.Rows(questions, run.Encoder(base.tokenizer), TuneOptions())
            batch = collate([rows(k, 0) for k in (0, 3, 9)], int(base.tokenizer.pad_token_id))
            loss = answer_loss(answer_output(model, batch).logits, batch, full=0.1)
        model.zero_grad()
        loss.backward()
        found.append([loss.detach(), *(value.grad for value in lora.trainable(model).values())])
    assert len(batch["input_ids"][0]) == max(len(rows.fixed[k]) for k in (0, 3, 9)) + batch["target"].shape[1] - 1
    for whole, apart in zip(*found, strict=True):
        assert torch.allclose(whole, apart, atol=1e-5)
