"""TrafficLLM: adapt any open LLM to network traffic.

>>> import trafficllm as tl
>>> tl.read("x.pcap").to_arrow().num_rows
2
>>> verdicts = tl.analyze("x.pcap", task="EAC").to_pandas()
>>> verdicts[["orig_h", "resp_p", "label", "confidence"]].shape
(2, 4)
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Before torch and LightGBM load OpenMP, which reads it once: idle threads sleep instead of spinning. Beside one busy process, two threads
# that spin made .75 training steps a processor second, two that sleep 16.4.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Name -> module, opened when first used: `import trafficllm` must stay within 150 ms. Type checkers read __init__.pyi.
_LAZY = {
    "analyze": "trafficllm.surface.python.api",
    "read": "trafficllm.surface.python.api",
    "register": "trafficllm.surface.python.api",
    "Flows": "trafficllm.surface.python.flows",
    "Verdicts": "trafficllm.surface.python.flows",
    "TrafficClassifier": "trafficllm.surface.python.classifier",
}
__all__ = ["Flows", "TrafficClassifier", "Verdicts", "__version__", "analyze", "read", "register"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'trafficllm' has no attribute '{name}'")
    found = getattr(import_module(_LAZY[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
