"""The parts of the page that need no browser: its files, archives of corrections, exports in pieces."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trafficllm.surface.cli.main import run
from trafficllm.surface.web import captures, corrections, page
from trafficllm.surface.web.results import Correction

STATIC = Path(page.__file__).with_name("static")


def test_vendored_files_are_as_they_were_published() -> None:
    rows = re.findall(r"\| (\S+\.js) \|.*`([0-9a-f]{64})` \|", (STATIC / "vendor" / "SOURCE.md").read_text(encoding="utf-8"))
    assert len(rows) == 2
    for name, digest in rows:
        assert hashlib.sha256((STATIC / "vendor" / name).read_bytes()).hexdigest() == digest


def test_the_page_asks_for_nothing_else_and_has_nothing_inside() -> None:
    """No address outside, no inline script, style or handler; every file that one names is served."""
    own = [path for path in STATIC.iterdir() if path.is_file()]
    text = "\n".join(path.read_text(encoding="utf-8") for path in own)
    assert len(own) >= 10
    assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}  # the namespace of SVG
    assert not re.search(r"innerHTML|dangerouslySetInnerHTML|eval\(|new Function|document\.write", text)
    head = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", head)
    named = set(re.findall(r"/page/([\w.]+)", text))
    assert named <= set(page.FILES)
    assert {"app.js", "preact.module.js", "report.css"} <= named


def test_an_archive_of_corrections_has_the_same_bytes_each_time() -> None:
    files = {"labelled/Zeus/corrected-1.pcapng": b"x", "background/corrected-2.pcapng": b"y"}
    archive = corrections._archive(files, {"1:b=": "Zeus", "1:a=": "benign"})
    assert archive == corrections._archive(files, {"1:a=": "benign", "1:b=": "Zeus"})
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert opened.namelist() == [*sorted(files), "labels.csv"]
        assert opened.read("labels.csv") == b"community_id,label\n1:a=,benign\n1:b=,Zeus\n"


@pytest.mark.parametrize("label", ["../x", "/etc", ".hidden", "a/b", "", "a\\b", "-x", "a\nb"])
def test_a_correction_names_no_other_folder(label: str) -> None:
    with pytest.raises(ValidationError):
        Correction(uid="C1", label=label)


def test_an_export_is_sent_while_it_is_written() -> None:
    pieces = captures._Pieces()
    assert pieces.write(b"ab") == 2
    assert (pieces.take(), pieces.take(), pieces.tell()) == (b"ab", b"", 2)


def test_web_opens_the_page_once_the_server_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    started: list[Any] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("trafficllm.surface.server.app.serve", lambda workspace, settings, *, began: started.append((settings, began)))
    monkeypatch.delenv("TRAFFICLLM_API_KEY", raising=False)
    assert run(["web"]) == run(["web", "--no-browser", "--port", "8123"]) == 0
    (settings, began), (named, nothing) = started
    assert opened == []
    began()
    assert opened == [f"http://localhost:{settings.port}/"]
    assert (settings.host, named.port, nothing) == ("127.0.0.1", 8123, None)
