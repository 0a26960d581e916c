"""Uploaded captures: written to a private folder, read by a bounded process, forgotten oldest first."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import FlowBatch, FlowStream
from trafficllm.surface.server.intake import Intake, Place
from trafficllm.surface.server.parse import COUNTS, NAME, READY, read_batch, write_warm_capture
from trafficllm.surface.server.replies import RefusedError
from trafficllm.surface.server.settings import Settings

if TYPE_CHECKING:
    from trafficllm.core.types import CaptureCounts
    from trafficllm.lifecycle.analyze.results import CaptureTotals

_CHUNK = 1 << 20
PREFIX = "trafficllm-serve-"
_HELD = "held"
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "HOME", "NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT", "VIRTUAL_ENV", "TMPDIR", "TZ")


class Readable(Protocol):
    """A body that is read in pieces, and closed."""

    async def read(self, size: int = -1, /) -> bytes: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Upload:
    """A capture that a client sent; `name` is theirs and only ever shown back to them."""

    id: str
    path: Path
    name: str
    bytes: int
    created: int


@dataclass(frozen=True, slots=True)
class FlowAsk:
    """Which flow is asked for, and what of its first `frames` packets: fields by tshark's names."""

    uid: str
    fields: tuple[str, ...]
    frames: int


@dataclass(frozen=True, slots=True)
class OneFlow:
    """A flow in the batch that holds it, and the fields of its first packets, a row each."""

    batch: FlowBatch
    at: int
    packets: tuple[tuple[str, ...], ...]


class Uploads:
    """The captures a server holds, in a folder that goes with it; what killed servers left is removed first."""

    def __init__(self, settings: Settings, intake: Intake) -> None:
        self.settings = settings
        self.intake = intake
        intake.evict = self._forget_oldest
        sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._mark = _hold(self.folder)
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._parsers = asyncio.Semaphore(settings.parsers)
        self._spare: Process | None = None
        self._said: set[int] = set()
        self._closed = False
        self._warm = self.folder / "warm.pcap"

    async def close(self) -> None:
        """Forget everything."""
        self._closed = True
        if self._spare is not None:
            await _end(self._spare)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._mark)

    async def warm(self) -> None:
        """Start the reader of the first upload and see that it works: on a new machine its kernels are compiled now."""
        async with self.reader() as reader:
            _, out = await self.flows(reader, self._warm)
        shutil.rmtree(out, ignore_errors=True)

    # Keeping

    async def store(self, body: Readable, name: str, *, keep: bool, place: Place | None = None) -> Upload:
        """Write a body to disk; with `keep` it can be asked for by its id, until newer ones push it out.

        `place` is the disk that the body's spool was given at the door: it is free again once the body is here.
        RefusedError (507) where disk is short.
        """
        mark = f"file-{secrets.token_hex(16)}"
        path = self.folder / mark
        size = 0
        try:
            with path.open("xb") as stream:
                while piece := await body.read(_CHUNK):
                    self.intake.take(len(piece))
                    size += len(piece)
                    await asyncio.to_thread(stream.write, piece)
        except BaseException:
            self.remove(Upload(mark, path, name, size, 0))
            raise
        await body.close()
        if place is not None:
            place.release()
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
            self.remove(found)

    def remove(self, upload: Upload) -> None:
        """Its bytes are gone from disk."""
        upload.path.unlink(missing_ok=True)
        self.intake.used -= upload.bytes

    def _forget_oldest(self) -> bool:
        if not self._kept:
            return False
        self.forget(next(iter(self._kept)))
        return True

    # Reading

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Process]:
        """A process that has loaded all it needs and waits for a job; another gets ready behind it.

        RefusedError (503) where none is ready within `startup` seconds.
        """
        async with self._parsers:
            if not self._warm.is_file():
                await asyncio.to_thread(write_warm_capture, self._warm)
            child, self._spare = self._spare, None
            if child is None or child.returncode is not None:
                child = await _start(self._warm)
            try:
                await self._ready(child)
                yield child
            finally:
                await self._put_back(child)

    async def _put_back(self, child: Process) -> None:
        """Keep a process that was given no job for the next upload, else start one; end it where one waits already."""
        assert child.stdin is not None
        if child.returncode is None and child.stdin.is_closing():
            await _end(child)
        if child.returncode is not None:
            self._said.discard(child.pid)
            if self._closed or self._spare is not None:
                return
            child = await _start(self._warm)
        if self._closed or self._spare is not None:  # also meanwhile
            await _end(child)
        else:
            self._spare = child

    async def _ready(self, child: Process) -> None:
        assert child.stdout is not None
        if child.pid in self._said:  # it was put back after its word
            return
        said = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.startup):
                said = await child.stdout.readline()
        if said != READY:
            hint = "the machine is busy, or has no memory left: try again later"
            raise RefusedError(503, "request.reader_start", "no process to read the capture in could start", hint=hint, retry=5)
        self._said.add(child.pid)

    async def flows(self, reader: Process, capture: Path, options: FlowOptions | None = None) -> tuple[FlowStream, Path]:
        """Flows of a capture, read in a process of their own, and the folder to remove when they are used."""
        chosen = (options or FlowOptions()).model_dump(mode="json")
        out = await self._run(reader, capture, {"do": "flows", "options": chosen, "max_flows": self.settings.max_flows})
        return _batches(out), out

    async def fields(self, reader: Process, capture: Path, names: Sequence[str], frame: int) -> dict[str, str] | None:
        """Values of fields of one frame in tshark's formats; None where there is no such frame."""
        out = await self._run(reader, capture, {"do": "fields", "fields": list(names), "frame": frame})
        try:
            row = json.loads((out / "fields.json").read_text(encoding="utf-8"))
        finally:
            shutil.rmtree(out, ignore_errors=True)
        return None if row is None else {name: str(value) for name, value in zip(names, row, strict=True)}

    async def flow(self, reader: Process, capture: Path, options: FlowOptions, ask: FlowAsk) -> OneFlow | None:
        """One flow of a capture with its first packets; None where it has no such flow."""
        job = {"do": "flow", "options": options.model_dump(mode="json"), "uid": ask.uid, "fields": list(ask.fields), "frames": ask.frames}
        out = await self._run(reader, capture, job)
        try:
            answer = json.loads((out / "flow.json").read_text(encoding="utf-8"))
            if answer is None:
                return None
            packets = tuple(tuple(str(value) for value in row) for row in answer["packets"])
            return OneFlow(read_batch(out / "flow.npz"), int(answer["at"]), packets)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    async def cut(self, reader: Process, capture: Path, options: FlowOptions, flows: Mapping[str, int]) -> tuple[Path, dict[str, str]]:
        """The first packets of flows (by uid) as `N.pcapng` for each number, in a folder to remove; Community IDs of those found."""
        job = {"do": "cut", "options": options.model_dump(mode="json"), "flows": dict(flows)}
        out = await self._run(reader, capture, job)
        there = json.loads((out / "cut.json").read_text(encoding="utf-8"))
        return out, {str(uid): str(community) for uid, community in there.items()}

    async def _run(self, reader: Process, capture: Path, what: Mapping[str, Any]) -> Path:
        out = Path(tempfile.mkdtemp(dir=self.folder))
        settings = self.settings
        limits = {"memory": settings.parser_memory, "seconds": max(1, int(settings.deadline))}
        job = {**what, **limits, "file_bytes": 8 * settings.max_body, "capture": str(capture), "out": str(out)}
        (out / "job.json").write_text(json.dumps(job), encoding="utf-8")
        try:
            assert reader.stdin is not None
            reader.stdin.write(f"{out / 'job.json'}\n".encode())
            reader.stdin.close()
            if code := await reader.wait():
                raise _failure(out, code, capture)
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
        return out


