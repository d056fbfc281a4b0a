"""A real browser without a window, for tests of pages: Debian's Chromium, driven by selenium.

    with browser(tmp_path) as driver:       skips the test, with the reason, where there is none
        open_page(driver, path)             waits until its charts are drawn
        complaints(driver)                  what the console says
        requests(driver)                    everything the page asked for, as addresses

Selenium has a manager that downloads browsers and reports use: naming the driver's path and SE_OFFLINE keep it from
both.  The browser gets a profile of its own and the switches that stop it from talking to anybody.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--force-prefers-reduced-motion",
)  # fmt: skip
WAIT_S = 60


@contextlib.contextmanager
def browser(
    folder: Path, width: int = 1280, height: int = 900, switches: Sequence[str] = ()
) -> Iterator[WebDriver]:
    """Start a browser whose profile and cache are in a folder; it ends with the block."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver_path = shutil.which("chromedriver")
    if binary is None or driver_path is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for switch in (
        *SWITCHES,
        *switches,
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},{height}",
    ):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(
        executable_path=driver_path, env={**os.environ, "SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}
    )
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def open_page(driver: WebDriver, path: Path) -> None:
    """Open a page from its file and wait until it says that its charts are drawn, or could not be."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get("about:blank")
    driver.get_log("performance")  # what the browser asked for itself as it started
    driver.get(path.as_uri())
    WebDriverWait(driver, WAIT_S).until(lambda d: d.execute_script("return document.body.dataset.ready"))


def resize(driver: WebDriver, width: int, height: int = 844, mobile: bool = False) -> None:
    """Give the page a width, as a phone or a window has it."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    settle(driver)


def scheme(driver: WebDriver, name: str, media: str = "") -> None:
    """Let the reader prefer "dark" or "light"; `media` "print" lays the page out as on paper."""
    features = [{"name": "prefers-color-scheme", "value": name}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    settle(driver)


def settle(driver: WebDriver) -> None:
    """Wait until the page has been laid out again, twice: charts follow their box a moment later."""
    driver.execute_async_script(
        "const done = arguments[0], frame = requestAnimationFrame;"
        "setTimeout(() => frame(() => frame(() => done())), 300)"
    )


def complaints(driver: WebDriver) -> list[str]:
    """Return what the console has said since the last call: errors and warnings."""
    return [
        entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]


def requests(driver: WebDriver) -> list[str]:
    """Return the addresses of everything that was asked for since the last call."""
    messages: list[dict[str, Any]] = [
        json.loads(e["message"])["message"] for e in driver.get_log("performance")
    ]
    asked = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [str(params["request"]["url"]) for params in asked]
