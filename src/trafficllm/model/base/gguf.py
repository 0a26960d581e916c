"""GGUF files as ordinary checkpoint folders: read once by transformers' loader, copied into a plain model, checked, not used again."""

from __future__ import annotations

import contextlib
import io
import json
import math
import secrets
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError, ResourceError
from trafficllm.core.files import atomic_dir, atomic_write, free_space
from trafficllm.core.sealed import current_sha256, sealed
from trafficllm.model.base.folder import CONFIG, FORMAT, MANIFEST, TOKENIZER, file_hashes, weights_sha256
from trafficllm.model.base.gguf_header import GgufHeader, read_gguf_header
from trafficllm.model.base.meta import first_line
from trafficllm.model.results import Imported
from trafficllm.model.tokenizer.extend import opening_ids

DIGITS_APART = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
"""Pre-tokenizers (`tokenizer.ggml.pre`) that cut before and after every digit, then as GPT-2 does; the loader only does the second."""
_PROBE = "The server sends a packet to the client, and the client answers. This is the first step of every connection."
_PROMPT = "The capital of France is"
_SENTENCE = 24
"""Tokens of the greedy sentence."""
_CHANCE = 0.9
"""Share of the loss of a uniform guess above which a model is reported to know no English."""


def import_gguf(file: str | Path, out: str | Path, *, source: Mapping[str, str] | None = None) -> Imported:
    """Write the model of a GGUF file to `out` as a Hugging Face folder: bfloat16 safetensors, tokenizer.json, `trafficllm.json`.

    No code path reads the GGUF file afterwards. `source` is added to the manifest. Raises ResourceError without the package `gguf`,
    ArtifactError where the file is cut, its architecture is unknown, or the result is not what the header says.
    """
    path = Path(file)
    header = read_gguf_header(path)
    check_loader(path)
    _check_architecture(header, path)
    free_space(out, 2 * sum(math.prod(shape) for shape in header.tensors.values()))
    with atomic_dir(out) as folder:
        _convert(path, folder, header)
        imported = _check(folder, header, path)
        facts = {"name": path.name, "sha256": current_sha256(path), "licence": imported.licence, **(source or {})}
        write_plain_manifest(folder, source=facts, imported=imported.as_dict())
    return imported


def write_plain_manifest(folder: Path, **facts: Any) -> None:
    """`trafficllm.json` of a base without traffic tokens: `facts`, the hashes of its files, and its own."""
    manifest = {
        "kind": "plain",
        "format": FORMAT,
        **facts,
        "base_sha256": weights_sha256(folder),
        "tokenizer_sha256": current_sha256(folder / TOKENIZER),
        "files": file_hashes(folder),
    }
    atomic_write(folder / MANIFEST, sealed(manifest))


def check_loader(path: Path | str = "") -> None:
    """Raise ResourceError where the package that reads GGUF is missing."""
    if find_spec("gguf") is None:
        raise ResourceError("resource.extra", "gguf is not installed", input=str(path), hint="`pip install 'trafficllm[gguf]'`")


def _check_architecture(header: GgufHeader, path: Path) -> None:
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    names = {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS}
    if header.architecture not in names:
        raise ArtifactError(
            "artifact.architecture",
            f"its architecture is {header.architecture[:40]!r}, which this transformers version does not read from GGUF",
            input=str(path),
            hint="take the model as a Hugging Face folder, or a newer transformers",
        )
    if not header.tokens:
        raise ArtifactError("artifact.tokenizer", "brings no tokenizer", input=str(path), hint="take another file of the model")


