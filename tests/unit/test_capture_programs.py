"""The program that captures: its arguments, its rights, what it says, and how it ends. Stand-ins take the place of tcpdump."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from capture_samples import ethernet, ipv4, pcap, udp

from trafficllm.capture.live.process import Capturing
from trafficllm.capture.live.programs import Program, Source, arguments, check_interface, check_user, confined, interfaces, pick_program
from trafficllm.capture.live.stream import LiveFlows
from trafficllm.core.errors import InputError, ResourceError, UsageError
from trafficllm.core.settings import FlowOptions
from trafficllm.lifecycle.analyze.analysis import Analysis
from trafficllm.lifecycle.analyze.live import Live, LiveCounts

HOSTILE = "udp; rm -rf / $(id) `id`"


def test_arguments_are_a_list_and_an_expression_is_one_word() -> None:
    source = Source("lo", HOSTILE, seconds=5, buffer=64)
    assert arguments(Program("tcpdump", "/x/tcpdump"), source)[-2:] == ["--", HOSTILE]
    line = arguments(Program("dumpcap", "/x/dumpcap"), source)
    assert line[line.index("-f") + 1] == HOSTILE
    assert line[line.index("-a") + 1] == "duration:5"
    assert line[line.index("-B") + 1] == "64"
    assert arguments(Program("tcpdump", "/x/tcpdump"), source)[5:7] == ["-B", "65536"]  # KiB


@pytest.mark.parametrize("name", ["nowhere0", "-", "rpcap://host/eth0", "/tmp/pipe", "", "lo;id"])
def test_only_interfaces_of_this_machine_are_captured(name: str) -> None:
    with pytest.raises(InputError, match="no such interface") as caught:
        check_interface(name)
    assert interfaces()[0] in caught.value.hint


def test_programs_that_are_not_here_or_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="neither tcpdump nor dumpcap"):
        pick_program()
    with pytest.raises(UsageError, match="no way to capture"):
        pick_program("tshark")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and util-linux' setpriv")
def test_a_capture_started_by_root_has_two_capabilities_and_no_root() -> None:
    told = subprocess.run(confined(["cat", "/proc/self/status"]), capture_output=True, text=True, check=True).stdout
    rows = dict(line.split(":", 1) for line in told.splitlines())
    raw_and_admin = 1 << 13 | 1 << 12  # CAP_NET_RAW, CAP_NET_ADMIN (linux/capability.h)
    assert {int(rows[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {raw_and_admin}
    assert rows["NoNewPrivs"].strip() == "1"
    assert rows["Groups"].strip() == ""
    assert "0" not in rows["Uid"].split()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_user_that_is_not_here() -> None:
    with pytest.raises(UsageError, match="no such user"):
        check_user("nobody-of-that-name")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_whoever_judges_can_give_root_up_for_good() -> None:
    code = """
import os
from trafficllm.capture.live.programs import become
become("nobody")
try:
    os.setuid(0)
except PermissionError:
    print(open("/proc/self/status").read())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    rows = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    assert {int(rows[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")} == {0}
    assert len(set(rows["Uid"].split())) == 1
    assert rows["Groups"].strip() == ""


def _stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A tcpdump of ours, started as it is."""
    script = folder / "tcpdump"
    script.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n" + textwrap.dedent(body))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("trafficllm.capture.live.process.confined", lambda command, user: list(command))


COUNTING = """
def stop(*_):
    print("3 packets captured\\n7 packets received by filter\\n4 packets dropped by kernel", file=sys.stderr, flush=True)
    os._exit(0)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGUSR1, lambda *_: os.write(2, b"1 packets captured, 2 packets received by filter, 1 packets dropped by kernel\\n"))
print("tcpdump: listening on lo, link-type EN10MB", file=sys.stderr, flush=True)
sys.stdout.buffer.write(bytes.fromhex(DATA)); sys.stdout.flush()
while True:
    time.sleep(60)
"""


def test_counts_are_asked_for_and_the_last_ones_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pcap([(1.0, ethernet(ipv4(17, udp(1, 2, b"x"))))])
    _stand_in(tmp_path, monkeypatch, f"DATA = '{data.hex()}'\n" + COUNTING)
    with Capturing(Source("lo")) as capturing:
        assert capturing.stdout.read(len(data)) == data
        capturing.ask()
        for _ in range(6000):
            if capturing.dropped is not None:
                break
            time.sleep(0.01)
        assert (capturing.received, capturing.dropped) == (2, 1)
        capturing.stop()
        assert capturing.stdout.read() == b""
        assert capturing.ended() is None
    assert (capturing.received, capturing.dropped) == (7, 4)


def test_a_capture_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(
        tmp_path, monkeypatch, 'print("tcpdump: lo: You don\'t have permission to capture on that device", file=sys.stderr); sys.exit(1)'
    )
    with pytest.raises(ResourceError, match="permission to capture") as caught:
        Capturing(Source("lo"))
    assert "setcap" in caught.value.hint


def test_a_capture_that_ends_of_itself_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = 'print("listening on lo", file=sys.stderr, flush=True); time.sleep(0.3); sys.exit("The interface disappeared")'
    _stand_in(tmp_path, monkeypatch, body)
    with Capturing(Source("lo")) as capturing:
        assert capturing.stdout.read() == b""
        failure = capturing.ended()
    assert isinstance(failure, InputError)
    assert "The interface disappeared" in str(failure)


def test_packets_that_nobody_fetched_before_the_end_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel had seven, four of them dropped; two were read."""
    data = pcap([(1.0, ethernet(ipv4(17, udp(1, 2, b"x"))))] * 2)
    _stand_in(tmp_path, monkeypatch, f"DATA = '{data.hex()}'\n" + COUNTING)
    with Capturing(Source("lo")) as capturing:
        flows = LiveFlows(capturing.stdout, "lo", FlowOptions())
        live = Live(Analysis((), None, iter(())), flows, capturing)
        while flows.counts.packets < 2:
            time.sleep(0.01)
        assert live.counts().unfetched == 0
        capturing.stop()
        assert sum(map(len, flows.batches())) == 1
        assert capturing.ended() is None
        assert live.counts() == LiveCounts(packets=2, dropped=4, judged=1, waiting=0, left_out=0, evicted=0, unfetched=1)
        assert "4 dropped by the kernel, 1 not fetched from it before the end; 1 flows judged" in live.counts().in_words()
