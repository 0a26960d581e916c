"""Every page of the documentation is named in a list of the site's index: Sphinx says the same, after a build of the whole."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_page_is_in_the_index() -> None:
    lines = (DOCS / "index.md").read_text(encoding="utf-8").splitlines()
    named = [line for line in lines if line and not line.startswith(("#", "`", ":")) and " " not in line]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} - {"README", "index"}
    assert len(pages) >= 40
    assert [page for page in sorted(pages) if not any(fnmatch(page, name) for name in named)] == [], "add it to docs/index.md"
    assert [name for name in named if not any(fnmatch(page, name) for page in pages)] == [], "there is no such page"
