"""New rows that stay quiet after English: one direction, fitted in closed form, is taken off all of them.

Rows alone leave every hidden state of an English text as it was; all that they change there is the probability that they take from native
entries. A direction d with h.d near 1 after English and near 0 after traffic (ridge regression on final hidden states of training blocks)
tells the two apart, and rows - c d are by a factor of about exp(c) less likely after English, while their logits after traffic stay.
"""

from __future__ import annotations

from typing import Any

import torch

RIDGE = 1e-3
"""Share of the mean squared hidden value that is added to the diagonal."""
STEPS = tuple(k / 4 for k in range(17))
"""Values of c that are tried, smallest first."""


def states(model: Any, blocks: torch.Tensor) -> torch.Tensor:
    """Final hidden states [tokens, features] of blocks, one block at a time, float32."""
    with torch.inference_mode(), torch.autocast(blocks.device.type, torch.bfloat16):
        return torch.cat([model.model(input_ids=block[None]).last_hidden_state[0].float() for block in blocks]).clone()


def direction(english: torch.Tensor, traffic: torch.Tensor) -> torch.Tensor:
    """d [features], least squares of 1 after English and 0 after traffic.

    >>> direction(torch.tensor([[2.0, 0.0]] * 4), torch.tensor([[0.0, 3.0]] * 4)).round(decimals=2).tolist()
    [0.5, 0.0]
    """
    hidden = torch.cat([english, traffic]).double()
    truth = torch.cat([torch.ones(len(english)), torch.zeros(len(traffic))]).double().to(hidden.device)
    gram = hidden.T @ hidden
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, hidden.T @ truth).float()


def taken(english: torch.Tensor, native: torch.Tensor, rows: torch.Tensor, offset: torch.Tensor) -> list[float]:
    """Nats a token that new rows cost English for each c of STEPS: the mean of log(1 + their mass over the native entries' mass)."""
    apart = torch.logsumexp(english @ rows.T, dim=1) - torch.logsumexp(english @ native.T, dim=1)
    return [float(torch.nn.functional.softplus(apart - c * (english @ offset)).mean()) for c in STEPS]


def quiet(model: Any, rows: torch.Tensor, first: int, blocks: dict[str, torch.Tensor], most: float) -> tuple[torch.Tensor, dict[str, Any]]:
    """(rows less c d, facts): the smallest c at which the rows cost English at most `most` nats a token on blocks that d was not fitted
    on. `model` holds the rows from entry `first` on; `blocks` are "english" and "traffic" of the training material."""
    half = len(blocks["english"]) // 2
    fitted, other = states(model, blocks["english"][:half]), states(model, blocks["english"][half:])
    offset = direction(fitted, states(model, blocks["traffic"]))
    native = model.get_output_embeddings().weight.detach()[:first].float()
    cost = taken(other, native, rows, offset)
    chosen = next((k for k, value in enumerate(cost) if value <= most), len(STEPS) - 1)
    facts = {"c": STEPS[chosen], "cost_before": round(cost[0], 4), "cost": round(cost[chosen], 4), "norm": round(float(offset.norm()), 5)}
    return rows - STEPS[chosen] * offset, facts
