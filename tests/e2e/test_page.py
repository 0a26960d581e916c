"""The page at `/` in a real Chromium: from an upload to a verdict, failures in kind words, hostile names, keyboard, accessibility.

A server with a tiny random base answers; where a test needs particular answers (hostile names, 429, many rows) the browser is given them.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))  # the sample bases live there
sys.path.append(str(Path(__file__).resolve().parents[1] / "security"))  # the hostile strings

import server_samples
import uvicorn
from test_surface_escape import STRINGS

from trafficllm.lifecycle.analyze import known
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.surface.server.app import configuration, create_app
from trafficllm.surface.server.settings import Settings, free_port, hash_key

AXE = Path(__file__).with_name("axe") / "axe.min.js"
KEY = "a key for the page 0123456789"
FILE = "file-00000000000000000000000000000000"


class Served:
    """A server in a thread of this process, and the traffic of a page with it."""

    def __init__(self, place: Path, **settings: Any) -> None:
        base, registry = server_samples.write(place)
        server_samples.register(place, base, "EAC", seed=3)
        self.port = free_port()
        options = Settings(port=self.port, **settings)
        self.guard = create_app(Workspace(base=str(base), registry=str(registry)), options)
        self.server = uvicorn.Server(configuration(self.guard, options))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.url = f"http://localhost:{self.port}/"

    def __enter__(self) -> Served:
        self.thread.start()
        for _ in range(2400):
            if self.server.started and self.guard.app.state.service.ready:  # type: ignore[attr-defined]
                return self
            time.sleep(0.05)
        raise TimeoutError(self.guard.app.state.service.reason)  # type: ignore[attr-defined]

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(60)


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Any]:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not installed: `make tools` installs it from Debian's packages")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `test`)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module", name="served")
def _served(browser: Any, tmp_path_factory: pytest.TempPathFactory, captures: Path) -> Iterator[Served]:
    """A server whose known flows are those of two labels, kept in a cache of the test's own."""
    place = tmp_path_factory.mktemp("known")
    for path in (sorted((captures / "EAC" / "DNS").glob("*.pcap"))[2], captures / "EAC" / "QUIC" / "quic_interop_V.pcap"):
        (place / "captures" / path.parent.name).mkdir(parents=True)
        shutil.copy(path, place / "captures" / path.parent.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "PACKAGED", (place / "captures",))
        patch.setattr(known, "_folder", lambda: place / "cache")
        known._captures.cache_clear()
        yield from _server(tmp_path_factory)
    known._captures.cache_clear()


def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("page"), key_hash=hash_key(KEY)) as served:
        yield served


class Tab:
    """A page with the key given, that notes whatever should not happen: dialogs, errors, requests to elsewhere, scripts that ran."""

    def __init__(self, browser: Any, served: Served, **options: Any) -> None:
        self.context = browser.new_context(locale="en-GB", timezone_id="Asia/Tokyo", reduced_motion="reduce", **options)
        self.context.add_init_script(f"sessionStorage.setItem('trafficllm.key', {json.dumps(KEY)})")
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.wrong: list[str] = []
        self.url = served.url
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error {error}"))
        self.page.on("request", lambda request: self.wrong.append(request.url) if not self._own(request.url) else None)

    def _own(self, url: str) -> bool:
        return url.startswith((self.url, f"blob:{self.url}"))

    def answer(self, pattern: str, body: Any, status: int = 200, **headers: str) -> None:
        """Let the browser have this answer for paths like `pattern`."""
        text = body if isinstance(body, str) else json.dumps(body)
        self.page.route(
            pattern, lambda route: route.fulfill(status=status, body=text, headers={"content-type": "application/json", **headers})
        )

    def upload(self, capture: Path) -> None:
        self.page.goto(self.url)
        self.page.set_input_files("input[type=file]", capture)


@pytest.fixture(name="tab")
def _tab(browser: Any, served: Served) -> Iterator[Tab]:
    tab = Tab(browser, served)
    yield tab
    tab.context.close()
    assert tab.wrong == []


@pytest.fixture(name="capture")
def _capture(captures: Path) -> Path:
    return sorted((captures / "EAC" / "DNS").glob("*.pcap"))[2]


