"""Known flows: vectors of the package's captures are made once a base or adapter, and only the flows asked for go through the model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import server_samples

from trafficllm.core.errors import ArtifactError
from trafficllm.core.types import Silent
from trafficllm.lifecycle.analyze import known
from trafficllm.lifecycle.studies.embed import Representation, embed
from trafficllm.lifecycle.workspace import Workspace


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return server_samples.write(tmp_path_factory.mktemp("known"))


@pytest.fixture(name="workspace")
def _workspace(place: tuple[Path, Path]) -> Workspace:
    return Workspace(base=str(place[0]), registry=str(place[1]))


@pytest.fixture(name="packaged")
def _packaged(tmp_path: Path, captures: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two labels in place of the package's, and a cache of the test's own."""
    folder = tmp_path / "captures"
    for label, name in (("DNS", "anyconnect-vpn.pcap"), ("DNS", "ocs.pcap"), ("QUIC", "quic_interop_V.pcap")):
        (folder / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(captures / "EAC" / label / name, folder / label / name)
    monkeypatch.setattr(known, "PACKAGED", (folder,))
    monkeypatch.setattr(known, "_folder", lambda: tmp_path / "cache")
    known._captures.cache_clear()
    yield folder
    known._captures.cache_clear()


def _refused(*_: object, **__: object) -> None:
    raise AssertionError("vectors are made again")


def test_the_packages_flows_are_embedded_once(
    workspace: Workspace, packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = Representation.of(workspace)
    first = known.Known(workspace).of(how, None, progress=Silent())
    assert {row["label"] for row in first.names} == {"DNS", "QUIC"}
    (stored,) = (tmp_path / "cache").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(known, "vectors", _refused)
        again = known.Known(workspace).of(how, None, progress=Silent())
        assert (again.names, again.vectors.tobytes()) == (first.names, first.vectors.tobytes())
    shutil.rmtree(packaged / "QUIC")
    known._captures.cache_clear()
    fewer = known.Known(workspace).of(how, None, progress=Silent())
    assert {row["label"] for row in fewer.names} == {"DNS"}
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert stored.stat().st_mode & 0o077 == 0


def test_a_damaged_cache_is_made_anew(workspace: Workspace, packaged: Path, tmp_path: Path) -> None:
    how = Representation.of(workspace)
    first = known.Known(workspace).of(how, None, progress=Silent())
    (stored,) = (tmp_path / "cache").iterdir()
    whole = stored.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        stored.write_bytes(damaged)
        again = known.Known(workspace).of(how, None, progress=Silent())
        assert again.vectors.tobytes() == first.vectors.tobytes()
        assert stored.read_bytes() == whole


def test_the_cache_is_bounded(workspace: Workspace, packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_STORED", 1)
    how = Representation.of(workspace)
    for each in (1, 2, 3):
        monkeypatch.setattr(known, "EACH", each)
        assert len(known.Known(workspace).of(how, None, progress=Silent()).names) == 2 * each
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_every_capture_of_a_label_has_its_share(workspace: Workspace, packaged: Path) -> None:
    flows = known.Known(workspace).of(Representation.of(workspace), None, progress=Silent())
    files = {row["file"] for row in flows.names if row["label"] == "DNS"}
    assert files == {"captures/DNS/anyconnect-vpn.pcap", "captures/DNS/ocs.pcap"}, "and no folder of this machine is named"


def test_only_the_flows_asked_for_are_embedded(workspace: Workspace, packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = packaged / "QUIC" / "quic_interop_V.pcap"
    how = Representation.of(workspace)
    flows = known.Known(workspace).of(how, None, progress=Silent())
    everything = known.compared(flows, how, capture, progress=Silent())
    assert everything.flows_in_capture == everything.matching == len(everything.flows) == 60
    embedded: list[int] = []
    embed_all = type(how.embedder).embed
    monkeypatch.setattr(type(how.embedder), "embed", lambda self, records: (embedded.append(len(records)), embed_all(self, records))[1])
    some = known.compared(flows, how, capture, offset=50, limit=20, progress=Silent())
    assert [row.uid for row in some.flows] == [row.uid for row in everything.flows[50:]]
    assert [row.nearest[0].label for row in some.flows] == [row.nearest[0].label for row in everything.flows[50:]]
    uid = everything.flows[33].uid
    one = known.compared(flows, how, capture, flow=uid, neighbours=2, progress=Silent())
    assert ([row.uid for row in one.flows], len(one.flows[0].nearest), one.matching) == ([uid], 2, 1)
    assert embedded == [10, 1]
    assert known.compared(flows, how, capture, flow="none", progress=Silent()).flows == ()


def test_vectors_of_another_kind_are_refused(workspace: Workspace, packaged: Path, tmp_path: Path) -> None:
    embed(workspace, [str(packaged / "DNS" / "ocs.pcap")], out=tmp_path / "v.parquet", pool="layers", progress=Silent())
    with pytest.raises(ArtifactError, match="another way"):
        known.Known(workspace).of(Representation.of(workspace), tmp_path / "v.parquet", progress=Silent())
