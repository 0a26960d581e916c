"""Corrected flows as labelled captures: what `adapter update` learns from, and a table of labels by Community ID."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from fastapi import APIRouter, Request, Security
from fastapi.responses import Response
from fastapi.security import HTTPBearer

from trafficllm.core.escape import for_csv
from trafficllm.surface.server.replies import RefusedError
from trafficllm.surface.server.routes import FAILURES, inside, service_of
from trafficllm.surface.web.results import Corrections

corrections = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False))])
LABELLED, BACKGROUND, TABLE = "labelled", "background", "labels.csv"
"""In the archive: a folder a label, captures with the task's negative answer, the table that `data build --labels` reads."""
_THEN = (1980, 1, 1, 0, 0, 0)  # the least time of a ZIP entry: the same corrections give the same bytes


@corrections.post("/v1/files/{file_id}/corrections", responses={200: {"content": {"application/zip": {}}}, **FAILURES})
async def corrected(request: Request, file_id: str, body: Corrections) -> Response:
    """Corrected flows as a ZIP archive: `labelled/LABEL/*.pcapng` for `adapter update`, `background/` beside it, and `labels.csv`.

    Only the packets that the task's adapter reads of a flow are in it.
    """
    service = service_of(request)
    negative = service.workspace.task(body.task).negative
    said = {item.uid: item.label.strip() for item in body.corrections}
    labels = sorted(set(said.values()))
    flows = {uid: labels.index(label) for uid, label in said.items()}
    async with inside(service) as until:
        folder, there = await service.cut(service.uploads.get(file_id).path, body.task, flows, until)
    try:
        if not there:
            raise RefusedError(404, "request.flow", "the capture has none of these flows", hint="take `uid` from lines of its verdicts")
        archive = _archive(dict(_files(folder, labels, negative)), {there[uid]: label for uid, label in said.items() if uid in there})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    headers = {"content-disposition": f'attachment; filename="corrections-{body.task}.zip"'}
    return Response(archive, media_type="application/zip", headers=headers)


def _files(folder: Path, labels: list[str], negative: str) -> Iterator[tuple[str, bytes]]:
    for number, label in enumerate(labels):
        path = folder / f"{number}.pcapng"
        if path.is_file():
            data = path.read_bytes()
            place = BACKGROUND if label == negative else f"{LABELLED}/{label}"
            yield f"{place}/corrected-{hashlib.sha256(data).hexdigest()[:12]}.pcapng", data


def _archive(files: Mapping[str, bytes], labels: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    table = "".join(f"{community},{for_csv(label)}\n" for community, label in sorted(labels.items()))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*sorted(files.items()), (TABLE, f"community_id,label\n{table}".encode())]:
            archive.writestr(zipfile.ZipInfo(name, _THEN), data)
    return buffer.getvalue()
