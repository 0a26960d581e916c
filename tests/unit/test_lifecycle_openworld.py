"""`evaluate openworld` from the inside: sources of a data set, background, kept flows, resumed folds, refusals, the page."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import infer_samples
import learn_samples
import numpy as np
import pyarrow.parquet as pq
import pytest

from trafficllm.core.errors import InputError, TrafficLLMError, UsageError
from trafficllm.core.files import read_json, sha256_file, write_json
from trafficllm.core.types import F64, I64, FlowMeta, Silent
from trafficllm.evaluate.by_source import learners
from trafficllm.lifecycle.studies import openworld
from trafficllm.lifecycle.studies.openworld import OpenOptions, kept
from trafficllm.lifecycle.studies.openworld_rows import RowOptions, open_data
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.records import masks
from trafficllm.records.catalog import get_task
from trafficllm.records.codec import codec
from trafficllm.records.codec.canonical import DEFAULT
from trafficllm.records.codec.units import codec_hash
from trafficllm.records.dataset import store
from trafficllm.records.dataset.dataset import SCHEMA, Dataset, load
from trafficllm.records.record_shape import RecordShape
from trafficllm.surface.docs.schemas import envelope

SOURCES = {"paris": ("Zeus", "FTP"), "lyon": ("Geodo",), "nice": ("Tinba",), "home": ("Gmail",), "office": ("SMB",), "zoo": ("Gmail",)}
KIND = {"Zeus": 1, "Geodo": 1, "Tinba": 1, "FTP": 0, "Gmail": 0, "SMB": 0}
EACH = 12


def data_set(place: Path, *, task: str = "MTD", sources: Mapping[str, Sequence[str]] | None = None, seed: int = 0) -> Dataset:
    """A data set whose files name their sources: malicious flows are HTTP, benign ones DNS; every sixth row is kept for scoring."""
    chooser = random.Random(seed)
    rows = [(source, label, k) for source, labels in (sources or SOURCES).items() for label in labels for k in range(EACH)]
    raw = [learn_samples.flow(KIND[label], chooser) for _, label, _ in rows]
    captures = [f"{label}/{source}-{k % 2}.pcap" for source, label, k in rows]
    meta = [FlowMeta(uid=f"C{n}", capture=c, orig_h=f"192.0.2.{n % 3}", origin=c) for n, c in enumerate(captures)]
    units = [codec.encode(masks.wiped(masks.apply(record))) for record in raw]
    held = [k == 0 for _, _, k in rows]
    table = store.whole(
        store.rows_of(raw, meta),
        label=[label for _, label, _ in rows],
        part=["test" if mark else ("train", "val")[n % 2] for n, mark in enumerate(held)],
        group=captures,
        content=list(range(len(rows))),
        units=units,
    )
    place.mkdir(parents=True)
    pq.write_table(table, place / "records.parquet")
    own = get_task(task).model_dump(mode="json")
    manifest = {
        "schema": SCHEMA,
        "task": {**own, "positive": "", "negative": ""},
        "source": f"{task}_lab",
        "labels": sorted({label for _, label, _ in rows}),
        "profile": "strict",
        "masked_fields": sorted(masks.hidden_fields("strict")),
        "also": [],
        "kept_fields": [],
        "codec": [DEFAULT.packets, *DEFAULT.payload, DEFAULT.text, DEFAULT.bursts],
        "codec_hash": codec_hash(),
        "record": RecordShape().as_dict(),
        "dataset_sha256": sha256_file(place / "records.parquet"),
        "split": {"unit": "capture", "reserved": sum(held)},
        "leaky": [],
        "files": [
            {"file": c, "source": source, "sha256": c} for c, source in sorted({(c, row[0]) for c, row in zip(captures, rows, strict=True)})
        ],
    }
    write_json(place / "manifest.json", manifest)
    return load(place)


@pytest.fixture(autouse=True, scope="module")
def _few_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        quick = (learners.Booster(rounds=10), learners.Forest(trees=10), learners.Booster(rounds=10, identifiers=True))
        patch.setattr(learners, "baselines", lambda **_: quick)
        yield


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("openworld")
    data_set(place / "data")
    infer_samples.write_base(place / "base")
    return place


@pytest.fixture(scope="module", name="workspace")
def _workspace(place: Path) -> Workspace:
    return Workspace(base=str(place / "base"), registry=str(place / "registry"))


@pytest.fixture(scope="module", name="result")
def _result(place: Path, workspace: Workspace) -> dict[str, Any]:
    made = openworld.openworld(workspace, [place / "data"], options=OpenOptions(seeds=(0, 1)), html=place / "page.html", progress=Silent())
    return made.as_dict()


def test_every_source_is_judged_beside_the_baselines(result: dict[str, Any]) -> None:
    envelope("evaluate.openworld").model_validate({**result, "schema": "trafficllm.evaluate.openworld/1", "ok": True})
    sides = {(row["source"], row["side"]) for row in result["sources"]}
    assert sides == {
        ("paris", "benign"), ("paris", "malicious"), ("lyon", "malicious"), ("nice", "malicious"), ("home", "benign"),
        ("office", "benign"), ("zoo", "benign"),
    }  # fmt: skip
    assert set(result["baselines"]) == {"lightgbm", "random_forest", "identifier_probe"}
    for row in (result, *result["baselines"].values()):
        assert {"sources", "worst", "mean", "ci95", "curve"} <= set(row)
        assert len(row["sources"]) == 7
        assert row["operating"]["sources"] == 3
    assert (result["task"], result["learner"], result["split"], result["seeds"]) == ("MTD", "frozen", "source", [0, 1])
    assert (result["positive"], result["negative"], result["profile"]) == (["malicious"], ["benign"], "strict")
    assert len(result["per_seed"]) == 2
    assert result["mean"]["auroc"] == pytest.approx(np.mean([row["auroc"] for row in result["per_seed"]]))
    assert result["mean"]["auroc"] > 0.9, "HTTP and DNS are told apart whoever captured them"


def test_flows_kept_for_scoring_are_not_touched(result: dict[str, Any]) -> None:
    assert result["flows"] == {"learnt_benign": 44, "learnt_malicious": 33, "judged_benign": 44, "judged_malicious": 33}


def test_the_kept_flows_can_be_judged(place: Path, workspace: Workspace, tmp_path: Path) -> None:
    opened = open_data(workspace, [place / "data"], [], tmp_path, options=RowOptions(part="test"), progress=Silent())
    assert len(opened.rows.judged) == 7
    assert not set(opened.rows.judged.tolist()) & set(opened.rows.learnt.tolist())
    assert len(opened.rows.learnt) == 77


def test_caps_are_shared_by_captures(place: Path, workspace: Workspace, tmp_path: Path) -> None:
    options = RowOptions(per_capture=4, per_source=5, most=3)
    rows = open_data(workspace, [place / "data"], [], tmp_path, options=options, progress=Silent()).rows
    assert (len(rows.learnt), len(rows.judged)) == (7 * 5, 7 * 3)
    names = [rows.captures[k] for k in rows.learnt.tolist()]
    assert {names.count(name) for name in names} == {2, 3}


def test_the_page_names_every_source_and_the_promise(result: dict[str, Any], place: Path) -> None:
    page = (place / "page.html").read_text(encoding="utf-8")
    assert all(name in page for name in (*SOURCES, "LightGBM", "identifier probe", "Is it malware?"))
    assert "new source" in page


def test_nothing_is_left_in_the_registry(result: dict[str, Any], place: Path) -> None:
    assert result["seconds"] > 0
    assert not list((place / "registry" / ".work").iterdir())


def test_an_interrupted_study_goes_on(place: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, work = OpenOptions(folds=3), tmp_path / "work"

    class Interrupted(Silent):
        def update(self, stage: str, done: int, total: int | None) -> None:
            if stage == "lightgbm" and done == 2:
                raise KeyboardInterrupt

    def run(progress: Silent) -> dict[str, Any]:
        body = openworld.openworld(workspace, [place / "data"], options=options, work=work, progress=progress).as_dict()
        return {key: value for key, value in body.items() if key not in {"seconds", "baselines"}}

    with pytest.raises(KeyboardInterrupt):
        run(Interrupted())
    done = {path.name: path.stat().st_mtime_ns for path in (work / "scores").iterdir()}
    assert len(done) > 10

    def refuse(*_: object) -> F64:
        raise AssertionError("states were made a second time")

    monkeypatch.setattr(openworld.FrozenReadout, "features", refuse)
    first = run(Silent())
    assert all((work / "scores" / name).stat().st_mtime_ns == when for name, when in done.items())
    assert run(Silent()) == first


def test_kept_scores_are_of_these_rows_alone(tmp_path: Path) -> None:
    made: list[int] = []

    def score(train: I64, judged: I64) -> F64:
        made.append(len(train))
        return judged.astype(np.float64)

    again = kept(score, tmp_path, "key")
    train, judged = np.arange(4), np.arange(3)
    assert again(train, judged).tolist() == again(train, judged).tolist() == [0.0, 1.0, 2.0]
    again(train[:3], judged)
    kept(score, tmp_path, "other")(train, judged)
    assert made == [4, 3, 4]


def test_a_table_says_where_captures_come_from(place: Path, workspace: Workspace, tmp_path: Path) -> None:
    table = tmp_path / "sources.csv"
    table.write_text("file,source\nZeus,a\nFTP,b\nGeodo,b\nTinba,b\nGmail,c\nSMB,a\n")
    rows = open_data(workspace, [place / "data"], [], tmp_path, options=RowOptions(sources=table), progress=Silent()).rows
    assert set(rows.sources) == {"a", "b", "c"}
    by_level = open_data(workspace, [place / "data"], [], tmp_path, options=RowOptions(level=1), progress=Silent()).rows
    assert set(by_level.sources) == set(KIND)


def test_a_data_set_that_names_no_source_is_refused(place: Path, workspace: Workspace, tmp_path: Path) -> None:
    shutil.copytree(place / "data", tmp_path / "old")
    manifest = read_json(tmp_path / "old" / "manifest.json")
    (tmp_path / "old" / "manifest.json").write_text(json.dumps({**manifest, "files": []}))
    with pytest.raises(InputError, match="does not say where its captures come from"):
        open_data(workspace, [tmp_path / "old"], [], tmp_path, options=RowOptions(), progress=Silent())


def test_tasks_side_by_side_and_background(place: Path, workspace: Workspace, tmp_path: Path) -> None:
    sources = {"bern": ("Zeus",), "basel": ("Gmail",)}
    data_set(tmp_path / "more", task="BND", sources=sources, seed=3)
    captures = Path(__file__).resolve().parents[2] / "src" / "trafficllm" / "data" / "captures" / "MTD"
    folder = tmp_path / "office"
    shutil.copytree(captures / "Gmail", folder / "mail")
    opened = open_data(workspace, [place / "data", tmp_path / "more"], [folder], tmp_path, options=RowOptions(), progress=Silent())
    rows = opened.rows
    assert [task.id for task in opened.tasks] == ["MTD", "BND"]
    assert {"bern", "paris", "mail"} <= set(rows.sources)
    assert not rows.positive[[k for k, name in enumerate(rows.sources) if name == "mail"]].any()
    basel = [k for k, name in enumerate(rows.sources) if name == "basel"]
    assert rows.positive[basel].all(), "BND asks of hosts: whatever is not benign there is a botnet's"
    assert all(rows.part.records[k].ports is None for k in range(len(rows.sources)))


def test_folders_are_built_and_their_files_name_the_source(workspace: Workspace, tmp_path: Path) -> None:
    captures = Path(__file__).resolve().parents[2] / "src" / "trafficllm" / "data" / "captures" / "MTD"
    folder = tmp_path / "MTD_mine"
    for label in ("Neris", "Gmail"):
        (folder / label).mkdir(parents=True)
        for path in sorted((captures / label).iterdir())[:2]:
            shutil.copyfile(path, folder / label / path.name)
    (tmp_path / "manifest.csv").write_text(
        "file,origin\n"
        + "".join(f"MTD_mine/{p.parent.name}/{p.name},lab{k % 2}@1 x\n" for k, p in enumerate(sorted(folder.rglob("*.pcap"))))
    )
    opened = open_data(workspace, [folder], [], tmp_path / "work", options=RowOptions(), progress=Silent())
    assert set(opened.rows.sources) == {"lab0", "lab1"}
    assert load(tmp_path / "work" / "data0").task.id == "MTD"


def test_a_single_folder_is_read_as_the_task_that_is_named(workspace: Workspace, tmp_path: Path) -> None:
    captures = Path(__file__).resolve().parents[2] / "src" / "trafficllm" / "data" / "captures" / "MTD"
    for name, label in (("Neris", "Neris"), ("Gmail", "benign_mail")):
        shutil.copytree(captures / name, tmp_path / "MTD_mine" / label)
        shutil.copytree(captures / name, tmp_path / "mine" / label)
    options = RowOptions(level=1)

    def tasks(*names: str, task: str) -> list[str]:
        folders = [tmp_path / name for name in names]
        opened = open_data(workspace, folders, [], tmp_path / "-".join(names), task=task, options=options, progress=Silent())
        return [own.id for own in opened.tasks]

    assert tasks("MTD_mine", task="") == ["MTD"]
    assert tasks("MTD_mine", task="BND") == ["BND"]
    assert tasks("MTD_mine", "mine", task="BND") == ["MTD", "BND"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (OpenOptions(learner="oracle"), "no learner"),
        (OpenOptions(rate=0.0), "false-positive rate"),
        (OpenOptions(folds=1), "one group"),
        (OpenOptions(rows=RowOptions(part="val")), "no part"),
        (OpenOptions(rows=RowOptions(sources=Path("x.csv"), level=1)), "at once"),
    ],
)
def test_options_that_name_nothing_are_refused(place: Path, workspace: Workspace, options: OpenOptions, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        openworld.openworld(workspace, [place / "data"], options=options, progress=Silent())


def test_data_that_cannot_be_left_out_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    def answer(name: str, sources: Mapping[str, Sequence[str]], task: str = "MTD") -> TrafficLLMError:
        data_set(tmp_path / name, sources=sources, task=task)
        with pytest.raises((InputError, UsageError)) as caught:
            openworld.openworld(workspace, [tmp_path / name], progress=Silent())
        return caught.value

    assert "one source" in str(answer("one", {"paris": ("Zeus", "FTP")}))
    assert "no negative flows" in str(answer("side", {"paris": ("Zeus",), "lyon": ("Geodo",)}))
    assert "no source can be left out" in str(answer("pair", {"paris": ("Zeus",), "home": ("FTP",)}))
    assert "asks no umbrella question" in str(answer("plain", SOURCES, task="EAC"))


def test_other_masks_than_asked_for_are_refused(place: Path, workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="under strict"):
        open_data(workspace, [place / "data"], [], tmp_path, profile="header", options=RowOptions(), progress=Silent())
    shutil.copytree(place / "data", tmp_path / "other")
    manifest = read_json(tmp_path / "other" / "manifest.json")
    manifest["profile"] = manifest["record"]["records"]["profile"] = "header"
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="other records"):
        open_data(workspace, [place / "data", tmp_path / "other"], [], tmp_path, options=RowOptions(), progress=Silent())
