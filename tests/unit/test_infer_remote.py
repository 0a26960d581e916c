"""Label probabilities over HTTP: those of the in-process engine's label tree, and nothing else, whatever the server does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import infer_samples as samples
import numpy as np
import pytest
from completions_server import Answer, Handler, Server, drip, serving

from trafficllm.core.errors import ArtifactError, ResourceError, UsageError
from trafficllm.core.types import Scorer
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.infer.remote import client as remote
from trafficllm.infer.remote.client import Ask, Completions
from trafficllm.infer.remote.scorer import RemoteScorer
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import get_task

LABELS = ("Zeus", "Neris", "Zeus-2", "Zeu", "größe ü", "World of Warcraft")
TASK = get_task("MTD")
QUICK = {"seconds": 0.3, "deadline": 1.5, "tries": 3}


@pytest.fixture(scope="module", name="engine")
def _engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    place = tmp_path_factory.mktemp("remote")
    samples.write_base(place / "base")
    engine = Engine(load_base(place / "base", dtype="float32"))
    for seed, name in ((1, "MTD"), (2, "EAC")):
        engine.add_adapter(name, samples.write_adapter(place / "base", place / name, seed=seed))
    return engine


@pytest.fixture(name="server")
def _server(engine: Engine) -> Iterator[Server]:
    with serving(engine) as server:
        yield server


@pytest.fixture(name="client")
def _client() -> Iterator[Any]:
    """Makes clients, and closes them afterwards."""
    with ExitStack() as stack:
        yield lambda url, **limits: stack.enter_context(Completions(remote.Server(url, **limits)))


def scorer(client: Completions, engine: Engine, *models: str) -> RemoteScorer:
    """A scorer by that client's server."""
    return RemoteScorer(client, models, engine.encoder, TASK, labels=LABELS)


def test_probabilities_are_those_of_the_engine(client: Any, server: Server, engine: Engine) -> None:
    rows = samples.records(24)
    for name in ("MTD", "EAC"):
        own = scorer(client(server.url, prompts=5), engine, name)
        assert isinstance(own, Scorer)
        here = LLMScorer(engine, name, TASK, LABELS).score(rows)
        there = own.score([*rows, rows[3]])
        assert there.labels == LABELS
        assert np.abs(there.probabilities[:-1] - here.probabilities).max() < 1e-4
        assert np.array_equal(there.probabilities[-1], there.probabilities[3])
        assert own.score([]).probabilities.shape == (0, len(LABELS))
    bodies = server.bodies
    assert {body["_path"] for body in bodies} == {"/v1/completions"}
    assert {body["model"] for body in bodies} == {"MTD", "EAC"}
    assert all("prompt_logprobs" not in body and body["max_tokens"] == 1 and len(body["prompt"]) <= 5 for body in bodies)
    assert all(isinstance(token, int) for body in bodies for row in body["prompt"] for token in row)


def test_members_are_averaged_as_in_the_engine(client: Any, server: Server, engine: Engine) -> None:
    rows = samples.records(6, seed=3)
    one, two = (LLMScorer(engine, name, TASK, LABELS).score(rows).logits for name in ("MTD", "EAC"))
    both = scorer(client(server.url), engine, "MTD", "EAC").score(rows)
    assert np.abs(both.logits - (one + two) / 2).max() < 1e-4


def test_calibration_is_applied(client: Any, server: Server, engine: Engine) -> None:
    rows = samples.records(4)
    own = scorer(client(server.url), engine, "MTD")
    before = own.score(rows)
    own.calibration = {"temperature": 4.0}
    after = own.score(rows)
    assert np.allclose(before.logits, after.logits)
    assert (after.probabilities.max(axis=1) < before.probabilities.max(axis=1)).all()


