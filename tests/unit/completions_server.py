"""A real HTTP server with vLLM's `/v1/completions`, as release 0.32 checks and answers; the in-process engine computes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.forward import forward_at
from trafficllm.model.tuning.collate import padded

Answer = tuple[int, dict[str, str], bytes]
Fault = Callable[["Handler", dict[str, Any]], Answer | None]


class Handler(BaseHTTPRequestHandler):
    """One request; the server's `fault` may answer in place of the engine."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Names of what is resident."""
        rows = [{"id": name, "object": "model"} for name in ("base", *self.server.engine.adapters)]
        self._send(200, {}, json.dumps({"object": "list", "data": rows}).encode())

    def do_POST(self) -> None:
        """A completion of one token."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.counting:
            self.server.bodies.append(body | {"_path": self.path, "_key": self.headers.get("Authorization")})
            self.server.inside += 1
            self.server.most = max(self.server.most, self.server.inside)
        try:
            self._send(*(self.server.fault(self, body) or self.server.answer(body)))
        except (BrokenPipeError, ConnectionResetError):  # the client has had enough
            self.close_connection = True
        finally:
            with self.server.counting:
                self.server.inside -= 1

    def _send(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """`bodies` are the requests so far, `most` how many were inside at once."""

    daemon_threads = True

    def __init__(self, engine: Engine, fault: Fault) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.engine, self.fault = engine, fault
        self.bodies: list[dict[str, Any]] = []
        self.counting = threading.Lock()
        self.inside = self.most = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer(self, body: dict[str, Any]) -> Answer:
        """What vLLM says: the greedy token's and the asked tokens' log-probabilities, over the whole vocabulary."""
        wanted = body.get("logprob_token_ids") or []
        why = ""
        if len(wanted) > 128:
            why = f"Requested logprob_token_ids of length {len(wanted)}, which is greater than max allowed: 128"
        elif wanted and body.get("logprobs") is None:
            why = "when using `logprob_token_ids`, `logprobs` must be set."
        elif body["model"] not in self.engine.adapters:
            return 404, {}, json.dumps({"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}}).encode()
        if why:
            return 400, {}, json.dumps({"error": {"message": why, "type": "BadRequestError", "code": 400}}).encode()
        with self.engine.using(body["model"]) as model:
            at = torch.tensor([[len(row) - 1] for row in body["prompt"]])
            logits = forward_at(model, padded(body["prompt"]), at).logits[:, 0].double()
        choices = []
        for index, row in enumerate(logits.log_softmax(1)):
            best = int(row.argmax())
            top = {f"token_id:{token}": max(float(row[token]), -9999.0) for token in (best, *wanted)}
            logprobs = {"text_offset": [0], "token_logprobs": [float(row[best])], "tokens": [f"token_id:{best}"], "top_logprobs": [top]}
            choices.append({"index": index, "text": "", "logprobs": logprobs, "finish_reason": "length", "stop_reason": None})
        usage = {"prompt_tokens": sum(map(len, body["prompt"])), "completion_tokens": len(choices)}
        whole = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": body["model"], "choices": choices, "usage": usage}
        return 200, {}, json.dumps(whole).encode()


@contextmanager
def serving(engine: Engine, fault: Fault = lambda _, __: None) -> Iterator[Server]:
    """A running server."""
    server = Server(engine, fault)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def drip(handler: Handler, seconds: float) -> None:
    """Send a byte of a header now and then: no limit on a single read ends that."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.02)