def _line(n: int, text: str = "DNS", **more: Any) -> dict[str, Any]:
    row = {
        "uid": f"C{n}", "ts": 1.7e9 + n, "duration": 0.25, "community_id": f"1:{n}", "orig_h": f"192.0.2.{n % 250}",
        "orig_p": 1024 + n % 60000, "resp_h": "198.51.100.2", "resp_p": 53, "proto": "udp",
        "packets": 1 + n % 9, "task": "EAC", "label": text, "confidence": 0.5,
        "probabilities": {text: 0.5, "other": 0.5}, "unknown_score": 0.1, "evidence": [], "file": text, "frames": [1, 2], "adapter": "EAC",
        "version": "v0001", "umbrella": None, "umbrella_probability": None, "malicious": None, "labels_90": [text], "source": "registry",
    }  # fmt: skip
    return {**row, **more}


def _analysis(
    rows: list[dict[str, Any]], hosts: list[dict[str, Any]] | None = None, sentence: str = "Nothing notable.", **more: Any
) -> str:
    totals = {
        "packets": 9, "bytes": 900, "first": 1.7e9, "last": 1.7e9 + 60, "link_types": {"ETHERNET": 9}, "truncated": 0, "malformed": {},
        "non_ip": 0, "non_flow": 0, "flows": len(rows), "evicted": 0, "not_read": {},
    }  # fmt: skip
    begin = {"schema": "trafficllm.serve.begin/1", "tasks": ["EAC"], "route": None, "capture": totals, "notable": {"EAC": ["malicious"]}}
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["label"]] = counts.get(row["label"], 0) + 1
    end = {
        "schema": "trafficllm.serve.end/1", "sentence": sentence, "flows": len(rows), "verdicts": {"EAC": counts}, "above": {},
        "hosts": hosts or [], "hosts_total": len(hosts or []), "uncovered": {}, **more,
    }  # fmt: skip
    return "\n".join(json.dumps(line) for line in (begin, *rows, end)) + "\n"


def _host(n: int, text: str) -> dict[str, Any]:
    return {
        "file": "upload", "host": f"192.0.2.{n}" if text == "malicious" else text, "task": "EAC", "umbrella": text,
        "umbrella_probability": 0.9,
        "malicious": 0.9, "score": 1.0, "flows": 3, "labels": {text: 3}, "first": 1.7e9, "last": 1.7e9, "frames": [1],
    }  # fmt: skip


def _show(tab: Tab, analysis: str, name: str = "x.pcap") -> None:
    """An uploaded capture with this analysis, whatever the server would say."""
    tab.answer("**/v1/files", {"id": FILE, "object": "file", "bytes": 9, "created_at": 0, "filename": name, "purpose": "", "status": ""})
    tab.answer(f"**/v1/files/{FILE}/analyze?*", analysis)
    tab.page.goto(tab.url)
    tab.page.set_input_files("input[type=file]", {"name": "x.pcap", "mimeType": "application/octet-stream", "buffer": b"x"})
    tab.page.wait_for_selector("h2:has-text('Exports')")


def test_from_upload_to_verdict_and_back(tab: Tab, capture: Path) -> None:
    """The way of a new user: choose a file, read the sentence, open a flow, go back with the browser's button, export."""
    page = tab.page
    tab.upload(capture)
    page.wait_for_selector(".grid")
    assert "(EAC): 1 " in page.inner_text("h1")
    assert "2 packets" in page.inner_text("main")
    page.click(".rows .row")
    page.wait_for_selector("h2:has-text('First packets')")
    page.wait_for_selector("td:has-text('quic_interop_V.pcap') >> nth=0")
    rows = page.locator("[aria-labelledby=nearest] tbody tr")
    assert [rows.count(), rows.first.inner_text().split()[:2]] == [5, ["DNS", "0.000"]]  # the flow itself is among the known ones
    said = page.inner_text("main")
    assert "ip.addr == 10." in said
    assert "1:" in page.inner_text("dd >> nth=1")
    assert page.locator("table.narrow tr").count() == 3
    assert page.evaluate("document.activeElement.id") == "heading"
    page.fill("input[name=label]", "DNS over UDP")
    page.click("button:has-text('Save as label')")
    page.go_back()
    page.wait_for_selector(".grid")
    with page.expect_download() as saved:
        page.click("button:has-text('Save for EAC')")
    with zipfile.ZipFile(saved.value.path()) as archive:
        names = archive.namelist()
        table = archive.read("labels.csv").decode()
        assert archive.read(names[0])[:4] == b"\x0a\x0d\x0d\x0a"
    assert names[0].startswith("labelled/DNS over UDP/corrected-")
    assert table.splitlines()[1].startswith("1:")
    assert table.endswith(",DNS over UDP\n")
    with page.expect_download() as saved:
        page.click("button:has-text('STIX 2.1')")
    assert json.loads(saved.value.path().read_bytes())["type"] == "bundle"
    page.go_back()
    page.wait_for_selector("input[type=file]")
    page.go_forward()
    page.wait_for_selector(".grid")


