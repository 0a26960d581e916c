"""`trafficllm live` in a network name space of its own: a pair of virtual interfaces, captures replayed into one, the other captured.

Run as `unshare --net python live_session.py PLAN.json`; the plan names the capture to replay, how, and the command's options. What came
through the pipe is kept as a file, so that the command's verdicts can be held against those of that file. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from trafficllm.capture.live.process import Capturing
from trafficllm.surface.cli.main import run

PLAN = json.loads(Path(sys.argv[1]).read_text())


class Tape:
    """The pipe's bytes, and a copy of them in a file."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.copy = stream, os.open(PLAN["tape"], os.O_CREAT | os.O_WRONLY)

    def fileno(self) -> int:
        return self.stream.fileno()

    def read(self, size: int) -> bytes:
        return self._taped(self.stream.read(size))

    def read1(self, size: int) -> bytes:
        return self._taped(self.stream.read1(size))  # type: ignore[attr-defined]

    def _taped(self, block: bytes) -> bytes:
        os.write(self.copy, block)
        return block

    def close(self) -> None:
        os.close(self.copy)
        self.stream.close()


class Taped(Capturing):
    """A capture whose packets are also kept."""

    tape: Tape | None = None

    @property
    def stdout(self) -> Any:
        if self.tape is None:
            assert self._process.stdout is not None
            self.tape = Tape(self._process.stdout)
        return self.tape


def resident() -> int:
    """Memory of this process in KiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


def wait(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.1)
    return False


def listening() -> bool:
    """Whether a packet socket is open in this name space."""
    return len(Path("/proc/net/packet").read_text().splitlines()) > 1


def replay(told: dict[str, Any]) -> None:
    """Replay, watch the memory, then press Ctrl-C."""
    try:
        assert wait(listening, 60)
        time.sleep(1.0)
        command = ["tcpreplay", "-q", "-i", "tlv0", *PLAN["replay"]]
        begun = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as player:
            while player.poll() is None:
                told["memory"].append((round(time.monotonic() - begun, 1), resident()))
                wait(lambda: player.poll() is not None, PLAN.get("look", 1.0))
            assert player.stdout is not None
            told["replayed"] = player.stdout.read()
        told["seconds"] = time.monotonic() - begun
        time.sleep(PLAN.get("rest", 1.5))
    finally:
        os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    os.environ.update(PLAN.get("environment", {}))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("all", "default"):  # an interface that comes up would else announce itself
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    for words in ("link add tlv0 type veth peer name tlv1", "link set tlv0 up", "link set tlv1 up"):
        subprocess.run(["ip", *words.split()], check=True)
    import trafficllm.capture.live.process as process

    process.Capturing = Taped  # type: ignore[misc]
    told: dict[str, Any] = {"memory": []}
    thread = threading.Thread(target=replay, args=(told,), daemon=True)
    thread.start()
    told["code"] = run(["live", "tlv1", *PLAN["options"]])
    thread.join(5)
    print(json.dumps(told))


main()
