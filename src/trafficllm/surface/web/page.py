"""The page's files, as they are in the package: nothing is built and nothing comes from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

from trafficllm.lifecycle.reports.page import STYLE
from trafficllm.surface.server.routes import unknown_path

page = APIRouter(include_in_schema=False)
"""Paths of the page: no key, no data."""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content-Security-Policy (CSP level 3): scripts and styles of this server only, none inside the page, no HTML from text."""
_STATIC = Path(__file__).with_name("static")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {path.name: path for path in [*_STATIC.rglob("*"), STYLE] if path.suffix in _TYPES}
"""The files by name; nothing else below `/page/` is answered."""


@page.get("/")
def index() -> Response:
    """The page."""
    return _file("index.html")


@page.get("/page/{name}")
def static(name: str) -> Response:
    """A script, a style or a picture of the page."""
    return _file(name)


def _file(name: str) -> Response:
    path = FILES.get(name)
    if path is None:
        raise unknown_path()
    headers = {
        "content-security-policy": CSP,
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
    }
    return Response(path.read_bytes(), media_type=_TYPES[path.suffix], headers=headers)