def _hold(folder: Path) -> int:
    """Mark a folder as in use by this process, as long as it lives; the descriptor to close."""
    mark = os.open(folder / _HELD, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(mark, fcntl.LOCK_EX)
    return mark


def sweep() -> int:
    """Remove the folders of servers that ended without doing so; how many there were."""
    gone = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            mark = os.open(folder / _HELD, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # another's, or one that is just being made
            continue
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            gone += 1
        except OSError:
            continue
        finally:
            os.close(mark)
    return gone


async def _end(child: Process) -> None:
    with suppress(ProcessLookupError):
        child.kill()
    await child.wait()


async def _start(warm: Path) -> Process:
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "trafficllm.surface.server.parse",
        str(warm),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**environment, "OMP_NUM_THREADS": "1"},
        cwd=warm.parent,
        start_new_session=True,  # Ctrl-C is for the server, which lets its readers finish
    )


def _failure(out: Path, code: int, capture: Path) -> Exception:
    """What the reader said, or that it did not survive its limits."""
    said = out / "error.json"
    if code == 3 and said.is_file():
        body = json.loads(said.read_text(encoding="utf-8"))
        kind = InputError if body["kind"] == "input" else UsageError
        where = "" if "/" in body["where"] else body["where"]
        message, hint = (body[name].replace(str(capture), NAME) for name in ("message", "hint"))
        return kind(body["code"], message, input=NAME, where=where, hint=hint)
    hint = "the capture needs more memory or time than an upload may take; use `trafficllm analyze`"
    return InputError("input.too_costly", "the capture could not be read within the limits", input=NAME, hint=hint)


def totals_of(out: Path) -> CaptureTotals:
    """The counts that a reader wrote beside the flows of a capture, as answers give them; InputError where they are none."""
    from trafficllm.lifecycle.analyze.captures import totals

    return totals(counts_of(out))


def counts_of(out: Path) -> CaptureCounts:
    """The counts that a reader wrote beside the flows of a capture; InputError where they are none."""
    from pydantic import TypeAdapter

    from trafficllm.core.types import CaptureCounts

    try:
        return TypeAdapter(CaptureCounts).validate_json((out / COUNTS).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError("input.upload", "the capture could not be read", input=NAME) from error


def _batches(out: Path) -> Iterator[FlowBatch]:
    try:
        for path in sorted(out.glob("*.npz")):
            yield read_batch(path)
            path.unlink(missing_ok=True)
    finally:
        shutil.rmtree(out, ignore_errors=True)
