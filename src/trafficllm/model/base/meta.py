"""The model that a checkpoint's configuration describes, without its weights: nothing is allocated for what the files cannot hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError
from trafficllm.model.base.folder import check_folder, weight_files

LARGEST_SIZE = 1 << 24
"""Of any size in a configuration (layers, rows, features); longest contexts, the largest of them, are 10 million tokens today."""
_UNBOUNDED = ("theta", "_id", "_ids", "seed", "factor", "std", "eps", "scale")
"""Ends of names whose numbers are no sizes."""
_MOST_LAYERS = 2048
_LEAST_BITS = 4
"""A stored parameter has at least so many bits."""
_SPARE = 1 << 22


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 300 characters; its kind where it says nothing.

    >>> first_line(KeyError())
    'KeyError'
    """
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def meta_model(folder: Path) -> Any:
    """The causal model of a folder's configuration on the meta device.

    Raises ArtifactError where the configuration is none of a causal language model, or describes more parameters than the weight files
    have room for: transformers would fill the rest with random numbers, or the memory with zeros.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    check_folder(folder)
    stored = sum((folder / name).stat().st_size for name in weight_files(folder))
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        for name, value in _sizes(config.to_dict()):
            if value > (_MOST_LAYERS if "layers" in name or name == "n_layer" else LARGEST_SIZE):
                raise ValueError(f"{name} is {value}")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # of a malformed configuration the libraries raise whatever they stumble over
        raise ArtifactError(
            "artifact.model",
            f"is no causal language model: {first_line(error)}",
            input=str(folder),
            hint="name a Hugging Face checkpoint folder whose architecture this transformers version knows",
        ) from error
    count = sum(value.numel() for value in model.parameters())
    if count * _LEAST_BITS > 8 * (stored + _SPARE):
        raise ArtifactError(
            "artifact.weights",
            f"its configuration describes {count:,} parameters, its weight files have {stored:,} bytes",
            input=str(folder),
            hint="the folder may be cut, or its config.json belongs to another model",
        )
    return model


def _sizes(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _sizes(value)
        elif type(value) is int and not str(name).endswith(_UNBOUNDED):
            yield str(name), value
