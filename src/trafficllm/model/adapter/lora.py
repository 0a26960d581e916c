"""Adapters on a base: which modules, how they are attached, read, written and merged. Linear layers only."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.files import atomic_write, read_json
from trafficllm.model.adapter.guard import CONFIG, KINDS, WEIGHTS, check_adapter
from trafficllm.model.adapter.layers import is_conv1d
from trafficllm.model.adapter.quantize import quantize
from trafficllm.model.tuning.processes import like, rank, settle, whole

if TYPE_CHECKING:
    from trafficllm.core.settings import TuneOptions

Method = Literal["lora", "rslora", "dora", "qlora", "prefix", "full"]
NAME = "default"
_ROUTERS = ("router", "gate")
"""Last name of a mixture's routing layer: choosing experts is left as it was trained."""


def target_modules(model: Any) -> list[str]:
    """Full names of the linear layers an adapter touches: all but the head, embeddings and expert routers."""
    import torch

    head = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear) or is_conv1d(module)) and module is not head and name.split(".")[-1] not in _ROUTERS
    ]
    if not names:
        raise ArtifactError("artifact.model", "has no linear layers an adapter could touch", hint="tune it with method 'full'")
    return names


def short_targets(model: Any, names: list[str]) -> list[str]:
    """The last parts of the names where these select exactly the same layers, as adapter configs usually say it."""
    ends = sorted({name.split(".")[-1] for name in names})
    hit = [name for name, _ in model.named_modules() if name.split(".")[-1] in ends]
    return ends if sorted(hit) == sorted(names) else sorted(names)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """PEFT warns that Conv1D layers need fan_in_fan_out and then sets it itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def attach_for(model: Any, options: TuneOptions) -> Any:
    """`attach` with the adapter that tuning with these options trains."""
    return attach(
        model,
        method=options.method,
        r=options.r,
        lora_alpha=options.lora_alpha,
        dropout=options.lora_dropout,
        seed=options.seed,
        prefix_tokens=options.prefix_tokens,
    )


def attach(model: Any, *, method: Method, r: int, lora_alpha: int, dropout: float, seed: int, prefix_tokens: int = 16) -> Any:
    """A PEFT model around `model` with a fresh adapter; for "full" the model itself, all its weights trainable.

    "qlora" stores the model's linear layers in 4 bits first, in place. "prefix" learns keys and values of `prefix_tokens`
    virtual tokens in every layer (P-tuning v2, Liu et al. 2021; Li and Liang 2021).
    """
    import torch
    from peft import LoraConfig, PrefixTuningConfig, get_peft_model

    torch.manual_seed(seed)
    if method == "full":
        return model.float().requires_grad_(True)  # Adam's small steps vanish in bfloat16 weights
    if method == "prefix":
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=prefix_tokens)
        return get_peft_model(model, config)
    names = target_modules(model)
    if method == "qlora":
        quantize(model, names)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=dropout,
        target_modules=short_targets(model, names),
        use_rslora=method == "rslora",
        use_dora=method == "dora",
        bias="none",
    )
    with _quiet():
        return get_peft_model(model, config)


def detach(tuned: Any) -> Any:
    """The base model without its adapter, as it was before `attach`; a fully tuned model is returned as it is."""
    if not hasattr(tuned, "peft_config"):
        return tuned.requires_grad_(False)
    if tuned.peft_config[NAME].is_prompt_learning:
        return tuned.get_base_model().requires_grad_(False)
    return tuned.unload().requires_grad_(False)


def trainable(model: Any) -> dict[str, Any]:
    """Name -> tensor of all trainable parameters, by reference."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def snapshot(model: Any) -> dict[str, Any]:
    """A copy of the trainable parameters."""
    settle(model)
    return {name: whole(value) for name, value in trainable(model).items()}


def restore(model: Any, state: dict[str, Any]) -> None:
    """Write a snapshot back; ArtifactError where names or shapes differ."""
    import torch

    settle(model)
    mine = trainable(model)
    wrong = sorted(mine.keys() ^ state.keys()) + [name for name in mine.keys() & state.keys() if mine[name].shape != state[name].shape]
    if wrong:
        raise ArtifactError(
            "artifact.weights",
            f"{len(wrong)} saved tensors do not fit the model, {wrong[0]} first",
            hint="the saved state is of another adapter or base; start again in an empty folder",
        )
    with torch.no_grad():
        for name, value in mine.items():
            value.copy_(like(value, state[name]))


def save_adapter(tuned: Any, out: str | Path, *, base_name: str, half: bool = False) -> None:
    """Write a stock PEFT folder: adapter_config.json and adapter_model.safetensors, byte-equal for equal weights.

    Of several processes the first writes. `half` stores bfloat16. `base_name` goes into the config instead of this machine's path.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    folder = Path(out)
    state = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    dtype = torch.bfloat16 if half else torch.float32
    tensors = {name: whole(value).to("cpu", dtype) for name, value in sorted(state.items())}
    if rank():
        return
    atomic_write(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    config = tuned.peft_config[NAME].to_dict()
    config.update(base_model_name_or_path=base_name, inference_mode=True, revision=None)
    atomic_write(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True, default=_plain) + "\n")


def halve(folder: str | Path) -> None:
    """Store the weights of a checked adapter folder in float16; they are computed with in the base's precision as before.

    float16 keeps 11 bits of each number and bfloat16 8; trained weights stay below 10, far from its 65,504.
    """
    import torch
    from safetensors.torch import load_file, save

    path = Path(folder) / WEIGHTS
    tensors = {name: value.to(torch.float16) for name, value in sorted(load_file(str(path)).items())}
    atomic_write(path, save(tensors, metadata={"format": "pt"}))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(getattr(value, "value", value))


def load_adapter(model: Any, folder: str | Path, *, name: str = NAME, trainable: bool = False) -> Any:
    """A PEFT model with the adapter of a folder on it, checked first (guard.check_adapter)."""
    from peft import PeftModel

    check_adapter(folder, model, kinds=KINDS)
    with _quiet():
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=trainable)


def start_from(tuned: Any, folder: str | Path) -> None:
    """Copy a saved adapter's weights into a fresh one of the same shape, to tune on from them."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    if not hasattr(tuned, "peft_config"):
        raise UsageError(
            "usage.method",
            "method 'full' starts from a base, not from an adapter",
            input=str(folder),
            hint="merge the adapter first (`adapter export --merged`) and give the result as --base",
        )
    check_adapter(folder, tuned.get_base_model(), kinds=KINDS)
    mine, theirs = tuned.peft_config[NAME], read_json(Path(folder) / CONFIG)
    keys = ("peft_type", "r", "lora_alpha", "use_dora", "use_rslora", "num_virtual_tokens")
    wrong = [key for key in keys if getattr(mine, key, None) != theirs.get(key)]
    if wrong:
        raise ArtifactError(
            "artifact.adapter",
            f"cannot start from it: {', '.join(f'{key} is {theirs.get(key)}' for key in wrong)}",
            input=str(folder),
            hint="tune with the same settings, or start from the base",
        )
    set_peft_model_state_dict(tuned, load_file(str(Path(folder) / WEIGHTS)), adapter_name=NAME)


def merge(model: Any, folder: str | Path) -> Any:
    """The base model with an adapter's weights added in: a plain transformers model again."""
    return load_adapter(model, folder).merge_and_unload()
