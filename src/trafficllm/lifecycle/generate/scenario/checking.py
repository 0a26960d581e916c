"""A scenario looked at by others: our own check and reader, tshark, Suricata and Zeek where they are installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from trafficllm.lifecycle.generate.scenario.results import ScenarioCheck

_FILTERS = 200
"""Display filters of one run of tshark: a run reads the capture once."""
_MOST_FILTERS = 2_000
"""Answers whose filters are run: tshark reads the capture twice for each 200."""
_MOST_ANSWERS = 100_000
"""Answers that are looked for by our reader: their counts are held in memory."""
_WALL = 600
"""Seconds that a tool may take."""
_BAD = "_ws.malformed || _ws.expert.severity >= 0x00800000"


def checks(folder: Path, *, rules: Sequence[str], verify: bool, merged: bool) -> list[ScenarioCheck]:
    """All looks at the scenario in `folder`; tools are asked with `verify` only. A capture merged with a real one has its faults too."""
    looks = [_valid(folder, merged=merged), _answers_read(folder)]
    tools = (("tshark valid", _tshark_valid), ("tshark answers", _tshark_answers), ("suricata", _suricata), ("zeek", _zeek))
    for name, look in tools:
        if not verify:
            looks.append(_check(name, None, "not asked for: --verify"))
        elif shutil.which(name.split(maxsplit=1)[0]) is None:
            looks.append(_check(name, None, f"{name.split(maxsplit=1)[0]} is not installed"))
        elif merged and look is _tshark_valid:
            looks.append(_check(name, None, "the capture that was merged with is not judged"))
        else:
            looks.append(look(folder, rules))
    return looks


def _check(name: str, passed: bool | None, detail: str) -> ScenarioCheck:
    status: Literal["passed", "failed", "skipped"] = "skipped" if passed is None else "passed" if passed else "failed"
    return ScenarioCheck(name=name, status=status, detail=detail)


def answers_in(folder: Path, most: int) -> Iterator[dict[str, Any]]:
    """The first answers, one at a time: the file has a line for each."""
    with (folder / "answers.json").open(encoding="utf-8") as stream:
        lines = (line for line in stream if line.startswith("{"))
        yield from (json.loads(line.rstrip(",\n")) for line in islice(lines, most))


def _valid(folder: Path, *, merged: bool) -> ScenarioCheck:
    from trafficllm.capture.check.captures import check

    if merged:
        return _check("capture check", None, "the capture that was merged with is not judged")
    report = check([folder / "capture.pcapng"])
    wrong = {"malformed": sum(report.malformed.values()), "checksums": report.bad_checksums, "TCP": len(report.tcp_violations)}
    detail = ", ".join(f"{count:,} {what}" for what, count in wrong.items())
    return _check("capture check", report.valid, f"{report.packets:,} packets: {detail}")


def _answers_read(folder: Path) -> ScenarioCheck:
    """Every answer is a flow of the capture for our reader, with as many packets."""
    from trafficllm.capture.flows.assembly import read_flows

    expected = {answer["community_id"]: answer["packets"] for answer in answers_in(folder, _MOST_ANSWERS)}
    asked = len(expected)
    for batch in read_flows([folder / "capture.pcapng"]):
        for community, packets in zip(batch.community_id.tolist(), batch.pkts.sum(axis=1).tolist(), strict=True):
            if community in expected:
                expected[community] -= packets
    wrong = sum(left != 0 for left in expected.values())
    return _check("answers read back", not wrong, f"{asked - wrong:,} of {asked:,} flows with all their packets")


def _ran(command: Sequence[str], *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - a tool of the user's path, arguments of ours
        command, capture_output=True, text=True, errors="replace", timeout=_WALL, check=False, cwd=cwd
    )


def _tshark_valid(folder: Path, _rules: Sequence[str]) -> ScenarioCheck:
    sums = [word for proto in ("ip", "tcp", "udp") for word in ("-o", f"{proto}.check_checksum:TRUE")]
    bad = f"{_BAD} || ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0"
    done = _ran(["tshark", "-n", "-r", str(folder / "capture.pcapng"), *sums, "-Y", bad, "-T", "fields", "-e", "frame.number"])
    frames = done.stdout.split()
    return _check("tshark valid", not done.returncode and not frames, f"{len(frames):,} malformed or wrong in a checksum")


def _tshark_answers(folder: Path, _rules: Sequence[str]) -> ScenarioCheck:
    """Each answer's filter shows exactly its packets, the first of which are its frames."""
    wrong: list[str] = []
    asked = 0
    batch: list[dict[str, Any]] = []
    for answer in answers_in(folder, _MOST_FILTERS):
        batch.append(answer)
        asked += 1
        if len(batch) == _FILTERS:
            wrong += _wrong_filters(folder, batch)
            batch = []
    wrong += _wrong_filters(folder, batch)
    detail = f"{asked - len(wrong):,} of {asked:,} filters show exactly their flow"
    return _check("tshark answers", not wrong, detail + (f"; not {wrong[0]}" if wrong else ""))


