"""Every command of docs/evaluation.md runs, in its order, on three families and for seconds; bodies against the committed schemas."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from cli_runner import REPO, Cli

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))  # the tiny base lives there

import evaluate_samples
import infer_samples

from trafficllm.evaluate.by_source import learners

SMALL = {"--max-seconds": "1", "--budget": "1", "--draws": "1"}


@pytest.fixture(autouse=True, scope="module")
def _few_trees() -> Iterator[None]:
    with evaluate_samples.few_trees():
        yield


@pytest.fixture(name="place", scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captures of three families in three laboratories, harmless ones, a capture nothing is learnt from, a tiny random base."""
    root = tmp_path_factory.mktemp("evaluation")
    captures = REPO / "src" / "trafficllm" / "data" / "captures" / "MTD"
    for label in ("Geodo", "Neris", "Virut"):
        for number in (0, 1, 2):
            (root / "captures" / label / f"lab{number}").mkdir(parents=True)
            shutil.copyfile(
                captures / label / f"{label}_0{number}.pcap", root / "captures" / label / f"lab{number}" / f"{label}_0{number}.pcap"
            )
    for label in ("Gmail", "SMB", "Skype"):
        (root / "office" / label.lower()).mkdir(parents=True)
        shutil.copyfile(captures / label / f"{label}_00.pcap", root / "office" / label.lower() / f"{label}_00.pcap")
    shutil.copyfile(captures / "Neris" / "Neris_03.pcap", root / "new.pcap")
    infer_samples.write_base(root / "base")
    return root


def commands() -> list[list[str]]:
    """The shell commands of the page as words, numbers that cost time made small."""
    page = (REPO / "docs" / "evaluation.md").read_text(encoding="utf-8")
    text = "\n".join(re.findall(r"^```sh\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [[SMALL.get(words[k - 1], word) if k else word for k, word in enumerate(words)] for words in lines if words]


def test_commands_of_the_page(place: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in place.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAFFICLLM_BASE", str(place / "base"))
    monkeypatch.setattr("trafficllm.lifecycle.adapters.learn.SEARCH_SECONDS", 1.0)
    quick = (learners.Booster(rounds=5), learners.Forest(trees=5), learners.Booster(rounds=5, identifiers=True))
    monkeypatch.setattr(learners, "baselines", lambda **_: quick)
    bodies: dict[str, Any] = {}
    found = commands()
    assert len(found) >= 5
    for words in found:
        assert words[0] == "trafficllm"
        if words[1] == "data":
            words[3:3] = ["--cap", "30"]
        if words[1:3] in [["evaluate", name] for name in ("run", "robust", "transfer", "drift")]:
            words[3:3] = ["--budget", "1", *(["--most", "40"] if words[2] != "drift" else [])]
        if words[1:3] == ["evaluate", "openworld"]:
            words[3:3] = ["--most", "20"]
        words, target = (words[:-2], words[-1]) if ">" in words else (words, "")
        name = words[1] if words[1] == "embed" else ".".join(words[1:3])
        done = cli(*words[1:], *([] if "--json" in words else ["--json"]))
        assert done.code == 0, (words, done.err or done.out)
        if target:
            Path(target).write_text(done.out)
        else:
            bodies[name] = done.body(name)
    _check(bodies)
    done = cli("evaluate", "drift", "data", "captures", "--learnt", "captures", "--budget", "1", "--most", "60", "--json")
    labelled = done.body("evaluate.drift")["live"]
    assert labelled["n_test"] == 60
    assert labelled["baselines"]["random_forest"]["accuracy"] > 0.8, "trees have learnt these very flows"
    assert labelled["baselines"]["majority"]["accuracy"] < 0.8
    assert "judged contents learnt from in D or by an update" in str(labelled["leaky"])
    assert labelled["baselines"]["random_forest"]["leaky"] == labelled["leaky"]
    (tmp_path / "unnamed").mkdir()
    shutil.copyfile(tmp_path / "new.pcap", tmp_path / "unnamed" / "new.pcap")
    cli("evaluate", "drift", "data", "new.pcap", "--learnt", "unnamed", "--budget", "1").refused(3, "no flow to learn from")


def _check(bodies: dict[str, Any]) -> None:
    run = bodies["evaluate.run"]
    assert set(run["embedding"]["probes"]) == {"frozen_knn", "frozen_linear"}
    assert Path("report.html").read_text().startswith("<!doctype html>")
    robust = bodies["evaluate.robust"]
    rows = {row["name"]: row for row in robust["perturbations"]}
    assert len(rows) == 19
    assert robust["on_wire"]
    assert (rows["read_again"]["level"], rows["read_again"]["changed"], rows["read_again"]["lost"]) == ("wire", 0, 0)
    assert robust["mean_loss"].keys() == {"adapter", "lightgbm"}
    assert "<svg" in Path("robust.html").read_text()
    transfer = bodies["evaluate.transfer"]
    assert [row["shots"] for row in transfer["shots"]] == [5, 20]
    ours = {f"{states}_{way}" for states in ("frozen", "adapter") for way in ("knn", "linear")}
    assert set(transfer["shots"][0]["rows"]) == {*ours, "lightgbm", "random_forest"}
    assert set(transfer["baselines"]) == {"majority", "lightgbm"}
    assert transfer["direct"]
    assert transfer["same_data"]
    at_20 = {name: row["macro_f1"] for name, row in transfer["shots"][1]["rows"].items()}
    frozen = max(score for name, score in at_20.items() if name.startswith("frozen_"))
    assert transfer["gain_at_20"] == pytest.approx(frozen - at_20["lightgbm"]), "an adapter that learnt from all of it does not count"
    drift = bodies["evaluate.drift"]
    assert drift["flows"]["live"] == bodies["embed"]["flows"]
    assert {"confidence", "unknown"} == set(drift["drift"]["now"])
    assert drift["live"] is None
    assert set(drift["baselines"]) == {"majority", "lightgbm", "random_forest"}
    opened = bodies["evaluate.openworld"]
    sides = {side: {row["source"] for row in opened["sources"] if row["side"] == side} for side in ("benign", "malicious")}
    assert sides == {"benign": {"gmail", "smb", "skype"}, "malicious": {"lab0", "lab1", "lab2"}}
    assert "lab2" in Path("openworld.html").read_text()
    same = bodies["evaluate.compare"]
    assert (same["difference"], same["ci95"], same["agreement"], same["only_a"]) == (0, [0, 0], 1, 0)
    table = pq.read_table("known.parquet")
    assert set(table["label"].to_pylist()) == {"Geodo", "Neris", "Virut"}
    assert len(table["vector"][0].as_py()) == 32
    rows = bodies["embed"]["nearest"]
    assert len(rows) == bodies["embed"]["flows"] > 20
    assert {len(row["nearest"]) for row in rows} == {3}


def test_embed_refuses(place: Path, cli: Cli, tmp_path: Path) -> None:
    where = ("--base", place / "base")
    cli("embed", place / "new.pcap", *where).refused(2, "nowhere to put")
    cli("embed", place / "new.pcap", "--pool", "max", "-o", tmp_path / "v.parquet", *where).refused(2, "max")
    cli("embed", place / "new.pcap", "--known", place / "new.pcap", *where).refused(4, "no file of vectors")
    assert cli("embed", place / "new.pcap", "-o", tmp_path / "v.parquet", *where).code == 0
    cli("embed", place / "new.pcap", "--known", tmp_path / "v.parquet", "--pool", "answer", *where).refused(4, "another way")
