"""Bad input: one clear line (what, where, remedy), the right exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_runner import REPO, Cli

ONE_FLOW = "MTD/Zeus/Zeus_00.pcap"


def _labelled(root: Path, captures: Path, *labels: str) -> Path:
    for label in labels:
        target = root / label
        target.mkdir(parents=True)
        name = label.split("/")[-1]
        source = captures / "MTD" / (name if (captures / "MTD" / name).is_dir() else "Zeus")
        shutil.copyfile(sorted(source.glob("*.pcap"))[0], target / "a.pcap")
    return root


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _one_packet(source: Path) -> bytes:
    raw = source.read_bytes()
    return raw[: 24 + 16 + int.from_bytes(raw[32:36], "little")]


def test_missing_file(cli: Cli, tmp_path: Path) -> None:
    for words in (["capture", "info"], ["capture", "flows"], ["capture", "packets"], ["capture", "check"]):
        cli(*words, tmp_path / "no.pcap").refused(3, "no such file")
    assert json.loads(cli("capture", "info", tmp_path / "no.pcap", "--json").out)["error"]["code"] == "input.missing"


def test_missing_file_is_known_before_a_model_is_loaded(cli: Cli, tmp_path: Path) -> None:
    cli("analyze", tmp_path / "no.pcap").refused(3, "no such file")


def test_folder_without_captures(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cli("capture", "info", tmp_path / "empty").refused(3, "captures")
    cli("data", "build", tmp_path / "empty", "-o", tmp_path / "d").refused(3, "captures")
    assert not (tmp_path / "d").exists()


def test_label_with_one_flow(cli: Cli, captures: Path, tmp_path: Path) -> None:
    folder = _labelled(tmp_path / "in", captures, "Zeus", "Neris")
    (folder / "Lonely").mkdir()
    (folder / "Lonely" / "a.pcap").write_bytes(_one_packet(captures / ONE_FLOW))
    done = cli("data", "build", folder, "-o", tmp_path / "d")
    done.refused(3, "one flow")
    assert "Lonely" in done.err
    assert _names(tmp_path) == ["in"]


@pytest.mark.parametrize("label", ["..", "..x/../y"])
def test_label_that_leaves_its_folder(cli: Cli, captures: Path, tmp_path: Path, label: str) -> None:
    done = cli("data", "build", tmp_path, "-o", tmp_path / "d", "--task", f"../{label}")
    assert done.code in {2, 3}
    assert len(done.said()) == 1
    assert not (tmp_path / "d").exists()


def test_label_with_slash_and_dots_stays_inside(cli: Cli, captures: Path, tmp_path: Path) -> None:
    """A folder cannot be called `../x`; one called `..x` or `a\\..\\b` can, and must not move anything."""
    folder = _labelled(tmp_path / "in", captures, "Zeus", "Neris")
    evil = folder / "a\\..\\b"
    shutil.copytree(folder / "Zeus", evil)
    done = cli("data", "build", folder, "-o", tmp_path / "d")
    assert done.code == 3, done
    assert "outside its folder" in done.err
    assert _names(tmp_path) == ["in"]


def test_task_named_dot_dot(cli: Cli, captures: Path, tmp_path: Path) -> None:
    done = cli("adapter", "register", captures / "EAC", "--task", "../x")
    assert done.code in {2, 3}
    assert not (tmp_path / "x").exists()


def test_text_file_named_pcap(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.pcap").write_text("This is no capture, it is a letter.\n" * 20)
    cli("capture", "info", tmp_path / "a.pcap").refused(3, "a.pcap")


def test_cut_capture_gives_what_is_there(cli: Cli, captures: Path, tmp_path: Path) -> None:
    whole = (captures / ONE_FLOW).read_bytes()
    (tmp_path / "cut.pcap").write_bytes(whole[: len(whole) // 2])
    body = cli("capture", "info", tmp_path / "cut.pcap", "--json").body("capture.info")
    full = cli("capture", "info", captures / ONE_FLOW, "--json").body("capture.info")
    assert 0 < body["packets"] < full["packets"]
    assert body["malformed"]["file.cut"] == 1


def test_unknown_task(cli: Cli, captures: Path, tmp_path: Path) -> None:
    cli("task", "show", "MTDD").refused(2, "did you mean 'MTD'")
    cli("data", "build", captures / "EAC", "-o", tmp_path / "d", "--task", "EAX").refused(2, "did you mean 'EA")
    cli("analyze", captures / ONE_FLOW, "--task", "MTDD").refused(2, "MTD")
    cli("generate", "--task", "MTX", "--label", "Zeus", "-o", tmp_path / "x.pcap").refused(2, "MT")
    cli("adapter", "register", captures / "EAC", "--task", "EAX").refused(2, "did you mean 'EA")


def test_no_adapter_yet(cli: Cli, captures: Path) -> None:
    cli("analyze", captures / ONE_FLOW, "--json").body("error")
    done = cli("analyze", captures / ONE_FLOW)
    assert done.code == 4
    assert done.out.startswith("836 packets, 280 flows, 6 hosts")  # what needs no adapter
    assert "adapter register" in done.err
    cli("task", "route", "is this malware?").refused(4, "router")


def test_background_that_holds_nothing_and_rates_that_are_none(cli: Cli, tmp_path: Path, captures: Path) -> None:
    (tmp_path / "empty").mkdir()
    words = ("adapter", "register", captures / "MTD", "--task", "MTD")
    cli(*words, "--background", tmp_path / "empty").refused(3, "harmless flows of other networks")
    cli(*words, "--background", tmp_path / "no").refused(3, "no such folder")
    update = ("adapter", "update", captures / "MTD", "--task", "MTD")
    cli(*words, "--background", tmp_path / "empty", "--no-background").refused(3, "harmless flows of other networks")
    for command in (words, update):
        for wrong in ("0", "0.5", "many"):
            cli(*command, "--false-positives", wrong).refused(2, "--false-positives")


def test_wrong_words(cli: Cli) -> None:
    cli("nonsense").refused(2, "nonsense")
    cli("capture", "flows").refused(2, "FILE")
    cli("capture", "flows", "x.pcap", "-f", "yaml").refused(2, "jsonl")
    cli("capture", "flows", "x.pcap", "--colour").refused(2, "--colour")
    assert json.loads(cli("nonsense", "--json").out)["error"]["code"] == "usage"


def test_config_typo(cli: Cli, captures: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[tune]\nlearning_rat = 1\n")
    cli("config", "show", "--config", tmp_path / "c.toml").refused(2, "learning_rate")


@contextmanager
def _small_files(limit: int) -> Iterator[None]:
    """Files may not grow beyond `limit` bytes: what a full disk does to a writer, without a disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_full_disk_while_a_data_set_is_written(cli: Cli, captures: Path, tmp_path: Path) -> None:
    folder = _labelled(tmp_path / "in", captures, "Zeus", "Neris")
    with _small_files(20_000):
        done = cli("data", "build", folder, "-o", tmp_path / "d")
    assert done.code == 6, done
    assert len(done.said()) == 1
    assert _names(tmp_path) == ["in"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "zeek", "eve"])
