"""Log-probabilities of chosen tokens from an OpenAI-compatible server (vLLM's `/v1/completions` with `logprob_token_ids`).

Every request is bounded: in time, also where the server sends a byte now and then; in bytes; in tries. A busy server (429, 503) halves
the requests that are under way and is asked again after the time it names. What it answers is checked before any number is used.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from trafficllm.core.errors import ArtifactError, InputError, ResourceError, TrafficLLMError, UsageError
from trafficllm.core.escape import for_terminal
from trafficllm.core.files import parse_json
from trafficllm.core.types import F64

LARGEST = 16 << 20
"""Bytes of an answer that are read: 64 prompts with 1,000 labels each are 3 MB."""
AGAIN = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
BUSY = frozenset({429, 503})
LONGEST_WAIT = 30.0
"""Seconds between two tries at most, whatever the server asks for."""
TOKENS = 128
"""Tokens a request may name: vLLM's bound."""
_FIRST_WAIT = 0.2
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is, and how much of it one caller takes.

    `url` ends in `/v1`; `key` goes into the Authorization header; `in_flight` requests are under way at once at most, each with at most
    `prompts` prompts and `seconds` of time for a try; a request is tried `tries` times, and all that one call asks is over within
    `deadline` seconds.
    """

    url: str
    key: str = ""
    in_flight: int = 8
    prompts: int = 16
    seconds: float = 60.0
    deadline: float = 600.0
    tries: int = 6


@dataclass(frozen=True, slots=True)
class Ask:
    """Prompts of token ids, and the tokens whose log-probabilities are wanted as the next one, by one model."""

    model: str
    prompts: tuple[tuple[int, ...], ...]
    tokens: tuple[int, ...]


class Window:
    """How many requests are under way: at most `most`, half as many after each refusal, one more after as many successes."""

    def __init__(self, most: int) -> None:
        self.limit = float(most)
        self._most, self._inside = most, 0
        self._changed = threading.Condition()

    @contextmanager
    def place(self, until: float) -> Iterator[None]:
        """Hold one place; TimeoutError where none is free by then (`time.monotonic`)."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._inside < int(self.limit), timeout=max(0.0, until - time.monotonic())):
                raise TimeoutError("no place became free")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify()

    def refused(self) -> None:
        """The server has too much to do."""
        with self._changed:
            self.limit = max(1.0, self.limit / 2)

    def succeeded(self) -> None:
        """It has answered."""
        with self._changed:
            self.limit = min(float(self._most), self.limit + 1 / self.limit)
            self._changed.notify()


