"""The documentation as a site: built without a warning, every link inside it leads somewhere, nothing is fetched from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

REPO = Path(__file__).resolve().parents[2]
BUILD = ("-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html")
"""As `make site` builds it."""


class _Page(HTMLParser):
    """A page's anchors, its links, and what a browser would fetch for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        wanted = "src" if tag in {"script", "img"} else "href" if tag == "link" else ""
        self.fetched += [given[wanted]] if wanted in given else []


@pytest.fixture(scope="module", name="out")
def _out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module", name="site")
def _site(out: Path) -> dict[Path, _Page]:
    pytest.importorskip("sphinx", reason="sphinx is not installed (extra `test`)")
    done = subprocess.run([sys.executable, *BUILD, "docs", str(out)], cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return {path.relative_to(out): _Page(path) for path in out.rglob("*.html")}


def test_every_page_is_there_and_every_link_leads_somewhere(site: dict[Path, _Page], out: Path) -> None:
    sources = {path.relative_to(REPO / "docs").with_suffix(".html") for path in (REPO / "docs").rglob("*.md") if path.name != "README.md"}
    assert len(sources) >= 40
    assert sources <= set(site)
    seen = 0
    for name, page in site.items():
        for link in page.links:
            if "://" in link or link.startswith("mailto:"):
                continue
            seen += 1
            path, _, anchor = link.partition("#")
            target = Path(os.path.normpath(name.parent / unquote(path))) if path else name
            assert (out / target).is_file(), f"{name}: {link}"
            assert not anchor or unquote(anchor) in site[target].ids, f"{name}: {link}"
    assert seen > 1000


def test_the_site_fetches_nothing_from_elsewhere(site: dict[Path, _Page]) -> None:
    fetched = [source for page in site.values() for source in page.fetched]
    assert len(fetched) > 100
    assert [source for source in fetched if source.startswith(("http:", "https:", "//"))] == []


def test_guides_stand_apart_from_measurements(site: dict[Path, _Page]) -> None:
    """The index names every page once, under a heading of its kind."""
    text = (REPO / "docs" / "index.md").read_text(encoding="utf-8")
    parts = {part.split("\n")[0]: part for part in text.split(":caption: ")[1:]}
    assert list(parts) == ["Guides", "How it works", "Reference", "Measurements and decisions", "Decisions"]
    assert "guides/own-captures" in parts["Guides"]
    for name in ("ablations", "results/table", "audits"):
        assert name in parts["Measurements and decisions"]
        assert f"\n{name}\n" not in parts["Guides"]