def test_facts_and_filters_of_a_question(tab: Tab, capture: Path) -> None:
    """A question for a fact has a table and no verdict; one with a host restricts the flows; from a fact one gets back to the verdicts."""
    page = tab.page
    page.goto(tab.url)
    page.fill("input[placeholder]", "top talkers")
    page.set_input_files("input[type=file]", capture)
    page.wait_for_selector("text=no model took part")
    assert "of 256 bytes" in page.inner_text("h1") or "bytes" in page.inner_text("h1")
    assert page.locator("main table tbody tr").count() == 2
    assert page.locator("h2:has-text('Exports')").count() == 0
    page.click("button:has-text('Show the verdicts')")
    page.wait_for_selector(".grid")
    page.fill("form input >> nth=0", "which application is it from 192.0.2.99")
    page.select_option("form select", "EAC")
    page.click("button:has-text('Ask')")
    page.wait_for_selector("text=Only flows from 192.0.2.99.")
    assert page.inner_text("h1") == "No flow was judged."
    page.fill("form input >> nth=0", "how many packets?")
    page.select_option("form select", "")
    page.click("button:has-text('Ask')")
    page.wait_for_selector("text=no model took part")
    assert page.inner_text("h1").startswith("2 packets")


def test_500_hostile_strings_stay_text(tab: Tab) -> None:
    """Labels, hosts, files, questions, evidence and packets of 500 strings, as they are: nothing runs, loads, or becomes an element."""
    page = tab.page
    rows = [_line(n, text, community_id=text, umbrella=text, orig_h=text, proto=text) for n, text in enumerate(STRINGS)]
    rows = [json.loads(json.dumps(row)) for row in rows]
    _show(tab, _analysis(rows, [_host(n, text) for n, text in enumerate(STRINGS)], sentence=STRINGS[40]), name=STRINGS[41])
    page.click("button:has-text('Show all')")
    elements = "[...document.querySelectorAll('main *')].filter(e => !/^(svg|rect|title)$/.test(e.localName)).map(e => e.localName)"
    ours = set(page.evaluate(elements))
    assert not ours & {"img", "script", "iframe", "object", "embed", "base", "style", "link", "form action"}
    shown = page.evaluate("[...document.querySelectorAll('section[aria-labelledby=hosts] tbody button')].map(e => e.textContent)")
    assert len(shown) == 500
    assert sum(text in STRINGS for text in shown) > 400  # lone surrogates and NUL change on their way into a page
    packets = {"fields": ["frame.number", "ip.src", "ip.dst", "frame.len"], "packets": [["1", STRINGS[7], STRINGS[8], STRINGS[9]]]}
    evidence = [{"frame": 1, "field": text, "weight": 0.5} for text in STRINGS]
    flow = {"conn_state": STRINGS[3], "history": STRINGS[4], "tunnel": STRINGS[5], "orig_bytes": 1}
    near = [{"label": text, "distance": 0.1, "uid": str(n), "file": text} for n, text in enumerate(STRINGS)]
    tab.answer(f"**/v1/files/{FILE}/flows/*", {"verdict": {**rows[0], "evidence": evidence}, "flow": flow, **packets})
    tab.answer(f"**/v1/files/{FILE}/flows/*/nearest?*", {"uid": rows[0]["uid"], "known_flows": 500, "nearest": near})
    page.evaluate(f"location.hash = '#/capture/{FILE}/flow/0'")
    page.wait_for_selector("[aria-labelledby=nearest] td")
    assert page.locator("[aria-labelledby=nearest] tbody tr").count() == 500
    assert page.locator("main ul li").count() == 500
    for what in ("[onerror]", "[onclick]", "main [src]", "main a[href^=javascript]"):
        assert page.locator(what).count() == 0
    assert not page.evaluate("'acted' in window")


