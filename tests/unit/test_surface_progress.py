"""Progress where stderr is no terminal: a line a stage, where a stage stands about every 30 seconds, silence on request."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trafficllm.core.types import StageTime, announce
from trafficllm.surface.cli.main import run
from trafficllm.surface.terminal.progress import EVERY, Bar, StageLog


class _Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_a_stage_and_one_every_half_minute() -> None:
    clock, lines = _Clock(), []
    log = StageLog(lines.append, clock)
    log.update("reading", 0, 40)
    for done in (1, 2, 3):
        clock.now += 5
        log.update("reading", done, 40)
    log.update("tuning", 0, None)
    clock.now += EVERY
    log.update("tuning", 1200, None)
    assert lines == ["0 s: reading 0/40", "15 s: tuning (reading took 15 s)", "45 s: tuning 1.2k"]


def test_what_is_to_come_and_what_is_next() -> None:
    """Told once with times, then after each stage's name; stages whose time is unknown are only named as the next one."""
    clock, lines = _Clock(), []
    log = StageLog(lines.append, clock)
    log.expect([StageTime("reading"), StageTime("writing")])
    log.update("reading", 0, 9)
    clock.now += 40
    log.update("writing", 0, None)
    log.expect([StageTime("tuning", 20.0, "bounded"), StageTime("baselines", 240.0), StageTime("report")])
    for name in ("tuning", "unheard of", "baselines", "report"):
        clock.now += 2
        log.update(name, 0, None)
    assert lines == [
        "0 s: reading 0/9 (next: writing)",
        "40 s: writing (reading took 40 s)",
        "40 s: about 4 min 20 s to come: tuning 20 s (bounded), baselines 4 min, report",
        "42 s: tuning (writing took 2 s; next: baselines 4 min)",
        "44 s: unheard of (tuning took 2 s)",
        "46 s: baselines (unheard of took 2 s; next: report)",
        "48 s: report (baselines took 2 s)",
    ]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_bar_tells_what_is_to_come_unless_quiet(capfd: pytest.CaptureFixture[str], quiet: bool) -> None:
    with Bar(quiet=quiet, log=True) as bar:
        bar.expect([StageTime("tuning \x1b[31m", 2.0)])
        announce(bar, "tuning")
    assert capfd.readouterr().err.partition(" s: ")[2] == ("" if quiet else "about 2 s to come: tuning \\x1b[31m 2 s\n")


def test_stages_in_turn_have_one_line_each() -> None:
    clock, lines = _Clock(), []
    log = StageLog(lines.append, clock)
    for k in range(20):
        clock.now += 1
        log.update("reading", k, 20)
        log.update("scoring", k, 20)
    assert lines == ["1 s: reading 0/20", "1 s: scoring 0/20"]


def test_a_stage_that_calls_nobody_is_told_by_the_beat() -> None:
    clock, lines = _Clock(), []
    log = StageLog(lines.append, clock)
    log.beat()
    log.update("baselines", 0, None)
    clock.now += EVERY - 1
    log.beat()
    clock.now += 1
    log.beat()
    assert lines == ["0 s: baselines", "30 s: baselines"]


def test_a_short_job_says_nothing_before_half_a_minute() -> None:
    clock, lines = _Clock(), []
    log = StageLog(lines.append, clock, stages=False)
    log.update("read", 10, 100)
    log.update("verdicts", 5, None)
    assert lines == []
    clock.now += EVERY
    log.update("read", 60, 100)
    assert lines == ["30 s: read 60/100"]


def test_a_terminal_gets_bars_and_no_lines(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Bar(quiet=True, log=True) as bar:
        bar.update("reading", 1, 2)
    assert capfd.readouterr().err == ""


def test_captured_names_are_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    with Bar(log=True) as bar:
        bar.update("reading \x1b[31m", 0, None)
    assert capfd.readouterr().err.partition(" s: ")[2] == "reading \\x1b[31m\n"


@pytest.mark.parametrize("quiet", [False, True])
def test_a_log_of_data_build_shows_its_stages(captures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], quiet: bool) -> None:
    words = ["data", "build", str(captures / "MTD"), "-o", str(tmp_path / "d"), "--cap", "5", "--json", *(["--quiet"] if quiet else [])]
    assert run(words) == 0
    stages = [line.split(": ")[1].split()[0] for line in capfd.readouterr().err.splitlines()]  # on a busy machine some twice
    assert list(dict.fromkeys(stages)) == ([] if quiet else ["reading", "masking", "writing"])
