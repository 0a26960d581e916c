"""A second opinion on what a question asks for: linear one-vs-rest scores over its phrases, combined with the LLM's answer in log-odds.

The LLM knows more than words; a linear model over words knows the usual ones better. Plain numbers in safetensors and JSON, made by
`recipes/instructions/wording.py` from training authors only. Tasks without a column are answered by the LLM alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import sha256_bytes
from trafficllm.core.types import F64
from trafficllm.infer.router.phrases import CONCEPTS, GLOSSARY, KINDS, Keys, phrases

SEVERAL = "several"
"""The column that says whether a question asks for more than one task."""
FACTS = "facts"
"""The column that says whether a question asks for facts of a whole capture (how many packets, who sends most), which no task answers."""
WEIGHTS = "wording.safetensors"
TOLD = "wording.json"
OWN = "wording"
"""Folder of a router's version with a model for each task of one's own."""
LARGEST = 16 << 20


@dataclass(frozen=True, slots=True)
class Table:
    """Known phrases of one kind: `keys` [m] ascending, `idf` [m], `weights` [m, columns] int8 to be multiplied by `scale` [columns]."""

    keys: Keys
    idf: NDArray[np.float32]
    weights: NDArray[np.int8]
    scale: NDArray[np.float32]

    def place(self, keys: Keys, counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows of the phrases that are known, and the question's value at each: log-damped count x idf, of length 1 together."""
        at = np.minimum(np.searchsorted(self.keys, keys), max(len(self.keys) - 1, 0))
        present = self.keys[at] == keys if len(self.keys) else np.zeros(len(keys), bool)
        rows = at[present]
        values = ((1 + np.log(counts[present])) * self.idf[rows]).astype(np.float32)
        norm = float(np.sqrt(np.square(values).sum()))
        return rows, values / np.float32(norm or 1.0)


@dataclass(frozen=True, slots=True)
class Wording:
    """Scores of `columns`: task ids, "none" and, where it was learnt, "several"."""

    columns: tuple[str, ...]
    tables: Mapping[str, Table]
    bias: NDArray[np.float32]
    facts: Mapping[str, Any]

    def log_odds(self, texts: Sequence[str]) -> F64:
        """Log-odds of each column for each text [n, columns]; finite for any text, linear in its length."""
        out = np.empty((len(texts), len(self.columns)))
        for row, text in enumerate(texts):
            z = self.bias.astype(np.float64)
            for kind, (keys, counts) in phrases(text).items():
                table = self.tables.get(kind)
                if table is None:
                    continue
                rows, values = table.place(keys, counts)
                z = z + (values @ table.weights[rows].astype(np.float32)) * table.scale
            out[row] = z
        return out

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored, by name."""
        out: dict[str, NDArray[Any]] = {"bias": self.bias}
        for kind, table in self.tables.items():
            out |= {
                f"{kind}.keys": table.keys,
                f"{kind}.idf": table.idf.astype(np.float16),
                f"{kind}.weights": table.weights,
                f"{kind}.scale": table.scale,
            }
        return out


def write(model: Wording, folder: Path) -> None:
    """Both files into `folder`; the same model gives the same bytes."""
    from safetensors.numpy import save

    from trafficllm.core.files import atomic_write, write_json

    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / WEIGHTS, save({name: np.ascontiguousarray(value) for name, value in model.arrays().items()}))
    write_json(folder / TOLD, {**model.facts, "columns": list(model.columns)})


def read(folder: Path) -> Wording:
    """The model of a folder; ArtifactError where a file is missing, too large, misshapen or not finite."""
    try:
        if max((folder / name).stat().st_size for name in (WEIGHTS, TOLD)) > LARGEST:
            raise _broken("larger than 16 MiB", str(folder))
        return parse((folder / WEIGHTS).read_bytes(), (folder / TOLD).read_bytes(), str(folder))
    except OSError as error:
        raise _broken("cannot be read", str(folder)) from error


def parse(weights: bytes, facts: bytes, where: str) -> Wording:
    """As `read`, from the files' bytes."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        told, tensors = json.loads(facts), load(weights)
        columns = tuple(told["columns"])
        # A model that was learnt before there were concepts has none, and answers by its words as it did.
        tables = {kind: _table(tensors, kind, len(columns)) for kind in KINDS if kind in KINDS[:2] or f"{kind}.keys" in tensors}
        bias = tensors["bias"].astype(np.float32)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _broken(f"not what it says it is ({error})", where) from error
    if bias.shape != (len(columns),) or not np.isfinite(bias).all() or not all(isinstance(name, str) for name in columns):
        raise _broken("columns and weights do not fit together", where)
    return Wording(columns, tables, bias, told)


def _table(tensors: Mapping[str, NDArray[Any]], kind: str, columns: int) -> Table:
    keys, idf, weights, scale = (tensors[f"{kind}.{part}"] for part in ("keys", "idf", "weights", "scale"))
    shapes = (idf.shape, weights.shape, scale.shape) == (keys.shape, (len(keys), columns), (columns,))
    types = (keys.dtype, weights.dtype) == (np.dtype(np.uint32), np.dtype(np.int8))
    if keys.ndim != 1 or not shapes or not types:
        raise ValueError(f"{kind}: shapes or types")
    if (keys[1:] <= keys[:-1]).any() or not np.isfinite(idf).all() or not np.isfinite(scale).all():
        raise ValueError(f"{kind}: keys out of order, or numbers that are not finite")
    return Table(keys, idf.astype(np.float32), weights, scale.astype(np.float32))


def _broken(why: str, where: str) -> ArtifactError:
    return ArtifactError("artifact.wording", f"the wording model is {why}", input=where, hint="register the task again, or reinstall")


@lru_cache(maxsize=1)
def shipped() -> Wording:
    """The package's model for the catalogue's tasks."""
    folder = resources.files("trafficllm").joinpath("data", "routing")
    return parse(folder.joinpath(WEIGHTS).read_bytes(), folder.joinpath(TOLD).read_bytes(), str(folder))


def of_version(folder: Path) -> tuple[Wording, ...]:
    """The shipped model, and those of tasks that the router version in `folder` has learnt since."""
    own = folder / OWN
    return (shipped(), *(read(place) for place in (sorted(own.iterdir()) if own.is_dir() else ()) if place.is_dir()))


def glossary_hash() -> str:
    """SHA-256 of the shipped glossary and concepts: a model fitted with others scores other phrases."""
    folder = resources.files("trafficllm").joinpath("data", "routing")
    return sha256_bytes(b"".join(folder.joinpath(name).read_bytes() for name in (GLOSSARY, CONCEPTS)))
