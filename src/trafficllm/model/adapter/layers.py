"""Which modules of a model are linear layers, told without importing transformers for GPT-2's."""

from __future__ import annotations

from typing import Any


def is_conv1d(module: Any) -> bool:
    """Whether a module is transformers' `Conv1D`, GPT-2's linear layer with the weight [in, out].

    Told by its name: importing the class takes 2 s of processor time, which serving a model without any would spend for nothing.
    """
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"