def _wrong_filters(folder: Path, answers: Sequence[dict[str, Any]]) -> list[str]:
    """Answers whose filter counts other packets than theirs, or whose frames it does not show."""
    if not answers:
        return []
    counts = filter_counts(folder / "capture.pcapng", [answer["filter"] for answer in answers])
    narrowed = [f"({answer['filter']}) && ({' || '.join(f'frame.number == {k}' for k in answer['frames'])})" for answer in answers]
    shown = filter_counts(folder / "capture.pcapng", narrowed)
    return [
        answer["community_id"]
        for answer, packets, frames in zip(answers, counts, shown, strict=True)
        if (packets, frames) != (answer["packets"], len(answer["frames"]))
    ]


def filter_counts(capture: Path, filters: Sequence[str]) -> list[int]:
    """How many frames each display filter shows, by one reading of the capture (`tshark -z io,stat`)."""
    done = _ran(["tshark", "-n", "-q", "-r", str(capture), "-z", ",".join(["io,stat,0", *(f"FRAMES()  {one}" for one in filters)])])
    return _io_stat(done.stdout, len(filters))


def _io_stat(table: str, columns: int) -> list[int]:
    """Numbers of the one row of an io,stat table."""
    rows = [line for line in table.splitlines() if "<>" in line and "|" in line]
    cells = [cell.strip() for cell in rows[-1].split("|")] if rows else []
    numbers = [int(cell) for cell in cells if cell.isdigit()]
    return numbers if len(numbers) == columns else [-1] * columns


def _suricata(folder: Path, rules: Sequence[str]) -> ScenarioCheck:
    """Rules fire where they must and stay silent where they must."""
    if not rules:
        return _check("suricata", None, "the scenario has no rule")
    wrong = []
    for name in rules:
        place = folder / "rules" / name
        with tempfile.TemporaryDirectory() as logs:
            command = ["suricata", "-r", str(place / "input.pcapng"), "-S", str(place / "test.rules"), "-l", logs, "-k", "none"]
            done = _ran(command, cwd=place)
            fired = _fired(Path(logs) / "eve.json")
        wanted = sum(1 for line in (place / "test.rules").read_text(encoding="utf-8").splitlines() if line)
        if done.returncode or (fired if name == "silent" else len(fired) < wanted):
            wrong.append(name)
    detail = f"{len(rules) - len(wrong)} of {len(rules)} captures as expected"
    return _check("suricata", not wrong, detail + (f"; not {', '.join(wrong)}" if wrong else ""))


def _fired(eve: Path) -> set[int]:
    """Numbers of the rules that fired."""
    if not eve.is_file():
        return set()
    with eve.open(encoding="utf-8", errors="replace") as stream:
        events = (json.loads(line) for line in stream if '"event_type":"alert"' in line)
        return {int(event["alert"]["signature_id"]) for event in events}


def _zeek(folder: Path, _rules: Sequence[str]) -> ScenarioCheck:
    """Zeek's own conn.log has as many connections as ours."""
    with tempfile.TemporaryDirectory() as logs:
        done = _ran(["zeek", "-C", "-r", str((folder / "capture.pcapng").resolve())], cwd=Path(logs))
        theirs = _rows(Path(logs) / "conn.log")
    ours = _rows(folder / "conn.log")
    return _check("zeek", not done.returncode and theirs == ours, f"{theirs:,} connections, ours {ours:,}")


def _rows(log: Path) -> int:
    if not log.is_file():
        return 0
    with log.open(encoding="utf-8", errors="replace") as stream:
        return sum(1 for line in stream if not line.startswith("#"))
