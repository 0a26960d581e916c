"""One forward pass over a batch: which tensors the model takes, logits at the answers' positions alone."""

from __future__ import annotations

from typing import Any


def forward_inputs(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The tensors of a batch that the model's forward takes."""
    names = ["input_ids", "attention_mask"]
    if _takes_positions(model):
        names.append("position_ids")
    return {name: batch[name] for name in names}


def _takes_positions(model: Any) -> bool:
    import inspect

    inner = model.get_base_model() if hasattr(model, "get_base_model") else getattr(model, "module", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return "position_ids" in inspect.signature(inner.forward).parameters


def answer_logits(model: Any, batch: dict[str, Any]) -> Any:
    """Logits [rows, keep, vocabulary] of the last `keep` positions, where the answers lie."""
    return answer_output(model, batch).logits[:, -int(batch["target"].shape[1]) :]


def answer_output(model: Any, batch: dict[str, Any], *, states: bool = False) -> Any:
    """The model's output with logits of the answers' positions alone; with `states` all layers' hidden states too."""
    keep = int(batch["target"].shape[1])
    return model(**forward_inputs(model, batch), use_cache=False, logits_to_keep=keep, output_hidden_states=states)