def test_full_disk_while_flows_are_written(cli: Cli, captures: Path, tmp_path: Path, form: str) -> None:
    with _small_files(4096):
        done = cli("capture", "flows", captures / "MTD" / "Neris", "-f", form, "-o", tmp_path / "out" / "flows")
    assert done.code == 6, done
    assert list((tmp_path / "out").iterdir()) == []


def test_really_full_disk(captures: Path, tmp_path: Path, cli: Cli) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small disk needs root")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a small disk here")
    try:
        done = cli("data", "build", _labelled(tmp_path / "in", captures, "Zeus", "Neris"), "-o", disk / "d")
        assert done.code == 6, done
        assert "full" in done.err
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_no_permission(cli: Cli, captures: Path) -> None:
    done = cli("capture", "flows", captures / ONE_FLOW, "-f", "csv", "-o", "/proc/nowhere/x.csv")
    assert done.code == 6
    assert len(done.said()) == 1


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c(captures: Path, tmp_path: Path) -> None:
    """A real SIGINT to a real process, in the middle of a data set."""
    words = [sys.executable, "-m", "trafficllm", "data", "build", str(captures / "MTD"), "-o", str(tmp_path / "d")]
    environment = {**os.environ, "PYTHONPATH": str(REPO / "src")}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not any(tmp_path.glob("*/*")) and time.monotonic() < until:  # the data set's unfinished folder, at work
        time.sleep(0.02)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, (out, err)
    assert out == ""
    assert err.count("\n") == 1
    assert "interrupted" in err
    assert list(tmp_path.iterdir()) == []