def _convert(path: Path, folder: Path, header: GgufHeader) -> None:
    """Model and tokenizer of the file, written as a plain folder. The loader sees a folder that holds nothing but the file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    file = f"{secrets.token_hex(16)}.gguf"  # the loader takes weights from a file of this name in the working folder, where there is one
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        (Path(name) / file).symlink_to(path.resolve())
        options: dict[str, Any] = {"gguf_file": file, "local_files_only": True, "trust_remote_code": False}
        try:
            _save_model(AutoModelForCausalLM.from_pretrained(name, dtype="float32", **options), folder)
            _save_tokenizer(AutoTokenizer.from_pretrained(name, **options), folder, header)
        except Exception as error:  # of a malformed file the libraries raise whatever they stumble over
            raise ArtifactError(
                "artifact.gguf", f"cannot be read as a model: {first_line(error)}", input=str(path), hint="fetch it again"
            ) from error


def _save_model(loaded: Any, folder: Path) -> None:
    """Copy the weights into a model that was never quantised: `save_pretrained` refuses one that came from GGUF."""
    import torch
    from transformers import AutoModelForCausalLM

    facts = {key: value for key, value in loaded.config.to_dict().items() if key not in {"quantization_config", "_name_or_path"}}
    config = type(loaded.config).from_dict(facts)
    weights = {name: value.detach().to(torch.bfloat16) for name, value in loaded.state_dict().items()}
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    stored = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    stored.pop("transformers_version", None)  # the hash of a base must not depend on who wrote it
    atomic_write(folder / CONFIG, json.dumps(stored, indent=2, sort_keys=True) + "\n")


def _save_tokenizer(tokenizer: Any, folder: Path, header: GgufHeader) -> None:
    from tokenizers import pre_tokenizers

    if header.values.get("tokenizer.ggml.pre") in DIGITS_APART:
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.save_pretrained(folder)


def _check(folder: Path, header: GgufHeader, path: Path) -> Imported:
    """What was written, opened as any base is, against what the header says."""
    from trafficllm.model.base.load import load_base

    base = load_base(folder, dtype="float32")
    model, tokenizer = base.model, base.tokenizer
    config = model.config.get_text_config()
    entry, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight.data_ptr() == entry.weight.data_ptr()
    theta, reasons = _rope(header, config)
    if tied != ("output.weight" not in header.tensors):
        reasons.append(f"embeddings tied: {tied}, in the file: {not tied}")
    if len(tokenizer) != header.tokens or entry.weight.shape[0] < header.tokens:
        reasons.append(f"{len(tokenizer)} entries and {entry.weight.shape[0]} rows, the file has {header.tokens}")
    if reasons:
        raise ArtifactError("artifact.gguf", "was not read as it is: " + "; ".join(reasons), input=str(path), hint="report this file")
    loss, sentence, same = _speaks(model, tokenizer)
    warnings = []
    if loss > _CHANCE * math.log(header.tokens):
        warnings.append(
            f"English costs {loss:.2f} nats a token, a blind guess {math.log(header.tokens):.2f}: random or wrongly read weights"
        )
    if not same:
        warnings.append("the tokenizer cuts the greedy sentence otherwise than the model wrote it")
    return Imported(
        architecture=header.architecture,
        parameters=sum(value.numel() for value in model.parameters()),
        vocabulary=header.tokens,
        licence=str(header.values.get("general.license", "not named")),
        rope_theta=theta,
        tied=tied,
        digits_apart=header.values.get("tokenizer.ggml.pre") in DIGITS_APART,
        english_loss=round(loss, 4),
        sentence=sentence,
        reads_back=same,
        warnings=warnings,
    )


def _rope(header: GgufHeader, config: Any) -> tuple[float | None, list[str]]:
    """(base frequency of the rotary embedding, what differs from the header)."""
    stored, scaling = header.own("rope.freq_base"), header.own("rope.scaling.type")
    sets = config.to_dict().get("rope_parameters") or {}
    layers = [part for part in sets.values() if isinstance(part, dict)] or [sets]
    thetas = {float(part["rope_theta"]) for part in layers if part.get("rope_theta") is not None}
    kinds = {str(part.get("rope_type", "default")) for part in layers}
    reasons = []
    if stored is not None and thetas and not any(math.isclose(stored, theta, rel_tol=1e-5) for theta in thetas):
        reasons.append(f"rope theta {sorted(thetas)}, in the file {stored}")
    if scaling not in {None, "none"} and kinds == {"default"}:
        reasons.append(f"rope scaling {scaling!r} was dropped")
    return (float(stored) if stored is not None else max(thetas, default=None)), reasons


def _speaks(model: Any, tokenizer: Any) -> tuple[float, str, bool]:
    """(nats a token of a fixed English text, a greedy sentence, whether its text is cut into the tokens that the model chose), all behind
    what the tokenizer puts first."""
    import torch

    first = opening_ids(tokenizer)
    ids = torch.tensor([first + tokenizer(_PROBE, add_special_tokens=False)["input_ids"]])
    prompt = tokenizer(_PROMPT, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        loss = float(model(input_ids=ids, labels=ids).loss)
        written = list(prompt)
        for _ in range(_SENTENCE):
            written.append(int(model(input_ids=torch.tensor([first + written])).logits[0, -1].argmax()))
    if not math.isfinite(loss):
        raise ArtifactError("artifact.weights", "its weights give no number", hint="fetch the file again")
    own = written[len(prompt) :]
    ends = [place for place, index in enumerate(own) if index in set(tokenizer.all_special_ids)]
    written = written[: len(prompt) + (ends[0] if ends else len(own))]
    text = tokenizer.decode(written)
    return loss, text, tokenizer(text, add_special_tokens=False)["input_ids"] == written