class _TryAgainError(Exception):
    """A try that failed in a way that another may not; `wait` in seconds where the server named one."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class Completions:
    """The client of one server; safe to share between threads.

    >>> Completions(Server("http://127.0.0.1:8000/v1")).log_probabilities([Ask("MTD", ((1, 2),), (7, 8))])   # doctest: +SKIP
    """

    def __init__(self, server: Server) -> None:
        parts = urlsplit(server.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise UsageError("usage.server", "this is no server's address", input=server.url, hint="http://HOST:PORT/v1")
        self.server = server
        self.window = Window(server.in_flight)
        self._pool = ThreadPoolExecutor(server.in_flight, thread_name_prefix="completions")
        self._parts = parts
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def models(self) -> list[str]:
        """Names of the models and adapters that the server has resident. Errors as `log_probabilities`."""
        body = self._tried("GET", "/models", None, time.monotonic() + self.server.deadline)
        rows = body.get("data") if isinstance(body, dict) else None
        if not isinstance(rows, list):
            raise self._odd("its list of models is none")
        return [str(row.get("id")) for row in rows if isinstance(row, dict)]

    def log_probabilities(self, asks: Sequence[Ask]) -> list[F64]:
        """For each `Ask` log-probabilities [prompts, tokens] over the whole vocabulary.

        Raises ResourceError where the server cannot be reached, is too slow or refuses, ArtifactError where it answers something else.
        """
        until = time.monotonic() + self.server.deadline
        size = self.server.prompts
        futures = [
            [
                [
                    self._pool.submit(self._asked, Ask(ask.model, ask.prompts[at : at + size], ask.tokens[first : first + TOKENS]), until)
                    for first in range(0, len(ask.tokens), TOKENS)
                ]
                for at in range(0, len(ask.prompts), size)
            ]
            for ask in asks
        ]
        try:
            parts = [[np.concatenate([future.result() for future in row], axis=1) for row in rows] for rows in futures]
        finally:  # after a failure nothing more is begun
            for future in (future for rows in futures for row in rows for future in row):
                future.cancel()
        return [np.concatenate(own) if own else np.zeros((0, len(ask.tokens))) for ask, own in zip(asks, parts, strict=True)]

    def close(self) -> None:
        """Begin nothing more, and close what is open."""
        self._pool.shutdown(cancel_futures=True)
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def __enter__(self) -> Completions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(self, ask: Ask, until: float) -> F64:
        body = {
            "model": ask.model,
            "prompt": [list(prompt) for prompt in ask.prompts],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 1,
            "logprob_token_ids": list(ask.tokens),
            "return_tokens_as_token_ids": True,
            "add_special_tokens": False,
        }
        return self._read(ask, self._tried("POST", "/completions", body, until))

    def _tried(self, method: str, path: str, body: Mapping[str, Any] | None, until: float) -> Any:
        why = "no time was left"
        for number in range(self.server.tries):
            try:
                with self.window.place(until):
                    answer = self._once(method, path, body, min(self.server.seconds, until - time.monotonic()))
                self.window.succeeded()
                return answer
            except _TryAgainError as error:
                why = str(error)
                wait = min(error.wait if error.wait is not None else _FIRST_WAIT * 2**number, LONGEST_WAIT)
            except TimeoutError as error:
                why, wait = str(error), 0.0
            if number + 1 < self.server.tries:
                if time.monotonic() + wait >= until:
                    break
                time.sleep(wait)
        hint = "see the server's own log; fewer requests at once (--in-flight) or a longer --deadline may help"
        raise ResourceError("resource.server", f"the server did not answer: {why}", input=self.server.url, hint=hint)

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float) -> Any:
        """One try, over after `seconds` whatever the other side does."""
        if seconds <= 0:
            raise TimeoutError("no time was left")
        connection = self._connection(seconds)
        cut = threading.Event()
        watch = threading.Timer(seconds, _cut, (connection, cut))
        watch.daemon = True
        watch.start()
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, self._parts.path.rstrip("/") + path, text, self._headers())
            response = connection.getresponse()
            data = response.read(LARGEST + 1)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            reason = f"nothing whole within {seconds:.0f} s" if cut.is_set() or isinstance(error, TimeoutError) else _words(error)
            raise _TryAgainError(reason) from error
        finally:
            watch.cancel()
        if response.will_close or len(data) > LARGEST or cut.is_set():
            connection.close()
        else:
            self._give_back(connection)
        if cut.is_set():
            raise _TryAgainError(f"nothing whole within {seconds:.0f} s")
        if len(data) > LARGEST:
            raise self._odd(f"it is longer than {LARGEST >> 20} MiB")
        self._judge(response.status, response.headers.get("Retry-After"), data)
        try:
            return parse_json(data, self.server.url)
        except InputError as error:
            raise self._odd(error.message) from error

    def _judge(self, status: int, after: str | None, data: bytes) -> None:
        """Raise what a status other than 200 means."""
        if status == 200:
            return
        said = for_terminal(data[:_SHOWN].decode("utf-8", "replace"))
        if status in BUSY:
            self.window.refused()
        if status in AGAIN:
            wait = float(after) if after is not None and after.isascii() and after.isdigit() and len(after) < 9 else None
            raise _TryAgainError(f"status {status} {said}", wait)
        hint = "is the adapter loaded (--lora-modules), the key right, and --max-model-len and --max-logprobs large enough?"
        raise ResourceError("resource.server", f"the server refused with status {status}: {said}", input=self.server.url, hint=hint)

    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self.server.key}"} if self.server.key else {}
        return {"Content-Type": "application/json", "Accept": "application/json", **key}

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        """An open connection that nobody uses, or a new one."""
        with self._lock:
            held = self._idle.pop() if self._idle else None
        if held is None:
            kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
            held = kind(str(self._parts.hostname), self._parts.port)
        held.timeout = seconds
        if held.sock is not None:
            held.sock.settimeout(seconds)
        return held

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._idle.append(connection)

    def _read(self, ask: Ask, body: Any) -> F64:
        """Log-probabilities [prompts, tokens] of an answer; ArtifactError where it is not one to this question."""
        try:
            if body["model"] != ask.model:
                raise self._odd(f"the model {for_terminal(str(body['model'])[:_SHOWN])} answered, {ask.model} was asked")
            choices = {int(choice["index"]): choice["logprobs"]["top_logprobs"][0] for choice in body["choices"]}
            rows = [[float(choices[k][f"token_id:{token}"]) for token in ask.tokens] for k in range(len(ask.prompts))]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._odd(f"no log-probability for every prompt and token ({_words(error)})") from error
        out = np.array(rows, dtype=np.float64).reshape(len(ask.prompts), len(ask.tokens))
        if len(body["choices"]) != len(ask.prompts) or not np.isfinite(out).all() or (np.exp(out).sum(axis=1) > 1 + 1e-3).any():
            raise self._odd("its numbers are no log-probabilities of these tokens")
        return out

    def _odd(self, why: str) -> TrafficLLMError:
        hint = "it takes a server that knows `logprob_token_ids` and `return_tokens_as_token_ids` (vLLM from 0.26 on)"
        return ArtifactError("artifact.server_answer", f"the server's answer does not fit: {why}", input=self.server.url, hint=hint)


def _cut(connection: http.client.HTTPConnection, cut: threading.Event) -> None:
    """End a try from outside: a server that sends a byte now and then never runs into the socket's own limit."""
    cut.set()
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):  # it is closed already
            sock.shutdown(socket.SHUT_RDWR)


def _words(error: BaseException) -> str:
    return for_terminal(f"{type(error).__name__} {error}"[:_SHOWN])
