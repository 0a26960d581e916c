"""What a server may do: where it listens, who may ask, and how much."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from trafficllm.core.errors import InputError, UsageError

_MIB = 1 << 20
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_SHORTEST_KEY = 16
log = logging.getLogger("trafficllm.server")


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and doors of one server. Sizes in bytes, times in seconds.

    `queue` is how many requests may be inside at once, working or waiting; `deadline` what one may take in all, its upload
    included; `parsers` how many uploads are read at once, each in a process of at most `parser_memory` bytes.
    `head` is how long a connection may take to bring a request's head, `startup` a reader's process to be ready; neither that nor
    waiting for one counts towards a deadline, which begins with the reading. Uploads take at most `disk` bytes together, and leave
    `spare_disk` free.
    `hosts` and `origins` are names a Host or Origin header may carry besides the local ones.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key_hash: bytes = b""
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_body: int = 256 * _MIB
    queue: int = 16
    deadline: float = 120.0
    head: float = 20.0
    parsers: int = 2
    parser_memory: int = 4096 * _MIB
    startup: float = 120.0
    disk: int = 2048 * _MIB
    spare_disk: int = 256 * _MIB
    max_flows: int = 200_000
    kept_files: int = 32
    drain: float = 30.0

    @property
    def crowd(self) -> int:
        """Requests that may be anywhere in the server, slow uploads and slow readers included."""
        return 8 * self.queue + 64

    @property
    def most_disk(self) -> int:
        """Bytes that uploads may take: room for one of the largest in any case, as it arrives and as it is kept."""
        return max(self.disk, 2 * self.max_body)

    def check(self) -> None:
        """UsageError for a server that others could reach without a key."""
        if not is_loopback(self.host) and not self.key_hash:
            raise UsageError(
                "usage.open_server",
                "a server that other machines reach needs an API key",
                input="--host",
                where=self.host,
                hint="set TRAFFICLLM_API_KEY or --api-key-file, or listen on 127.0.0.1",
            )

    def accepts_key(self, given: str) -> bool:
        """Whether a key is the right one, in a time that does not depend on how much of it is."""
        return not self.key_hash or hmac.compare_digest(hash_key(given), self.key_hash)

    def accepts_host(self, header: str) -> bool:
        """Whether a Host header names this server: others are DNS rebinding."""
        name = _without_port(header)
        own = f"[{self.host.strip('[]')}]" if ":" in self.host else self.host
        return name in {*_LOCAL, own.lower(), *(host.lower() for host in self.hosts)}

    def accepts_origin(self, origin: str, host: str) -> bool:
        """Whether a browser's Origin is this server's own or a listed one."""
        scheme, _, rest = origin.lower().partition("://")
        own = scheme in {"http", "https"} and rest == host.lower()
        return own or self.shares_with(origin)

    def shares_with(self, origin: str) -> bool:
        """Whether pages of another site may read answers (CORS): it is listed."""
        return origin.lower() in {name.lower().rstrip("/") for name in self.origins}


def hash_key(key: str) -> bytes:
    """SHA-256 of a key: all that a server keeps of it."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_key(environment: str, file: Path | None) -> bytes:
    """Hash of the key from a file or the environment; b"" where there is none. Raises for an unreadable or short one."""
    key = environment
    if file is not None:
        try:
            if file.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
                log.warning("key file can be read or written by others; chmod 600 it")
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("input.key", "the key file cannot be read", input=str(file), hint="one line of text") from error
    if (key or file is not None) and len(key) < _SHORTEST_KEY:
        raise UsageError(
            "usage.key",
            f"an API key has at least {_SHORTEST_KEY} characters",
            input="--api-key-file" if file else "TRAFFICLLM_API_KEY",
            hint="make one with `openssl rand -hex 24`",
        )
    return hash_key(key) if key else b""


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _without_port(header: str) -> str:
    name = header.strip().lower()
    if name.startswith("["):
        return name[: name.find("]") + 1]
    return name.partition(":")[0]
