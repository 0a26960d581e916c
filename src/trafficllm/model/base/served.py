"""Open a base for serving: a small Llama without transformers, any other model as `load_base` does.

Whatever is unusual about a folder, a damaged one too, is left to `load_base`: what is refused and why stays in one place.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.files import read_json
from trafficllm.model.adapter.header import read_header
from trafficllm.model.base.folder import CONFIG, INDEX, WEIGHTS, check_folder, checked_manifest
from trafficllm.model.base.load import Base, check_fit, load_base, precision_for, resolve
from trafficllm.model.tokenizer.plain import PlainTokenizer

if TYPE_CHECKING:
    from trafficllm.model.base.llama import Llama

_TYPES = ("F32", "BF16", "F16")


def load_served(path: str | Path = "default") -> Base:
    """A base for the engine alone: it gives the same answers as that of `load_base` and cannot be tuned.

    The embedded base takes .1 s of processor time this way, 4 s by transformers, its import included. Raises as `load_base`.
    """
    folder = resolve(path)
    try:
        check_folder(folder)
        tokenizer = PlainTokenizer.of(folder)
        model = _small(folder) if tokenizer is not None else None
    except (TrafficLLMError, ValueError, OSError):
        tokenizer = model = None
    if tokenizer is None or model is None:
        return load_base(path)
    manifest = checked_manifest(folder)
    check_fit(model, tokenizer, manifest, (), str(path))
    return Base(model, tokenizer, folder, manifest)


def _small(folder: Path) -> Llama | None:
    """The folder's model where it is a small Llama in one file that holds exactly its tensors, and is computed in float32; None else."""
    from trafficllm.model.base.llama import Llama, LlamaSizes

    config: Any = read_json(folder / CONFIG)
    sizes = LlamaSizes.of(config) if isinstance(config, dict) and config.get("architectures") == ["LlamaForCausalLM"] else None
    if sizes is None or (folder / INDEX).exists() or not (folder / WEIGHTS).is_file() or precision_for(folder) != "float32":
        return None
    header = read_header(folder / WEIGHTS)
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    if shapes != sizes.tensors() or any(entry["dtype"] not in _TYPES for entry in header.values()):
        return None
    from safetensors.torch import load_file

    return Llama(sizes, {name: value.float() for name, value in load_file(str(folder / WEIGHTS)).items()})