def test_an_answer_in_words_says_who_gave_it(tab: Tab) -> None:
    words = {"text": "One <b>flow</b> is DNS.", "by": "choice", "why": "", "base": "smollm2"}
    _show(tab, _analysis([_line(0)], words=words))
    assert tab.page.inner_text("p.words") == "One <b>flow</b> is DNS. (chosen by smollm2)"
    _show(tab, _analysis([_line(0)], words=None))
    assert tab.page.query_selector("p.words") is None


def test_the_policy_stops_scripts_and_html(tab: Tab) -> None:
    """What the other tests rely on: were text made HTML, the browser would refuse."""
    tab.page.goto(tab.url)
    tab.page.wait_for_selector("h1")
    assert "TrustedHTML" in tab.page.evaluate(
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'set'; } catch (e) { return String(e); } })()"
    )
    policy = tab.page.request.get(tab.url).headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize(
    ("status", "code", "retry", "said"),
    [
        (429, "request.queue_full", "7", "The server is busy with other captures. Try again in 7 seconds."),
        (504, "request.deadline", "", "The capture takes longer than one request may."),
        (413, "request.too_big", "", "This file is larger than the server takes."),
        (507, "request.disk", "10", "The server has no disk left"),
    ],
)
def test_refusals_are_said_kindly(tab: Tab, capture: Path, status: int, code: str, retry: str, said: str) -> None:
    error = {"code": code, "message": "raw words", "hint": "", "input": "", "where": ""}
    tab.answer(
        "**/v1/files" if status in {413, 507} else "**/analyze?*", {"error": error}, status, **({"retry-after": retry} if retry else {})
    )
    tab.upload(capture)
    problem = tab.page.wait_for_selector("[role=alert]")
    assert said in problem.inner_text()
    tab.page.unroute_all()
    if status == 429:
        tab.answer("**/analyze?*", _analysis([_line(0)]))
        tab.page.click("button:has-text('Try again')")
        tab.page.wait_for_selector(".grid")
        assert tab.page.locator("[role=alert]").count() == 0


def test_a_deadline_in_mid_stream_is_said_kindly(tab: Tab) -> None:
    lines = _analysis([_line(0)]).splitlines()[:2]
    late = {"schema": "trafficllm.error/1", "ok": False, "error": {"code": "request.deadline", "message": "late", "hint": ""}}
    tab.answer("**/v1/files", {"id": FILE, "filename": "x.pcap", "bytes": 1})
    tab.answer("**/analyze?*", "\n".join([*lines, json.dumps(late)]) + "\n")
    tab.page.goto(tab.url)
    tab.page.set_input_files("input[type=file]", {"name": "x", "mimeType": "", "buffer": b"x"})
    assert "longer than one request may" in tab.page.wait_for_selector("[role=alert]").inner_text()


def test_a_cancelled_upload_leaves_nothing(tab: Tab, served: Served, capture: Path) -> None:
    tab.page.route("**/v1/files", lambda route: None)  # it never arrives
    tab.upload(capture)
    tab.page.click("button:has-text('Cancel')")
    tab.page.wait_for_selector("text=What is in this capture?")
    assert tab.page.locator("[role=alert]").count() == 0
    assert served.guard.app.state.service.jobs.inside == 0  # type: ignore[attr-defined]
    tab.page.unroute_all()
    _show(tab, _analysis([_line(0)]))  # and the next one works


