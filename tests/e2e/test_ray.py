"""Commands with --ray on a real local Ray: the same rows as one process, resumed, and what cannot be read named and left out."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from cli_runner import Cli

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))  # samples live there

import server_samples

from trafficllm.core.errors import ResourceError
from trafficllm.lifecycle.cluster import session
from trafficllm.lifecycle.cluster.session import Cluster, cluster, is_address
from trafficllm.surface.formats.columns import FLOW
from trafficllm.surface.parts.folder import MANIFEST, read_part

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Ray leaves the objects of its own processes to the collector, which complains where a start was late."""


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    """One Ray for all tests here: two workers, started once."""
    with cluster("local"):
        yield


def _captures(captures: Path, place: Path) -> list[Path]:
    place.mkdir()
    names = ("MTD/Zeus/Zeus_00.pcap", "MTD/Cridex/Cridex_00.pcap", "MTD/FTP/FTP_00.pcap")
    return [Path(shutil.copy(captures / name, place)) for name in names]


def _manifest(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return loaded


def test_flows_are_those_of_one_process(cli: Cli, captures: Path, tmp_path: Path) -> None:
    files = _captures(captures, tmp_path / "in")
    done = cli("capture", "flows", *files, "--ray", "-o", tmp_path / "out", "--quiet")
    assert (done.code, done.out) == (0, "")
    manifest = _manifest(tmp_path / "out")
    assert [row["file"] for row in manifest["parts"]] == list(map(str, files))
    total = 0
    for file, row in zip(files, manifest["parts"], strict=True):
        assert cli("capture", "flows", file, "-o", tmp_path / "alone.parquet", "--quiet").code == 0
        alone, part = pq.read_table(tmp_path / "alone.parquet"), pq.read_table(tmp_path / "out" / row["part"])
        assert part.select([column.name for column in FLOW]).equals(alone)
        assert set(part["file"].to_pylist()) == {str(file)}
        total += alone.num_rows
    assert manifest["rows"] == total == pq.read_table(tmp_path / "out").num_rows > 100


def test_what_is_done_is_not_done_again(cli: Cli, captures: Path, tmp_path: Path) -> None:
    files, out = _captures(captures, tmp_path / "in"), tmp_path / "out"
    assert cli("capture", "flows", tmp_path / "in", "--ray", "-o", out, "--quiet").code == 0
    first = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.iterdir()}
    whole = (out / MANIFEST).read_bytes()
    lost = next(path for path in out.iterdir() if read_part(path) and "Zeus" in read_part(path).file)  # type: ignore[union-attr]
    lost.unlink()
    (out / MANIFEST).unlink()
    assert cli("capture", "flows", tmp_path / "in", "--ray", "-o", out, "--quiet").code == 0
    again = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.iterdir()}
    assert (out / MANIFEST).read_bytes() == whole
    assert {name for name in first if first[name] == again[name]} == set(first) - {lost.name, MANIFEST}
    # a file that is gone takes its part along; a changed option makes every part anew
    files[0].unlink()
    assert cli("capture", "flows", tmp_path / "in", "--ray", "-o", out, "--no-tunnels", "--quiet").code == 0
    last = {path.name.partition("-")[2][7:]: path.stat().st_mtime_ns for path in out.glob("part-*")}
    before = {name.partition("-")[2][7:]: stamp for name, (_, stamp) in again.items() if name != MANIFEST}
    assert len(_manifest(out)["parts"]) == len(last) == 2
    assert not [name for name in last if last[name] == before[name]]
    # where no cluster answers, what lies there stays
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    cli("capture", "flows", tmp_path / "in", "--ray=nowhere", "-o", out, "--quiet").refused(2, "no address")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


def test_an_unreadable_file_is_named_and_left_out(cli: Cli, captures: Path, tmp_path: Path) -> None:
    files = _captures(captures, tmp_path / "in")
    files[1].write_bytes(b"no capture")
    done = cli("capture", "flows", *files, tmp_path / "missing.pcap", "--ray", "-o", tmp_path / "out", "--quiet")
    assert done.code == 3
    assert "not a capture" in done.err
    assert "missing.pcap" in done.err
    manifest = _manifest(tmp_path / "out")
    assert [row["file"] for row in manifest["parts"]] == [str(files[0]), str(files[2])]
    assert {row["input"] for row in manifest["failed"]} == {str(files[1]), str(tmp_path / "missing.pcap")}


