"""English text of the embedded base: documentation files and docstrings of installed packages, with licences.

    python recipes/nano/corpus.py --docs DIR --out runs/corpus

`DIR` holds *.txt.gz files of documents separated by form feeds, with the table of origins that recipes/nano/nano.toml
repeats. Writes `corpus.txt` (documents end in a form feed) and `manifest.json` (origin, licence, characters, hash of each part).
"""

from __future__ import annotations

import argparse
import ast
import gzip
import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path

from trafficllm.core.files import atomic_write, hash64, sha256_bytes, write_json

RECIPE = Path(__file__).with_name("nano.toml")
MIN_DOCSTRING = 200


def docstrings(package: str) -> list[str]:
    """Docstrings of at least 200 characters in a package's modules, in path order, without a repeated paragraph."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return []
    texts = []
    for path in sorted(Path(spec.submodule_search_locations[0]).rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef | ast.Module):
                text = ast.get_docstring(node)
                if text and len(text) >= MIN_DOCSTRING:
                    texts.append(text)
    return texts


def unique_paragraphs(documents: list[str], seen: set[int]) -> list[str]:
    """Drop paragraphs met before, in this part or an earlier one."""
    kept = []
    for document in documents:
        fresh = []
        for paragraph in document.split("\n\n"):
            key = hash64(" ".join(paragraph.split()).encode())
            if key not in seen:
                seen.add(key)
                fresh.append(paragraph)
        if fresh:
            kept.append("\n\n".join(fresh))
    return kept


def parts(docs: Path, recipe: dict[str, list[dict[str, str]]]) -> list[tuple[dict[str, str], list[str]]]:
    """Every part of the corpus with its origin entry."""
    found = []
    for entry in recipe["documents"]:
        text = gzip.decompress((docs / entry["file"]).read_bytes()).decode("utf-8")
        found.append((entry, text.split("\f")))
    for entry in recipe["docstrings"]:
        version = importlib.metadata.version(entry["distribution"])
        found.append(({**entry, "version": version}, docstrings(entry["package"])))
    return found


def main() -> None:
    """Build the corpus and its manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recipe = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    seen: set[int] = set()
    documents: list[str] = []
    manifest = []
    for entry, texts in parts(options.docs, recipe["corpus"]):
        kept = unique_paragraphs(texts, seen)
        joined = "\f".join(kept)
        documents.extend(kept)
        manifest.append({**entry, "documents": len(kept), "characters": len(joined), "sha256": sha256_bytes(joined.encode())})
    text = "\f".join(document.strip() for document in documents if document.strip()) + "\f"
    atomic_write(options.out / "corpus.txt", text)
    write_json(options.out / "manifest.json", {"parts": manifest, "characters": len(text), "sha256": sha256_bytes(text.encode())})
    print(f"{len(text):,} characters, {len(manifest)} parts")


if __name__ == "__main__":
    main()