def test_a_bug_of_ours_is_one_line(cli: Cli, captures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trafficllm.lifecycle.analyze import captures as room

    def broken(*_: object) -> None:
        raise ZeroDivisionError("by\x1b[31mnought")

    monkeypatch.setattr(room, "info", broken)
    done = cli("capture", "info", captures / ONE_FLOW)
    done.refused(1, "TRAFFICLLM_DEBUG")
    assert "\x1b" not in done.err
    monkeypatch.setenv("TRAFFICLLM_DEBUG", "1")
    assert "Traceback" in cli("capture", "info", captures / ONE_FLOW).err


def test_a_bad_file_among_good_ones(cli: Cli, captures: Path, tmp_path: Path) -> None:
    """The good files' rows are all there, the bad ones are named with reason and remedy, and the exit code is 3."""
    good = sorted((captures / "MTD" / "Zeus").glob("*.pcap"))[:2]
    (tmp_path / "bad.pcap").write_bytes(b"GIF89a")
    paths = [good[0], tmp_path / "bad.pcap", tmp_path / "none.pcap", good[1]]
    for words in (["flows", "-f", "jsonl"], ["packets"]):
        alone, done = cli("capture", *words, *good), cli("capture", *words, *paths)
        assert (alone.code, done.code, done.out) == (0, 3, alone.out)
        assert alone.out
        said = done.err.splitlines()
        assert "none.pcap: no such file" in said[0]
        assert "bad.pcap: not a capture" in said[1]
        assert "editcap" in said[1]
        assert "2 inputs could not be read" in said[2]
        assert len(said) == 3
    done = cli("capture", "info", *paths, "--json")
    body = done.body("capture.info")
    assert done.code == 3
    assert body == {**cli("capture", "info", *good, "--json").body("capture.info"), "failed": body["failed"]}
    assert [Path(failure["input"]).name for failure in body["failed"]] == ["none.pcap", "bad.pcap"]


def test_a_bad_file_in_a_folder_or_a_glob(cli: Cli, captures: Path, tmp_path: Path) -> None:
    shutil.copyfile(captures / ONE_FLOW, tmp_path / "a.pcap")
    alone = cli("capture", "flows", tmp_path / "a.pcap", "-f", "csv")
    (tmp_path / "b.pcap").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no capture, and not called one")
    for given in (tmp_path, tmp_path / "*.pcap"):
        done = cli("capture", "flows", given, "-f", "csv")
        assert (done.code, done.out) == (3, alone.out)
        assert "b.pcap: the file is empty" in done.err
        assert "notes.txt" not in done.err
    out = tmp_path / "flows.parquet"
    cli("capture", "flows", tmp_path / "b.pcap", "-f", "parquet", "-o", out).refused(3, "empty")
    assert cli("capture", "flows", tmp_path / "b.pcap", tmp_path / "b.pcap", "-f", "parquet", "-o", out).code == 3
    assert not out.exists()