def test_a_task_whose_worker_dies_again_and_again_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trafficllm.lifecycle.cluster.session.RETRIES", 0)
    outcomes = list(Cluster().finished(os._exit, [(3,)]))
    assert [(outcome.place, outcome.failure.code) for outcome in outcomes if outcome.failure] == [(0, "resource.worker")]


def test_ray_says_nothing_between_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """What its processes report of a dead worker went to stdout, into rows and JSON."""
    from ray._private import worker

    worker.print_to_stdstream({"lines": ["A worker died or was killed"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert capsys.readouterr().out == ""


class _Late:
    """A Ray whose processes come up at the last of some tries."""

    def __init__(self, late: int) -> None:
        self.late, self.tries = late, 0

    def init(self, **settings: Any) -> None:
        self.tries += 1
        if self.tries <= self.late:
            raise Exception("The current node timed out during startup.")  # noqa: TRY002 - as Ray does

    def shutdown(self) -> None:
        pass


def test_a_start_that_is_late_is_tried_again_and_then_named() -> None:
    late = _Late(1)
    session._start(late, {})
    assert late.tries == 2
    with pytest.raises(ResourceError, match="timed out during startup"):
        session._start(_Late(9), {})


def test_what_ray_cannot_do_is_said(cli: Cli, captures: Path, tmp_path: Path) -> None:
    file = captures / "MTD" / "FTP" / "FTP_00.pcap"
    cli("capture", "flows", file, "--ray").refused(2, "--ray writes a folder")
    cli("capture", "flows", "--ray", file).refused(2, "--ray writes a folder")
    cli("capture", "flows", file, "--ray", "-f", "jsonl", "-o", tmp_path / "x").refused(2, "Parquet")
    cli("capture", "flows", file, "--ray=nowhere", "-o", tmp_path / "x").refused(2, "no address")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    cli("capture", "flows", file, "--ray", "-o", tmp_path / "mine").refused(2, "notes.txt")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"
    assert not is_address("a.pcap")


def _labelled(captures: Path, place: Path) -> Path:
    for label in ("Zeus", "Cridex", "FTP"):
        (place / label).mkdir(parents=True)
        for name in sorted((captures / "MTD" / label).glob("*.pcap"))[:3]:
            shutil.copy(name, place / label)
    return place


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_data_set_is_that_of_one_process(cli: Cli, captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _labelled(captures, tmp_path / "in")
    assert cli("data", "build", folder, "-o", tmp_path / "alone", "--folds", 2, "--quiet").code == 0
    (folder / "Zeus" / "broken.pcap").write_bytes(b"no capture")
    build = ("data", "build", folder, "-o", tmp_path / "many", "--folds", 2, "--ray", "--quiet", "--json")
    # a run that ends before the data set stands leaves its shards to the next one
    with monkeypatch.context() as broken:
        broken.setattr("trafficllm.records.dataset.builder.data_card", lambda _: 1 / 0)
        assert cli(*build).code == 1
    shards = tmp_path / ".many.shards"
    made = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.arrow")}
    assert len(made) == 9
    (shards / "4.lists").unlink()
    with monkeypatch.context() as watched:
        watched.setattr("trafficllm.records.dataset.nodes.forget", lambda _: None)
        done = cli(*build)
    assert done.code == 3
    assert "broken.pcap" in done.err
    again = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.arrow")}
    assert {name for name in made if made[name] != again[name]} == {"4.arrow"}
    assert _files(tmp_path / "many") == _files(tmp_path / "alone")
    assert json.loads(cli(*build).out)["reused"] is True


@pytest.fixture(name="models", scope="module")
def _models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny base and a registry with an adapter for EAC."""
    return server_samples.write(tmp_path_factory.mktemp("models"))


def test_verdicts_are_those_of_one_process(cli: Cli, captures: Path, tmp_path: Path, models: tuple[Path, Path]) -> None:
    files = _captures(captures, tmp_path / "in")[1:]
    (tmp_path / "in" / "Zeus_00.pcap").write_bytes(b"no capture")
    which = ("--task", "EAC", "--base", models[0], "--registry", models[1])
    out = tmp_path / "out"
    cli("analyze", tmp_path / "in", *which, "--ray", "-o", out, "--hosts").refused(2, "--hosts")
    done = cli("analyze", tmp_path / "in", *which, "--ray", "-o", out, "--fail-on", "unknown", "--only", "unknown", "--only", "DNS")
    assert done.code == 3
    assert "Zeus_00.pcap: not a capture" in done.err
    rows = pq.read_table(out).to_pylist()
    alone = []
    for file in files:
        assert cli("analyze", file, *which, "-o", tmp_path / "v.parquet", "--quiet").code == 0
        alone += [row for row in pq.read_table(tmp_path / "v.parquet").to_pylist() if row["label"] in {"unknown", "DNS"}]
    assert len(rows) == len(alone) > 20
    for ours, theirs in zip(rows, alone, strict=True):
        assert dict(ours.pop("probabilities")) == pytest.approx(dict(theirs.pop("probabilities")), abs=1e-5)
        close = {name: ours.pop(name) for name in ("confidence", "unknown_score")}
        assert close == pytest.approx({name: theirs.pop(name) for name in close}, abs=1e-4)
        assert ours == theirs
    facts = [row["facts"] for row in _manifest(out)["parts"]]
    assert sum(fact["hits"] for fact in facts) == sum(row["label"] == "unknown" for row in rows)


def test_vectors_are_those_of_one_process(cli: Cli, captures: Path, tmp_path: Path, models: tuple[Path, Path]) -> None:
    files, out = _captures(captures, tmp_path / "in")[1:], tmp_path / "out"
    which = ("--base", models[0], "--registry", models[1], "--quiet")
    done = cli("embed", *files, *which, "--ray", "-o", out, "--json")
    assert done.code == 0
    assert done.body("embed")["flows"] == pq.read_table(out).num_rows > 20
    assert cli("embed", files[0], *which, "-o", tmp_path / "v.parquet").code == 0
    alone, part = pq.read_table(tmp_path / "v.parquet"), pq.read_table(out / _manifest(out)["parts"][0]["part"])
    assert part.drop_columns("vector").to_pylist() == alone.drop_columns("vector").to_pylist()
    flat = [[number for row in table["vector"].to_pylist() for number in row] for table in (part, alone)]
    assert flat[0] == pytest.approx(flat[1], abs=1e-5)
    # parts are known flows: every flow finds itself among them
    near = cli("embed", files[0], *which, "--known", out, "--neighbours", 1, "--json").body("embed")["nearest"]
    assert {row["nearest"][0]["similarity"] for row in near} == {1.0}
    cli("embed", files[0], *which, "--ray", "-o", tmp_path / "x", "--known", out).refused(2, "--known")


def test_an_evaluation_is_that_of_one_process(cli: Cli, captures: Path, tmp_path: Path, models: tuple[Path, Path]) -> None:
    for label in server_samples.LABELS:
        (tmp_path / "in" / label).mkdir(parents=True)
        for file in sorted((captures / "EAC" / label).glob("*.pcap"))[:4]:
            shutil.copy(file, tmp_path / "in" / label)
    assert cli("data", "build", tmp_path / "in", "-o", tmp_path / "data", "--task", "EAC", "--split", "flow", "--quiet").code == 0
    which = (tmp_path / "data", "--base", models[0], "--registry", models[1], "--no-baselines", "--quiet", "--json")
    alone, many = (cli("evaluate", "run", *which, *more).body("evaluate.run") for more in ((), ("--ray",)))
    for body in (alone, many):
        del body["cost"], body["baselines"]  # seconds stand there
    assert alone["n_test"] > 10
    assert many == alone
    cli("embed", tmp_path / "data", "--base", models[0], "--ray", "-o", tmp_path / "x").refused(2, "leave --ray out")
