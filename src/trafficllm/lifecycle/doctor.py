"""What this machine has, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Literal

from trafficllm.core.errors import ArtifactError
from trafficllm.core.machine import cores
from trafficllm.core.results import Result

_EXTRAS = {
    "serve": ("fastapi", "uvicorn", "multipart", "prometheus_client"),
    "mcp": ("mcp",),
    "chat": ("prompt_toolkit",),
    "pandas": ("pandas",),
    "gguf": ("gguf",),
    "ray": ("ray",),
}
_TOOLS = {
    "tshark": "an oracle of the tests, and the way to open frames named as evidence: `apt-get install tshark`",
    "chromium": "opens the report in the tests: `apt-get install chromium`",
}
_NEEDED = (
    "cryptography",
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "safetensors",
    "numpy",
    "numba",
    "pyarrow",
    "scikit-learn",
    "lightgbm",
    "matplotlib",
)
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


class Finding(Result):
    """One thing that `doctor` looked at."""

    name: str
    status: Literal["ok", "optional", "missing"]
    detail: str
    hint: str


class Doctor(Result):
    """What is here, what is missing and how to get it."""

    ready: bool
    findings: list[Finding]


def _finding(name: str, status: Literal["ok", "optional", "missing"], detail: str, hint: str = "") -> Finding:
    return Finding(name=name, status=status, detail=detail, hint=hint)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _packages() -> list[Finding]:
    versions = [(name, _version(name)) for name in _NEEDED]
    return [
        _finding(name, "ok" if version else "missing", version, "" if version else "`pip install trafficllm` brings it")
        for name, version in versions
    ]


def _extras() -> list[Finding]:
    rows = []
    for extra, modules in _EXTRAS.items():
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        hint = f"`pip install 'trafficllm[{extra}]'`" if absent else ""
        rows.append(_finding(f"extra {extra}", "optional" if absent else "ok", f"missing: {', '.join(absent)}" if absent else "", hint))
    return rows


def _tools() -> list[Finding]:
    places = {name: shutil.which(name) or "" for name in _TOOLS}
    return [_finding(name, "ok" if place else "optional", place, "" if place else _TOOLS[name]) for name, place in places.items()]


def _cpu() -> Finding:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    words = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    flags = [flag for flag in _CPU_FLAGS if flag in words]
    bf16 = bool({"amx_bf16", "avx512_bf16"} & set(flags))
    detail = f"{cores()} cores, {', '.join(flags) or 'no vector extensions named'}"
    hint = "" if bf16 else "no bf16 in hardware (AMX, AVX512_BF16): float32 is used"
    return _finding("cpu", "ok", detail, hint)


def _gpu() -> Finding:
    try:
        import torch
    except ImportError:
        return _finding("gpu", "optional", "unknown without torch")
    if torch.cuda.is_available():
        return _finding("gpu", "ok", torch.cuda.get_device_name(0))
    return _finding(
        "gpu", "optional", "none: the shipped base runs on the CPU", "for larger bases use a machine with a GPU and a CUDA build of torch"
    )


def _memory_and_disk(registry: Path) -> list[Finding]:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    place = registry.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    hint = "" if writable else "choose another folder with --registry or TRAFFICLLM_REGISTRY"
    return [
        _finding(
            "memory",
            "ok" if pages * size >= 2 << 30 else "missing",
            f"{pages * size / 2**30:.1f} GiB",
            "" if pages * size >= 2 << 30 else "2 GiB are needed",
        ),
        _finding(
            "disk", "ok" if free >= 1 << 30 else "missing", f"{free / 2**30:.1f} GiB free", "" if free >= 1 << 30 else "1 GiB is needed"
        ),
        _finding("registry", "ok" if writable else "missing", str(registry), hint),
    ]


def _places() -> list[Finding]:
    """Folders that are written to besides the registry."""
    own, home = Path(__file__).parents[1], Path.home()  # kernels are kept beside their module, else below ~/.cache
    kernels = os.environ.get("NUMBA_CACHE_DIR", "") or str(own if os.access(own, os.W_OK) else home)
    temporary = tempfile.gettempdir()
    anew = "kernels are made anew at each start (half a second, by numba 8 s): set NUMBA_CACHE_DIR to a folder you may write to"
    lasting, scratch = (os.access(place, os.W_OK) for place in (kernels, temporary))
    return [
        _finding("kernel cache", "ok" if lasting else "optional", kernels, "" if lasting else anew),
        _finding("temporary", "ok" if scratch else "missing", temporary, "" if scratch else "set TMPDIR to a folder you may write to"),
    ]


def _base() -> Finding:
    try:
        from trafficllm.model.base.load import default_base

        return _finding("default base", "ok", str(default_base()))
    except ImportError as error:
        return _finding("default base", "missing", f"{error.name} is not installed", "`pip install trafficllm`")
    except ArtifactError as error:
        return _finding("default base", "missing", error.message, error.hint)


def diagnose(registry: Path) -> Doctor:
    """Findings with status ok, optional or missing; `ready` when nothing needed is missing."""
    python_ok = sys.version_info >= (3, 11)
    findings = [
        _finding("python", "ok" if python_ok else "missing", platform.python_version(), "" if python_ok else "3.11 or newer is needed")
    ]
    findings += [*_packages(), *_extras(), *_tools(), _cpu(), _gpu(), *_memory_and_disk(registry), *_places(), _base()]
    return Doctor(ready=all(row.status != "missing" for row in findings), findings=findings)
