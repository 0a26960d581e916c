"""The pictures of the page in docs/images: `python recipes/results/screenshots.py`.

A server of this checkout with an empty registry, so with the adapters of the package; Chromium shows the bundled AsyncRAT capture at three
widths, light and dark, one flow and the models. Pictures have 64 colours, so that each stays below 150 kB.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CAPTURE = ROOT / "src" / "trafficllm" / "data" / "captures" / "unseen" / "asyncrat-2024-02-28.pcap"
IMAGES = ROOT / "docs" / "images"
SHOTS = ((1280, 1000, "light"), (768, 1000, "light"), (360, 740, "light"), (1280, 1000, "dark"), (768, 1000, "dark"), (360, 740, "dark"))
LARGEST = 150_000


def save(page: Any, name: str) -> None:
    """The visible part of the page as a small PNG."""
    from PIL import Image

    out = IMAGES / f"{name}.png"
    image = Image.open(io.BytesIO(page.screenshot()))
    image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(out, optimize=True)
    if out.stat().st_size > LARGEST:
        raise SystemExit(f"{out}: {out.stat().st_size:,} bytes")


def judged(browser: Any, address: str, size: tuple[int, int], scheme: str) -> Any:
    """A page on which the capture has been judged."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce")
    page.set_default_timeout(300_000)
    page.goto(address)
    page.fill("input[placeholder]", "Is there malware in here?")
    page.set_input_files("input[type=file]", CAPTURE)
    page.wait_for_selector("h2:has-text('Exports')")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    return page


def views(browser: Any, address: str) -> None:
    """Every picture."""
    for width, height, scheme in SHOTS:
        page = judged(browser, address, (width, height), scheme)
        save(page, f"page-{width}{'-dark' if scheme == 'dark' else ''}")
        if (width, scheme) == (1280, "light"):
            page.click(".rows .row.s1 >> nth=0") if page.locator(".rows .row.s1").count() else page.click(".rows .row >> nth=0")
            page.wait_for_selector("[aria-labelledby=nearest] td")
            page.evaluate("document.getElementById('nearest').scrollIntoView({ block: 'center' })")
            save(page, "page-flow")
            page.goto(f"{address}#/models")
            page.click("[aria-label='Card of MTD v0001']")
            page.wait_for_selector("h2:has-text('MTD v0001')")
            page.evaluate("document.getElementById('card').scrollIntoView()")
            save(page, "page-models")
        page.close()


def main() -> None:
    """Start the server, take the pictures, end it."""
    from playwright.sync_api import sync_playwright

    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "").parse_args()
    with tempfile.TemporaryDirectory() as place:
        port = 20_000 + os.getpid() % 20_000
        command = [sys.executable, "-m", "trafficllm", "serve", "--port", str(port), "--registry", f"{place}/registry"]
        address = f"http://localhost:{port}/"
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while True:
                time.sleep(1)
                try:
                    urllib.request.urlopen(f"{address}readyz")
                    break
                except OSError:
                    if server.poll() is not None:
                        raise SystemExit("the server ended") from None
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
                views(browser, address)
                browser.close()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
