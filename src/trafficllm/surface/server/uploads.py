"""Uploaded captures: written to a private folder, read by a bounded process, forgotten oldest first."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import FlowBatch, FlowStream
from trafficllm.surface.server.parse import NAME, read_batch, write_warm_capture
from trafficllm.surface.server.replies import RefusedError
from trafficllm.surface.server.settings import Settings

_CHUNK = 1 << 20
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "HOME", "NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT", "VIRTUAL_ENV", "TMPDIR", "TZ")


class Readable(Protocol):
    """A body that is read in pieces."""

    async def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Upload:
    """A capture that a client sent; `name` is theirs and only ever shown back to them."""

    id: str
    path: Path
    name: str
    bytes: int
    created: int


class Uploads:
    """The captures a server holds, in a folder that goes with it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = Path(tempfile.mkdtemp(prefix="trafficllm-serve-"))
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._parsers = asyncio.Semaphore(settings.parsers)
        self._spare: Process | None = None
        self._warm = self.folder / "warm.pcap"

    async def close(self) -> None:
        """Forget everything."""
        if self._spare is not None:
            await _end(self._spare)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def warm(self) -> None:
        """Start the reader of the first upload and see that it works: on a new machine its kernels are compiled now."""
        await self._prepare()
        _, out = await self.flows(self._warm)
        shutil.rmtree(out, ignore_errors=True)

    async def _prepare(self) -> None:
        if not self._warm.is_file():
            await asyncio.to_thread(write_warm_capture, self._warm)

    # Keeping

    async def store(self, body: Readable, name: str, *, keep: bool) -> Upload:
        """Write a body to disk; with `keep` it can be asked for by its id, until newer ones push it out."""
        mark = f"file-{secrets.token_hex(16)}"
        path = self.folder / mark
        size = 0
        with path.open("xb") as stream:
            while piece := await body.read(_CHUNK):
                await asyncio.to_thread(stream.write, piece)
                size += len(piece)
        upload = Upload(mark, path, name, size, int(time.time()))
        if keep:
            self._kept[mark] = upload
            while len(self._kept) > self.settings.kept_files:
                self.forget(next(iter(self._kept)))
        return upload

    def get(self, mark: str) -> Upload:
        """A kept capture; RefusedError (404) for an id that is not known."""
        found = self._kept.get(mark)
        if found is None:
            raise RefusedError(404, "request.file", "no such file", hint="upload it to /v1/files first")
        self._kept.move_to_end(mark)
        return found

    def list(self) -> Sequence[Upload]:
        """Kept captures, oldest first."""
        return list(self._kept.values())

    def forget(self, mark: str) -> None:
        """Remove a kept capture; unknown ids are ignored."""
        found = self._kept.pop(mark, None)
        if found is not None:
            found.path.unlink(missing_ok=True)

    # Reading

    async def flows(self, capture: Path, options: FlowOptions | None = None) -> tuple[FlowStream, Path]:
        """Flows of a capture, read in a process of their own, and the folder to remove when they are used."""
        chosen = (options or FlowOptions()).model_dump(mode="json")
        out = await self._run(capture, {"do": "flows", "options": chosen, "max_flows": self.settings.max_flows})
        return _batches(out), out

    async def fields(self, capture: Path, names: Sequence[str], frame: int) -> dict[str, str] | None:
        """Values of fields of one frame in tshark's formats; None where there is no such frame."""
        out = await self._run(capture, {"do": "fields", "fields": list(names), "frame": frame})
        try:
            row = json.loads((out / "fields.json").read_text(encoding="utf-8"))
        finally:
            shutil.rmtree(out, ignore_errors=True)
        return None if row is None else {name: str(value) for name, value in zip(names, row, strict=True)}

    async def _run(self, capture: Path, what: Mapping[str, Any]) -> Path:
        out = Path(tempfile.mkdtemp(dir=self.folder))
        settings = self.settings
        limits = {"memory": settings.parser_memory, "seconds": max(1, int(settings.deadline))}
        job = {**what, **limits, "file_bytes": 8 * settings.max_body, "capture": str(capture), "out": str(out)}
        (out / "job.json").write_text(json.dumps(job), encoding="utf-8")
        try:
            await self._prepare()
            async with self._parsers:
                code = await self._read(out / "job.json")
            if code:
                raise _failure(out, code)
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
        return out

    async def _read(self, job: Path) -> int:
        """Give a job to the reader that waits, and let the next one get ready; a caller that gives up takes it along."""
        child, self._spare = self._spare, None
        if child is None or child.returncode is not None:
            child = await _start(self._warm)
        try:
            await child.communicate(f"{job}\n".encode())
            if self._spare is None:
                self._spare = await _start(self._warm)
        except asyncio.CancelledError:
            await _end(child)
            raise
        return child.returncode or 0


async def _end(child: Process) -> None:
    with suppress(ProcessLookupError):
        child.kill()
    await child.communicate()


async def _start(warm: Path) -> Process:
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "trafficllm.surface.server.parse",
        str(warm),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**environment, "OMP_NUM_THREADS": "1"},
        cwd=warm.parent,
        start_new_session=True,  # Ctrl-C is for the server, which lets its readers finish
    )


def _failure(out: Path, code: int) -> Exception:
    """What the reader said, or that it did not survive its limits."""
    said = out / "error.json"
    if code == 3 and said.is_file():
        body = json.loads(said.read_text(encoding="utf-8"))
        kind = InputError if body["kind"] == "input" else UsageError
        where = "" if "/" in body["where"] else body["where"]
        return kind(body["code"], body["message"], input=NAME, where=where, hint=body["hint"])
    hint = "the capture needs more memory or time than an upload may take; use `trafficllm analyze`"
    return InputError("input.too_costly", "the capture could not be read within the limits", input=NAME, hint=hint)


def _batches(out: Path) -> Iterator[FlowBatch]:
    try:
        for path in sorted(out.glob("*.npz")):
            yield read_batch(path)
            path.unlink(missing_ok=True)
    finally:
        shutil.rmtree(out, ignore_errors=True)
