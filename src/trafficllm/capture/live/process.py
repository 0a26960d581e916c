"""The capturing process: started, watched, asked for its counts, and stopped so that nothing it holds is lost."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections import deque
from contextlib import suppress
from typing import IO, Any

from trafficllm.capture.live.programs import Source, arguments, check_interface, confined, pick_program
from trafficllm.core.errors import InputError, ResourceError, TrafficLLMError

_READY = ("listening on", "File: ")
"""What they say once the interface is open (dumpcap says "Capturing on" before that)."""
_STARTS, _STOPS = 15.0, 5.0
"""Seconds that a program may take to begin, and to end once its packets have ended or nobody wants them."""
_PIPE = 1 << 20
_LINES, _LONGEST = 20, 4096
_COUNTS = (
    (re.compile(r"(\d+) packets received by filter"), "received"),
    (re.compile(r"(\d+) packets dropped by kernel"), "dropped"),
    (re.compile(r"received/dropped on interface .*?: (\d+)/"), "received"),
    (re.compile(r"received/dropped on interface .*?: \d+/(\d+)"), "dropped"),
)
_FORBIDDEN = re.compile(r"permission|not permitted", re.IGNORECASE)


class Capturing:
    """A running capture. `stdout` has its packets as classic pcap; `received` and `dropped` what the kernel counted, None until it is told.

    Use it as a context manager: it has ended when the context does. Ctrl-C in a terminal does not reach the process, `stop` does.
    """

    def __init__(self, source: Source, *, program: str = "", user: str = "") -> None:
        """Start it and wait until it captures.

        Raises InputError where there is no such interface or an expression is none, ResourceError without a program or the permission.
        """
        check_interface(source.interface)
        self.source, self.program = source, pick_program(program)
        self.received: int | None = None
        self.dropped: int | None = None
        self.stopping = False
        self._said: deque[str] = deque(maxlen=_LINES)
        self._begun = False
        self._ready = threading.Event()
        self._process = _start(confined(arguments(self.program, source), user))
        _enlarge(self.stdout)
        self._listener = threading.Thread(target=self._listen, name="capture-words", daemon=True)
        self._listener.start()
        self._ready.wait(_STARTS)
        if not self._begun:
            self.close()
            raise self.failure()
        if source.seconds and self.program.name == "tcpdump":  # which knows no duration
            self._timer = threading.Timer(source.seconds, self.stop)
            self._timer.daemon = True
            self._timer.start()

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe that its packets come through."""
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def __enter__(self) -> Capturing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self) -> None:
        """Have it say how many packets came and were dropped so far, where it can (tcpdump); the answer comes a moment later."""
        if self.program.name == "tcpdump" and not self.stopping and self._process.poll() is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGUSR1)

    def stop(self) -> None:
        """Have it write what it holds, and end; returns at once. However long its reader takes to come for that, it is not hurried."""
        if not self.stopping:
            self.stopping = True
            self._signal(signal.SIGINT)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def close(self) -> None:
        """End it, whatever it is at, and read its last words."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(_STOPS)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()
        self._listener.join(_STOPS)
        with suppress(OSError):  # last: whoever reads it meets its end first
            self.stdout.close()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def ended(self) -> TrafficLLMError | None:
        """Once its packets have ended: why, where nobody asked for that (the interface went away); None where it was stopped."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOPS)
        self._listener.join(_STOPS)
        return None if self.stopping or self._process.returncode == 0 else self.failure()

    def failure(self) -> TrafficLLMError:
        """Why it did not begin, or ended of itself, by its last words."""
        words = " ".join(self._said) or f"{self.program.name} said nothing"
        name = self.source.interface
        if _FORBIDDEN.search(words):
            hint = f"as root: `setcap cap_net_raw,cap_net_admin=eip {self.program.path}`; or run it as root with --user NAME"
            return ResourceError("resource.permission", f"may not capture here: {words}", input=name, hint=hint)
        return InputError("input.capture", f"the capture ended: {words}", input=name, hint="is the interface up, the --filter right?")

    def _listen(self) -> None:
        """Its stderr: counts are noted, the last lines kept. Lines and their number are bounded."""
        stream = self._process.stderr
        assert stream is not None
        while raw := stream.readline(_LONGEST):
            line = raw.decode("utf-8", "replace").strip()
            for pattern, name in _COUNTS:
                if match := pattern.search(line):
                    setattr(self, name, int(match[1]))
            if any(word in line for word in _READY):
                self._begun = True
                self._ready.set()
            elif line:
                self._said.append(line)
        self._ready.set()


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    pipe: Any = subprocess.PIPE
    where = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}
    return subprocess.Popen(  # noqa: S603 - a list of arguments, checked in `programs`
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd="/", env=where, start_new_session=True
    )


def _enlarge(stream: IO[bytes]) -> None:
    """A pipe of 1 MiB in place of 64 KiB, where the system lets us."""
    with suppress(ImportError, OSError, AttributeError):
        import fcntl

        fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