def test_the_key_is_asked_for(browser: Any, served: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(served.url)
    page.fill("input[name=key]", KEY)
    page.click("button:has-text('Use it')")
    page.wait_for_selector("option:has-text('EAC')", state="attached")
    assert page.locator("input[name=key]").count() == 0
    context.close()


def test_many_flows_scroll_filter_and_sort(tab: Tab) -> None:
    """5,000 flows: few rows are in the page at any time; keys move through all of them; filter and order hold on the way back."""
    page = tab.page
    _show(tab, _analysis([_line(n, "malicious" if n == 2_345 else "DNS") for n in range(5_000)]))
    grid = page.locator(".grid")
    assert grid.get_attribute("aria-rowcount") == "5001"
    grid.focus()
    page.keyboard.press("End")
    page.wait_for_selector("#row-4999.active")
    assert page.locator(".rows .row").count() < 60
    page.click("[role=columnheader] button:has-text('Verdict')")
    page.click("[role=columnheader] button:has-text('Verdict')")
    assert page.locator("[aria-sort=descending]").count() == 1
    assert "malicious" in page.inner_text("#row-0")
    page.fill("input[type=search]", "192.0.2.7:")
    page.wait_for_selector("text=20 flows shown")
    tab.answer(f"**/v1/files/{FILE}/flows/*", {"error": {"code": "x", "message": "no"}}, 404)
    grid.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("h2:has-text('Likeliest labels')")
    page.go_back()
    page.wait_for_selector("text=20 flows shown")


def test_models_are_listed_and_promoted(tab: Tab) -> None:
    page = tab.page
    page.goto(tab.url + "#/models")
    page.click("[aria-label='Card of EAC v0002']")
    page.wait_for_selector("h2:has-text('EAC v0002')")
    assert "DNS, HTTP, QUIC" in page.inner_text("section dl")
    assert "not measured" in page.inner_text("section dl")
    point = {"rate": 0.0068, "worst": 0.0285, "guarantee": "chosen on 12 left-out sources"}
    shown = {"task": "EAC", "version": "v0002", "manifest": {"umbrella": {"left_out": {"flow": point, "host": point}}}}
    tab.answer("**/v1/adapters/EAC?*", shown)
    page.click("[aria-label='Card of EAC v0002']")
    page.wait_for_selector("dd:has-text('0.7 %, worst source 2.9 %') >> nth=1")
    assert "chosen on 12 left-out sources" in page.inner_text("section dl")
    page.click("[aria-label='Promote EAC v0001']")
    page.wait_for_selector("[aria-label='Promote EAC v0002']")
    page.click("[aria-label='Roll back EAC']")
    page.wait_for_selector("[aria-label='Promote EAC v0001']")


def test_a_generated_capture_is_saved(tab: Tab) -> None:
    page = tab.page
    page.goto(tab.url + "#/generate")
    page.fill("input[name=flows]", "1")
    with page.expect_download() as saved:
        page.click("button:has-text('Generate')")
    assert Path(saved.value.path()).read_bytes()[:4] == b"\x4d\x3c\xb2\xa1"  # pcap with nanoseconds
    assert "1 flow" in page.inner_text("[role=status]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, served: Served, scheme: str) -> None:
    """axe-core (WCAG 2.2 A and AA, best practices) on every view, at a phone's width; nothing is wider than the screen.

    The dark scheme differs in its colours alone: their contrast is judged there.
    """
    options = "{resultTypes: ['violations']}" if scheme == "light" else "{runOnly: ['color-contrast']}"
    tab = Tab(browser, served, color_scheme=scheme, viewport={"width": 360, "height": 740}, bypass_csp=True)
    page, detail = tab.page, {"verdict": _line(0, evidence=[{"frame": 1, "field": "payload", "weight": 0.5}]), "flow": {"conn_state": "SF"}}
    packets = {"fields": ["frame.number", "ip.src", "ip.dst"], "packets": [["1", "192.0.2.1", "192.0.2.2"]]}
    _show(tab, _analysis([_line(n, "malicious" if n % 3 else "unknown") for n in range(99)], [_host(1, "malicious"), _host(2, "benign")]))
    tab.answer(f"**/v1/files/{FILE}/flows/*", {**detail, **packets})
    near = [{"label": "DNS", "distance": 0.1, "uid": "C1", "file": "a.pcap"}]
    tab.answer(f"**/v1/files/{FILE}/flows/*/nearest?*", {"uid": "C0", "known_flows": 9, "nearest": near})
    page.evaluate(AXE.read_text(encoding="utf-8"))
    views = {"": "h2:has-text('Exports')", "/flow/0": "[aria-labelledby=nearest] td"}
    addresses = {f"#/capture/{FILE}{path}": ready for path, ready in views.items()}
    for address, ready in {**addresses, "#/models": "td >> nth=0", "#/generate": "form", "#/": ".drop"}.items():
        page.evaluate(f"location.hash = '{address}'")
        page.wait_for_selector(ready)
        found = page.evaluate(f"axe.run(document, {options})")["violations"]
        assert [(item["id"], item["nodes"][0]["html"]) for item in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    tab.context.close()
    assert tab.wrong == []
