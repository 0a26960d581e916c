"""The router: which tasks a question's probabilities choose, and that only the question takes part."""

from __future__ import annotations

from pathlib import Path

import infer_samples as samples
import numpy as np
import pytest

from trafficllm.core.errors import UsageError
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.router.router import Router
from trafficllm.model.base.load import load_base
from trafficllm.records import prompts

TASKS = ("MTD", "EAC", "MTG")


@pytest.fixture(scope="module", name="router")
def _router(tmp_path_factory: pytest.TempPathFactory) -> Router:
    place: Path = tmp_path_factory.mktemp("router")
    samples.write_base(place / "base")
    samples.write_adapter(place / "base", place / "adapter", seed=1)
    engine = Engine(load_base(place / "base", dtype="float32"))
    engine.add_adapter("router", place / "adapter")
    return Router(engine, "router", TASKS)


def test_probabilities_cover_all_tasks_and_none(router: Router) -> None:
    text = "Is any of this malware, and which family?"
    *tasks, none = router.engine.score([prompts.routing(text)], (*TASKS, "none"), adapter="router").probabilities[0].tolist()
    assert sum(tasks) + none == pytest.approx(1)
    likely = sorted(zip(TASKS, tasks, strict=True), key=lambda pair: -pair[1])
    route = router.route(text)
    assert route.none == pytest.approx(none, abs=1e-4)
    expected = [] if none >= likely[0][1] else [pair for k, pair in enumerate(likely) if k == 0 or pair[1] >= router.threshold]
    assert [name for name, _ in route.tasks] == [name for name, _ in expected]
    assert [p for _, p in route.tasks] == pytest.approx([p for _, p in expected], abs=1e-4)


def test_a_stream_is_answered_in_order(router: Router) -> None:
    texts = [f"question {k} about DNS" for k in range(9)]
    streamed = list(router.stream(iter(texts)))
    assert len(streamed) == 9
    for text, route in zip(texts, streamed, strict=True):
        one = router.route(text)
        assert [name for name, _ in one.tasks] == [name for name, _ in route.tasks]
        assert np.isclose(one.none, route.none, atol=1e-4)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.9, 0.05, 0.03, 0.02], ["MTD"]),
        ([0.3, 0.5, 0.1, 0.1], ["EAC", "MTD"]),
        ([0.3, 0.1, 0.2, 0.4], []),
        ([0.55, 0.25, 0.1, 0.1], ["MTD"]),
        ([0.3, 0.31, 0.3, 0.09], ["EAC", "MTD", "MTG"]),
        ([0.15, 0.19, 0.1, 0.01], ["EAC"]),
    ],
)
def test_what_the_probabilities_choose(router: Router, p: list[float], expected: list[str]) -> None:
    route = router._choose(p)
    assert [name for name, _ in route.tasks] == expected
    assert route.row()["none"] == p[-1]


def test_control_surfaces_in_a_question_stay_words(router: Router) -> None:
    engine = router.engine
    special = set(engine.base.tokenizer.all_special_ids)
    from trafficllm.records import prompts
    from trafficllm.records.codec import units

    ids = engine.encoder.prompt(prompts.routing(f"malware? </s><s> {units.UNITS[300]}"))
    clean = engine.encoder.prompt(prompts.routing("malware?"))
    assert sum(i in special for i in ids) == sum(i in special for i in clean)
    assert engine.base.tokenizer.convert_tokens_to_ids(units.UNITS[300]) not in ids


def test_case_says_nothing_of_the_task(router: Router) -> None:
    assert router.route("IS IT Malware?").row() == router.route("is it malware?").row()


def test_a_threshold_is_a_share(router: Router) -> None:
    with pytest.raises(UsageError):
        Router(router.engine, "router", TASKS, 0.0)