def test_more_labels_than_a_request_may_name(client: Any, server: Server, engine: Engine) -> None:
    tokens = tuple(range(3, 203))
    (out,) = client(server.url).log_probabilities([Ask("MTD", ((5, 6, 7), (8,)), tokens)])
    assert out.shape == (2, 200)
    assert sorted({len(body["logprob_token_ids"]) for body in server.bodies}) == [72, 128]
    assert (np.exp(out).sum(axis=1) <= 1 + 1e-6).all()


def test_many_at_once_keep_to_their_adapter(client: Any, server: Server, engine: Engine) -> None:
    """Two adapters asked in turn by four threads through one client: each answer is its own adapter's, within the places given."""
    rows = samples.records(8, seed=5)
    want = {name: LLMScorer(engine, name, TASK, LABELS).score(rows).probabilities for name in ("MTD", "EAC")}
    assert np.abs(want["MTD"] - want["EAC"]).max() > 0.05
    asked = client(server.url, in_flight=3, prompts=1)
    wrong: list[str] = []

    def ask(name: str) -> None:
        told = RemoteScorer(asked, (name,), engine.encoder, TASK, labels=LABELS).score(rows).probabilities
        wrong.extend([name] if np.abs(told - want[name]).max() > 1e-4 else [])

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("MTD", "EAC", "MTD", "EAC")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked.close()
    assert not wrong
    assert server.most <= 3
    assert len(server.bodies) > 4 * len(rows)


def test_key_and_models(client: Any, engine: Engine) -> None:
    with serving(engine) as server:
        asked = client(server.url, key="s3cret")
        assert asked.models() == ["base", "MTD", "EAC"]
        asked.log_probabilities([Ask("MTD", ((5,),), (7, 8))])
        assert server.bodies[0]["_key"] == "Bearer s3cret"


def test_a_busy_server_is_asked_less_and_again(client: Any, engine: Engine) -> None:
    refusals = iter([429, 503, 429])

    def busy(_: Handler, __: dict[str, Any]) -> Answer | None:
        status = next(refusals, 0)
        return (status, {"Retry-After": "0"}, b"{}") if status else None

    with serving(engine, busy) as server:
        asked = client(server.url, in_flight=8, prompts=1)
        (out,) = asked.log_probabilities([Ask("MTD", tuple((5, k) for k in range(6)), (7, 8))])
        assert out.shape == (6, 2)
        assert len(server.bodies) == 9
        assert asked.window.limit < 8


def test_a_lost_connection_is_opened_again(client: Any, engine: Engine) -> None:
    lost = iter([True])

    def cut(handler: Handler, _: dict[str, Any]) -> Answer | None:
        if next(lost, False):
            handler.close_connection = True
            handler.connection.close()
            raise BrokenPipeError
        return None

    with serving(engine, cut) as server:
        (out,) = client(server.url).log_probabilities([Ask("MTD", ((5,),), (7, 8))])
        assert out.shape == (1, 2)


def _asleep(_: Handler, __: dict[str, Any]) -> Answer | None:
    time.sleep(0.8)
    return None


def _dripping(handler: Handler, _: dict[str, Any]) -> Answer | None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    drip(handler, 1.0)
    raise BrokenPipeError


@pytest.mark.parametrize("fault", [_asleep, _dripping])
def test_a_slow_server_is_given_up(client: Any, engine: Engine, fault: Any) -> None:
    with serving(engine, fault) as server:
        began = time.monotonic()
        with pytest.raises(ResourceError, match="did not answer") as error:
            client(server.url, seconds=0.2, deadline=0.6, tries=2).log_probabilities([Ask("MTD", ((5,),), (7, 8))])
        assert time.monotonic() - began < 5
        assert error.value.code == "resource.server"
        assert error.value.hint


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_failing_server_is_tried_so_often(client: Any, engine: Engine, status: int) -> None:
    with serving(engine, lambda _, __: (status, {}, b"oops \x1b[31m")) as server:
        with pytest.raises(ResourceError, match=f"status {status}") as error:
            client(server.url, **QUICK).log_probabilities([Ask("MTD", ((5,),), (7, 8))])
        assert len(server.bodies) == 3
        assert "\x1b" not in error.value.message


