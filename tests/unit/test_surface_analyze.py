"""`analyze` on its way out: filters, the summary, Ctrl-C, `--fail-on`."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter
from test_surface_formats import ROW

from trafficllm.capture.files.read import Skipped
from trafficllm.core.errors import InputError
from trafficllm.core.types import FlowMeta
from trafficllm.infer.detector import Verdict, VerdictRow
from trafficllm.lifecycle.analyze.analysis import Analysis
from trafficllm.lifecycle.analyze.hosts import HostRow, Hosts
from trafficllm.lifecycle.analyze.results import Analyze
from trafficllm.surface.cli.analyze import Hits, _kept, _pump
from trafficllm.surface.cli.main import run
from trafficllm.surface.formats.eve import EveEvent, EveHostEvent
from trafficllm.surface.terminal.output import show_table
from trafficllm.surface.terminal.progress import Bar
from trafficllm.surface.terminal.summary import Summary, runs

pytestmark = pytest.mark.usefixtures("interruptible")
UMBRELLA = {"Zeus": "malicious", "FTP": "benign"}


def _row(label: str, confidence: float, uid: int) -> dict[str, Any]:
    return {**ROW, "label": label, "umbrella": UMBRELLA.get(label, "unknown"), "confidence": confidence, "uid": f"C{uid}"}


def _analysis(batches: Iterator[list[dict[str, Any]]]) -> Analysis:
    names = frozenset({"Zeus", "FTP", "unknown", "malicious", "benign"})
    return Analysis(("MTD",), None, batches, names, notable={"MTD": frozenset({"malicious"})})


def _batches(stop: bool) -> Iterator[list[dict[str, Any]]]:
    yield [_row("FTP", 0.9, 1), _row("Zeus", 0.6, 2), _row("Zeus", 0.8, 3)]
    if stop:
        raise KeyboardInterrupt
    yield [_row("unknown", 0.3, 4), *(_row("FTP", 0.5, n) for n in range(5, 65))]


def _run(
    tmp_path: Path, *, stop: bool = False, least: float = 0.0, only: tuple[str, ...] = (), form: str = "jsonl"
) -> tuple[bool, Summary, list[str]]:
    analysis = _analysis(_batches(stop))
    summary = Summary(analysis)
    out = tmp_path / "v.jsonl"
    kept = _kept(analysis, summary, Hits((), least=least), only)
    stopped = _pump(kept, summary, form, str(out) if form != "table" else "-")
    return stopped, summary, out.read_text().splitlines() if out.exists() else []


def test_every_flow_has_a_line(tmp_path: Path) -> None:
    stopped, summary, lines = _run(tmp_path)
    assert (stopped, summary.flows, len(lines)) == (False, 64, 64)
    assert summary.above() == {"MTD": {"benign": 61, "malicious": 2, "unknown": 1}}
    assert summary.result().verdicts == {"MTD": {"FTP": 61, "Zeus": 2, "unknown": 1}}


def test_filters_leave_lines_out_but_count_all(tmp_path: Path) -> None:
    assert len(_run(tmp_path, only=("malicious",))[2]) == 2
    _, summary, lines = _run(tmp_path, least=0.6)
    assert (summary.flows, len(lines)) == (64, 3)


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    stopped, summary, lines = _run(tmp_path, stop=True)
    assert (stopped, summary.flows, len(lines)) == (True, 3, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["v.jsonl"]


def test_notable_first_and_bounded(tmp_path: Path) -> None:
    _, summary, _ = _run(tmp_path, form="table")
    notable = summary.notable()
    assert [row["uid"] for row in notable[:4]] == ["C3", "C2", "C4", "C1"]
    assert len(notable) == 20


@pytest.mark.parametrize(("least", "label", "hits"), [(0.0, "malicious", 2), (0.7, "Zeus", 1), (0.95, "Zeus", 0)])
def test_fail_on_counts_what_is_sure_enough(least: float, label: str, hits: int) -> None:
    analysis = _analysis(_batches(stop=False))
    found = Hits((label,), least=least)
    assert sum(len(rows) for rows in _kept(analysis, Summary(analysis), found, ("FTP",))) == (61 if least == 0 else least < 0.9)
    assert found.count == hits


def test_both_steps_can_be_asked_for() -> None:
    """A malicious flow of no known family is `unknown` by its label and `malicious` by the answer above it."""
    stranger = {**_row("unknown", 0.9, 1), "umbrella": "malicious"}
    clear = {**_row("benign", 0.9, 2), "umbrella": "benign"}
    for label, hits in (("malicious", 1), ("unknown", 1), ("benign", 1), ("Zeus", 0)):
        analysis = _analysis(iter([[stranger, clear]]))
        asked = Hits((label,), least=0.0)
        list(_kept(analysis, Summary(analysis), asked, ()))
        assert asked.count == hits, label
    assert (analysis.severity(stranger), analysis.severity(clear)) == (1, 0)
    assert analysis.severity(_row("unknown", 0.9, 3)) == 2
    assert analysis.severity({**_row("not covered", 0.9, 3), "umbrella": "not covered"}) == 0


# The whole command, with verdicts of our own


def _command(
    monkeypatch: pytest.MonkeyPatch,
    batches: Callable[[], Iterator[list[dict[str, Any]]]],
    unread: InputError | None = None,
    hosts: Hosts | None = None,
) -> None:
    """`analyze` gets these batches, whatever the capture."""

    def analyze(*_: Any, skipped: Skipped, **__: Any) -> Analysis:
        if unread is not None:
            skipped.add(unread)
        info = {"packets": 9, "bytes": 9, "first": None, "last": None, "link_types": {}, "truncated": 0, "malformed": {}}
        info |= {"non_ip": 0, "non_flow": 0, "flows": 3, "evicted": 0}
        made = _analysis(batches())
        uncovered = {"MTD": 5 if hosts else 0}
        return replace(made, counts=lambda: info, hosts=hosts or Hosts({}), uncovered=lambda: uncovered)

    monkeypatch.setattr("trafficllm.lifecycle.analyze.verdicts.start", analyze)


def _until_ctrl_c() -> Iterator[list[dict[str, Any]]]:
    yield [_row("FTP", 0.9, 1), _row("Zeus", 0.6, 2)]
    yield [_row("Zeus", 0.8, 3)]
    os.kill(os.getpid(), signal.SIGINT)
    yield [_row("Zeus", 0.7, number) for number in range(4, 400)]


READERS: dict[str, Callable[[bytes], int]] = {
    "jsonl": lambda data: len([TypeAdapter(VerdictRow).validate_json(line) for line in data.splitlines()]),
    "eve": lambda data: len([TypeAdapter(EveEvent).validate_json(line) for line in data.splitlines()]),
    "csv": lambda data: len(list(csv.DictReader(io.StringIO(data.decode())))),
    "zeek": lambda data: sum(not line.startswith(b"#") for line in data.splitlines()),
    "parquet": lambda data: pq.read_table(io.BytesIO(data)).num_rows,
}


@pytest.mark.parametrize("form", READERS)
@pytest.mark.parametrize("to_file", [True, False])
def test_ctrl_c_leaves_a_valid_stream(
    form: str, to_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    _command(monkeypatch, _until_ctrl_c)
    out = tmp_path / "verdicts"
    assert run(["analyze", "x.pcap", "-f", form, *(["-o", str(out)] if to_file else [])]) == 130
    printed, said = capfdbinary.readouterr()
    assert READERS[form](out.read_bytes() if to_file else printed) == 3
    assert b"interrupted" in said


def test_ctrl_c_while_rows_are_written_waits_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes in the middle of a batch: the batch is still written whole."""
    from trafficllm.surface.formats import writers as formats

    real = formats.Lines.write

    def interrupted(self: Any, rows: list[dict[str, Any]]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(self, rows)

    monkeypatch.setattr(formats.Lines, "write", interrupted)
    _command(monkeypatch, lambda: _batches(stop=False))
    assert run(["analyze", "x.pcap", "-f", "jsonl", "-o", str(tmp_path / "v")]) == 130
    assert READERS["jsonl"]((tmp_path / "v").read_bytes()) == 3


def test_a_background_job_is_not_woken_by_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell starts background jobs with SIGINT ignored."""
    _command(monkeypatch, _until_ctrl_c)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run(["analyze", "x.pcap", "-f", "jsonl", "-o", str(tmp_path / "v")]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert READERS["jsonl"]((tmp_path / "v").read_bytes()) == 399


@pytest.mark.parametrize(("batches", "code"), [(_until_ctrl_c, 130), (lambda: _batches(stop=False), 7)])
def test_json_stays_one_object(batches: Any, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    _command(monkeypatch, batches)
    assert run(["analyze", "x.pcap", "--json", "--fail-on", "malicious"]) == code
    out, err = capfd.readouterr()
    body = json.loads(out)
    assert (body["schema"], body["interrupted"]) == ("trafficllm.analyze/1", code == 130)
    assert err.startswith("error: ")


def test_the_table_says_it_at_a_glance(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    _command(monkeypatch, lambda: _batches(stop=False))
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["analyze", "x.pcap"]) == 0
    out = capfd.readouterr().out
    assert "Next: trafficllm analyze x.pcap --task MTD --only Zeus --explain" in out
    assert "64 flows of a.pcap. MTD: 61 benign, 2 malicious, 1 unknown" in out
    first = next(line for line in out.splitlines() if ROW["community_id"] in line)
    assert first.split()[:4] == ["Zeus", "0.800", "192.0.2.1:49152", "[2001:db8::1]:443"]
    assert runs([1, 2, 4]) == "1-2, 4"
    assert runs([]) == ""


def test_progress_shows_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    import sys
    import time

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Bar() as bar:
        for done in (0, 10_000, 20_000):
            bar.update("read", done, 40_000)
            time.sleep(0.15)
    err = capfd.readouterr().err
    assert "20.0k/40.0k" in err
    assert "k/s" in err
    assert "0:00:00" in err


def test_every_part_of_a_record_has_a_name_for_people() -> None:
    from trafficllm.infer.evidence import FIELDS
    from trafficllm.surface.terminal.summary import WORDS, in_words

    assert set(WORDS) == {*FIELDS, "packet"}
    assert in_words({"frame": 4, "field": "payload", "weight": 0.5}) == "first payload bytes, in frame 4 (-0.50)"


@pytest.mark.parametrize(("batches", "code"), [(_until_ctrl_c, 130), (lambda: _batches(stop=False), 3)])
@pytest.mark.parametrize("form", ["json", "jsonl", "table"])
def test_a_file_that_was_not_read_outweighs_fail_on(
    form: str, batches: Any, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends with 130, an unread file with 3, else --fail-on with 7; all that happened is said."""
    _command(monkeypatch, batches, InputError("input.format", "not a capture", input="b.pcap", hint="editcap"))
    words = ["--json"] if form == "json" else ["-f", form]
    assert run(["analyze", "a.pcap", "b.pcap", *words, "--fail-on", "malicious"]) == code
    out, err = capfd.readouterr()
    assert "error: b.pcap: not a capture (editcap)" in err.splitlines()
    assert ("interrupted" if code == 130 else "1 input could not be read") in err.splitlines()[-1]
    assert [text for text in ("2 flows are malicious", "3 flows are malicious", "1 input could") if text in err][1:] == ["1 input could"]
    if form == "json":
        assert [failure["input"] for failure in Analyze.model_validate(_bare(out)).model_dump()["failed"]] == ["b.pcap"]
    elif form == "table":
        assert "flows of a.pcap, 1 more not read" in out
    else:
        assert READERS["jsonl"](out.encode()) == (64 if code == 3 else 3)


def _bare(text: str) -> dict[str, Any]:
    """The object of --json without its envelope."""
    return {name: value for name, value in json.loads(text).items() if name not in {"schema", "ok"}}


# A row a host

HOST_READERS: dict[str, Callable[[bytes], list[str]]] = {
    "jsonl": lambda data: [TypeAdapter(HostRow).validate_json(line)["host"] for line in data.splitlines()],
    "eve": lambda data: [TypeAdapter(EveHostEvent).validate_json(line)["src_ip"] for line in data.splitlines()],
    "csv": lambda data: [row["host"] for row in csv.DictReader(io.StringIO(data.decode()))],
    "zeek": lambda data: [line.split(b"\t")[1].decode() for line in data.splitlines() if not line.startswith(b"#")],
    "parquet": lambda data: pq.read_table(io.BytesIO(data))["host"].to_pylist(),
}


def _hosts() -> Hosts:
    """Three hosts of one flow each: malicious, benign, unknown."""
    hosts = Hosts({"MTD": ("malicious", None, True)})
    for k, (label, answer) in enumerate((("FTP", "benign"), ("Zeus", "malicious"), ("unknown", "unknown"))):
        meta = FlowMeta(orig_h=f"10.0.0.{k}", capture="x.pcap", frames=(k + 1,))
        hosts.add(Verdict(meta, "MTD", label, 0.9, {}, 0.0, umbrella=answer, umbrella_probability=0.5, malice=True))
    return hosts


@pytest.mark.parametrize("form", HOST_READERS)
def test_a_row_a_host_in_every_form(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _command(monkeypatch, lambda: _batches(stop=False), hosts=_hosts())
    out = tmp_path / "hosts"
    assert run(["analyze", "x.pcap", "--hosts", "-f", form, "-o", str(out), *(["--alert"] if form == "eve" else [])]) == 0
    assert HOST_READERS[form](out.read_bytes()) == ["10.0.0.1", "10.0.0.2", "10.0.0.0"]
    if form == "eve":
        assert [json.loads(line)["event_type"] for line in out.read_text().splitlines()] == ["alert", "trafficllm", "trafficllm"]


def test_hosts_are_chosen_by_answer_and_by_their_flows_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hosts"
    for label, found in (("malicious", ["10.0.0.1"]), ("FTP", ["10.0.0.0"]), ("unknown", ["10.0.0.2"])):
        _command(monkeypatch, lambda: _batches(stop=False), hosts=_hosts())
        assert run(["analyze", "x.pcap", "--hosts", "--only", label, "-f", "jsonl", "-o", str(out)]) == 0
        assert HOST_READERS["jsonl"](out.read_bytes()) == found
    capfd.readouterr()
    _command(monkeypatch, lambda: _batches(stop=False), hosts=_hosts())
    assert run(["analyze", "x.pcap", "--hosts", "--fail-on", "malicious"]) == 7
    printed, said = capfd.readouterr()
    assert [name for name in ("10.0.0.0", "10.0.0.1", "10.0.0.2") if name in printed] == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
    assert "192.0.2" not in printed, "no flows in this table"
    assert "5 flows are not covered" in said


def test_hosts_after_ctrl_c_are_those_seen_until_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _command(monkeypatch, _until_ctrl_c, hosts=_hosts())
    assert run(["analyze", "x.pcap", "--hosts", "-f", "csv", "-o", str(tmp_path / "h")]) == 130
    assert len(HOST_READERS["csv"]((tmp_path / "h").read_bytes())) == 3


def test_hosts_of_a_task_without_the_question_are_refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    _command(monkeypatch, lambda: _batches(stop=False))
    assert run(["analyze", "x.pcap", "--hosts"]) == 2
    assert "no host answer" in capfd.readouterr().err


def test_the_summary_shows_notable_hosts(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    _command(monkeypatch, lambda: _batches(stop=False), hosts=_hosts())
    assert run(["analyze", "x.pcap", "--json"]) == 0
    body = json.loads(capfd.readouterr().out)
    assert body["hosts"] == {"MTD": {"malicious": 1, "unknown": 1, "not malicious": 1}}
    assert [row["host"] for row in body["notable_hosts"]] == ["10.0.0.1"]


def test_numbers_of_a_table_are_whole_where_it_is_wider_than_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("task", *(f"learner {k}" for k in range(9)))
    show_table(names, [("MTD", *(f"0.{794 + k}-0.{943 - k}" for k in range(9)))], right=names[1:])
    said = capsys.readouterr().out
    assert [text for text in said.split() if text.startswith("0.")] == [f"0.{794 + k}-0.{943 - k}" for k in range(9)]


def test_addresses_fold_only_where_the_terminal_is_too_narrow(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("unknown", "10.200.145.16:55542", "192.178.155.95:443", "1705, 1710, 1712, 1716-1717, 1732, 1743-1749, 1760")]
    for columns, kept in ((80, True), (48, False)):
        monkeypatch.setenv("COLUMNS", str(columns))
        show_table(("verdict", "from", "to", "frames"), rows, whole=("from", "to"))
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= columns
        assert (rows[0][1] in said and rows[0][2] in said) is kept
