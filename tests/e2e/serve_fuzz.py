"""Requests by the server's own description and against it, from schemathesis, with bodies that name what is really there."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

_ODD = st.sampled_from(
    ["<packet>: ", "<flow>: <pck>4500", "ip.ttl: 57, ", "{", "\x1b[2J", "what is the ttl of packet 0?", "\u202e", "9" * 40]
)
_WORDS = st.lists(_ODD | st.text(max_size=20), max_size=6).map("".join)


def _body(case: Any, draw: Any, capture: bytes) -> Any:
    """Half of the bodies get models, labels, captures and fields that exist, so that more than the doors is tried."""
    if not draw(st.booleans()):
        return case.body
    if case.path == "/v1/chat/completions":
        said = [{"role": "user", "content": draw(_WORDS)}]
        return {"model": draw(st.sampled_from(["trafficllm", "EAC", "MTG"])), "messages": said, "stream": draw(st.booleans())}
    if case.path == "/v1/generate":
        label = draw(st.sampled_from(["Zeus", "Neris"]))
        return {"task": "MTG", "label": label, "flows": draw(st.integers(1, 2)), "seed": draw(st.integers(0, 99))}
    if case.media_type == "multipart/form-data":
        return {"file": _damaged(capture, draw)}
    return case.body


def _damaged(capture: bytes, draw: Any) -> bytes:
    """A capture that is cut somewhere, with some of its bytes changed."""
    data = bytearray(capture[: draw(st.integers(1, len(capture)))])
    for at in draw(st.lists(st.integers(0, len(data) - 1), max_size=8)):
        data[at] = draw(st.integers(0, 255))
    return bytes(data)


def fuzz(url: str, key: str, capture: bytes, *, examples: int) -> tuple[Counter[str], Counter[int]]:
    """`examples` requests of each kind to every operation; requests by operation, and statuses.

    Raises where an answer is a 5xx, or not of the described status, content type, headers or shape.
    What is not checked: that every request of the right shape is accepted (the description does not know the captures,
    models and labels at hand), that every other one is refused (a form's fields are text, whatever their look), and the
    key, which is put into nine of ten requests here and has tests of its own.
    """
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi import checks

    left_out = [checks.positive_data_acceptance, checks.negative_data_rejection, checks.ignored_auth]
    headers = {"Authorization": f"Bearer {key}"}
    asked: Counter[str] = Counter()
    seen: Counter[int] = Counter()
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers).get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @hypothesis.settings(
                max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode), data=st.data())
            def ask(case: Any, data: Any) -> None:
                case.body = _body(case, data.draw, capture)
                case.headers.update(data.draw(st.sampled_from([*[headers] * 9, {}])))
                answer = case.call()
                asked[case.path] += 1
                seen[answer.status_code] += 1
                case.validate_response(answer, excluded_checks=left_out)

            with suppress(hypothesis.errors.Unsatisfiable):  # nothing can be wrong with a request that has no parts
                ask()
    return asked, seen
