"""Where a capture comes from: manifests, tables of the user's own, folder levels, and what is said where nothing is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from trafficllm.core.errors import InputError
from trafficllm.records.sources.origins import Origins, source_name

MANIFEST = """task,label,file,origin,note
MTD,Zeus,MTD_lab/Zeus/a.pcap,acme/captures@1234 dir/a.pcap,x
MTD,Zeus,MTD_lab/Zeus/b.pcap,other-lab night 3,x
MTD,FTP,MTD_lab/FTP/c.pcap,,x
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "manifest.csv").write_text(MANIFEST)
    (tmp_path / "MTD_lab" / "Zeus").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(("origin", "name"), [("a/b@12 c.pcap", "a/b"), ("a/b c@d", "a/b"), (" lab ", "lab"), ("", ""), ("a/b\tx", "a/b")])
def test_a_source_is_what_stands_before_the_commit(origin: str, name: str) -> None:
    assert source_name(origin) == name


def test_a_manifest_above_the_data_folder(data: Path) -> None:
    origins = Origins.find(data / "MTD_lab")
    assert origins.sources_of(["Zeus/a.pcap", "Zeus/b.pcap", "FTP/c.pcap", "FTP/d.pcap"]) == {
        "Zeus/a.pcap": "acme/captures",
        "Zeus/b.pcap": "other-lab",
        "FTP/c.pcap": "MTD_lab",
        "FTP/d.pcap": "MTD_lab",
    }
    assert origins.origin_of("Zeus/a.pcap") == "acme/captures@1234 dir/a.pcap"


def test_one_label_folder_and_all_folders_at_once(data: Path) -> None:
    assert Origins.find(data / "MTD_lab" / "Zeus").source_of("a.pcap") == "acme/captures"
    assert Origins.find(data).source_of("MTD_lab/Zeus/a.pcap") == "acme/captures"


def test_a_manifest_of_another_kind_is_passed_over(data: Path) -> None:
    (data / "MTD_lab" / "manifest.csv").write_text("name,size\nZeus/a.pcap,3\n")
    (data / "MTD_lab" / "Zeus" / "manifest.csv").write_bytes(b"\xff\xfe\x00")
    assert Origins.find(data / "MTD_lab" / "Zeus").source_of("a.pcap") == "acme/captures"
    assert Origins.find(data / "MTD_lab").source_of("Zeus/a.pcap") == "acme/captures"


def test_without_any_list_a_data_folder_is_one_source(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    origins = Origins.find(tmp_path / "mine")
    assert {origins.source_of(name) for name in ("Zeus/a.pcap", "FTP/c.pcap")} == {"mine"}


def test_a_table_of_ones_own_names_files_and_folders(data: Path) -> None:
    table = data / "sources.csv"
    table.write_text("file,source\nMTD_lab/Zeus,paris\nZeus/b.pcap,lyon\nFTP,nice\n")
    origins = Origins.find(data / "MTD_lab", table=table)
    assert [origins.source_of(name) for name in ("Zeus/a.pcap", "Zeus/b.pcap", "FTP/c.pcap")] == ["paris", "lyon", "nice"]
    with pytest.raises(InputError, match="without a source") as caught:
        origins.source_of("SMB/e.pcap")
    assert caught.value.where == "SMB/e.pcap"


@pytest.mark.parametrize("text", ["", "file,place\na,b\n"])
def test_a_table_without_its_columns_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "sources.csv").write_text(text)
    with pytest.raises(InputError, match="file and source"):
        Origins.find(tmp_path, table=tmp_path / "sources.csv")
    with pytest.raises(InputError, match="no such file"):
        Origins.find(tmp_path, table=tmp_path / "nothing.csv")


def test_a_folder_level_names_the_source(tmp_path: Path) -> None:
    origins = Origins.find(tmp_path, level=2)
    assert origins.source_of("Zeus/paris/a.pcap") == "paris"
    assert Origins.find(tmp_path, level=1).source_of("Zeus/paris/a.pcap") == "Zeus"
    with pytest.raises(InputError, match="no folder at level 2"):
        origins.source_of("Zeus/a.pcap")


def test_rows_without_a_file_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "sources.csv").write_text("source,file\nparis\nlyon,Zeus\n")
    assert Origins.find(tmp_path, table=tmp_path / "sources.csv").source_of("Zeus/a.pcap") == "lyon"
