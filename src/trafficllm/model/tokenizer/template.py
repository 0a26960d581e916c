"""Chat templates are programs of a stranger: rendered in a process of their own, within 2 s of processor time, 512 MiB and 1 MiB of text.

Jinja's sandbox keeps them from files and code; it does not keep `{% for a in range(99999) %}{% for b in range(99999) %}` from running for
hours or `"x" * 10 ** 10` from filling the memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError, TrafficLLMError
from trafficllm.core.files import parse_json
from trafficllm.model.tokenizer import template_process

_WALL = 30.0
"""Seconds on a busy machine after which the process is ended whatever its processor time."""
_KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "HOME", "LANG", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SYSTEMROOT")
_LARGEST = 1 << 20
DATE = "2025-01-01"
"""Some templates print today's date; a fixed one keeps ids equal from day to day."""


def chat_text(tokenizer: Any, message: str) -> str:
    """A user's message in the tokenizer's chat template, generation prompt included; ArtifactError where it cannot be rendered."""
    source = str(getattr(tokenizer, "name_or_path", ""))
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise _refused(str(error), source) from error
    variables = {
        **{name: str(value) for name, value in tokenizer.special_tokens_map.items() if not isinstance(value, list)},
        "messages": [{"role": "user", "content": message}],
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
        "enable_thinking": False,
        "date_string": "01 Jan 2025",
    }
    if len(template) > _LARGEST:
        raise _refused("it is longer than 1 MiB", source)
    answer = _rendered(json.dumps({"template": template, "variables": variables, "date": DATE}))
    if "text" not in answer:
        raise _refused(str(answer.get("error", "it gave no text")), source)
    return str(answer["text"])


def _refused(why: str, source: str) -> ArtifactError:
    return ArtifactError(
        "artifact.chat_template",
        f"its chat template cannot be rendered: {why[:300]}",
        input=source,
        hint="remove chat_template.jinja to use the base without a template",
    )


@lru_cache(maxsize=64)
def _rendered(request: str) -> dict[str, Any]:
    """The answer of the rendering process: {"text"} or {"error"}."""
    command = [sys.executable, "-P", str(Path(template_process.__file__))]
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    data = request.encode()
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_WALL, env=environment, check=False)  # noqa: S603 - ours
    except subprocess.TimeoutExpired:
        return {"error": f"it took more than {_WALL:g} s"}
    if done.returncode < 0:
        return {"error": f"it took more than {template_process.SECONDS} s of processor time, or more memory than there is for it"}
    try:
        answer = parse_json(done.stdout, "chat template")
    except TrafficLLMError:
        return {"error": "its process ended without an answer"}
    return answer if isinstance(answer, dict) else {}