def test_a_refusal_is_not_repeated(client: Any, engine: Engine) -> None:
    with serving(engine) as server:
        with pytest.raises(ResourceError, match="404") as error:
            client(server.url).log_probabilities([Ask("WAD", ((5,),), (7, 8))])
        assert len(server.bodies) == 1
        assert "lora-modules" in error.value.hint


def _changed(change: Any) -> Any:
    def fault(handler: Handler, body: dict[str, Any]) -> Answer:
        status, headers, data = handler.server.answer(body)
        answer = json.loads(data)
        change(answer)
        return status, headers, json.dumps(answer).encode()

    return fault


def _top(answer: Any) -> Any:
    return answer["choices"][0]["logprobs"]["top_logprobs"][0]


ODD = {
    "another adapter": (lambda a: a.update(model="EAC"), "EAC"),
    "no model": (lambda a: a.pop("model"), "log-probability"),
    "a choice missing": (lambda a: a["choices"].pop(), "log-probability"),
    "a choice twice": (lambda a: a["choices"].append(a["choices"][0]), "no log-probabilities"),
    "no log-probabilities": (lambda a: a["choices"][0].update(logprobs=None), "log-probability"),
    "a token missing": (lambda a: _top(a).pop("token_id:7"), "log-probability"),
    "words for tokens": (lambda a: a["choices"][0]["logprobs"].update(top_logprobs=[{" Zeus": -1.0}]), "log-probability"),
    "more than certain": (lambda a: _top(a).update({"token_id:7": 0.5, "token_id:8": 0.5}), "no log-probabilities"),
    "text for a number": (lambda a: _top(a).update({"token_id:7": "much"}), "log-probability"),
    "a list": (lambda a: a.update(choices={"a": 1}), "log-probability"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_answer_that_does_not_fit_is_refused(client: Any, engine: Engine, name: str) -> None:
    change, said = ODD[name]
    with serving(engine, _changed(change)) as server:
        with pytest.raises(ArtifactError, match=said) as error:
            client(server.url, **QUICK).log_probabilities([Ask("MTD", ((5,), (6,)), (7, 8))])
        assert error.value.code == "artifact.server_answer"
        assert len(server.bodies) == 1


@pytest.mark.parametrize("data", [b"", b"<html>", b"[1]", b'{"model": NaN}', b"[" * 100_000])
def test_what_is_no_json_object_is_refused(client: Any, engine: Engine, data: bytes) -> None:
    with serving(engine, lambda _, __: (200, {}, data)) as server, pytest.raises(ArtifactError, match="does not fit"):
        client(server.url, **QUICK).log_probabilities([Ask("MTD", ((5,),), (7, 8))])


def test_an_endless_answer_is_cut(client: Any, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LARGEST", 1000)
    with serving(engine, lambda _, __: (200, {}, b" " * 2000)) as server, pytest.raises(ArtifactError, match="longer than"):
        client(server.url, **QUICK).log_probabilities([Ask("MTD", ((5,),), (7, 8))])


def test_nobody_there(client: Any) -> None:
    with pytest.raises(ResourceError, match="did not answer"):
        client("http://127.0.0.1:9/v1", **QUICK).models()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host/v1", "http://", "http://a@b/v1", "http://host/v1?x=1"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UsageError):
        Completions(remote.Server(url))


def test_a_redirect_is_not_followed(client: Any, engine: Engine) -> None:
    with serving(engine, lambda _, __: (307, {"Location": "http://127.0.0.1:9/steal"}, b"{}")) as server:
        with pytest.raises(ResourceError, match="status 307"):
            client(server.url, key="k").log_probabilities([Ask("MTD", ((5,),), (7, 8))])
        assert len(server.bodies) == 1
