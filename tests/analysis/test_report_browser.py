"""The page in a real browser: drawn, sortable, silent, alone, on a phone, in the dark and on paper."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from gridnn.analysis.report.page import page
from tests.analysis import pages
from tests.support.browser import browser, complaints, open_page, requests, resize, scheme, settle

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    folder = tmp_path_factory.mktemp("browser")
    with browser(folder) as found:
        (folder / "page.html").write_text(page(pages.contents()))
        open_page(found, folder / "page.html")
        yield found


@pytest.fixture(autouse=True)
def at_a_desk(driver: WebDriver) -> None:
    if not ask(driver, "matchMedia('screen and (prefers-color-scheme: light)').matches"):
        scheme(driver, "light")
    if ask(driver, "innerWidth") != 1280:
        resize(driver, 1280)


def ask(driver: WebDriver, script: str) -> Any:
    return driver.execute_script(f"return {script}")


def test_the_page_is_drawn_and_says_nothing(driver: WebDriver) -> None:
    assert ask(driver, "document.body.dataset.ready") == "true"
    assert driver.title == "A page by hand"
    assert ask(driver, "[...document.querySelectorAll('h1, h2')].map(h => h.textContent)") == [
        "A page by hand", "Summary", "First section", "Second section",
    ]  # fmt: skip
    assert complaints(driver) == []


def test_the_page_asks_for_nothing_but_itself(driver: WebDriver) -> None:
    asked = requests(driver)
    assert any(address.endswith("/page.html") for address in asked)
    assert {address.split(":")[0] for address in asked} <= {"file", "data", "blob"}
    assert (
        ask(
            driver,
            "performance.getEntriesByType('resource').filter(r => !/^(data|blob):/.test(r.name)).length",
        )
        == 0
    )


def test_the_network_is_forbidden(driver: WebDriver) -> None:
    script = (
        "const done = arguments[0];"
        "fetch('https://example.invalid/').then(() => done('went'), () => done('refused'))"
    )
    assert driver.execute_async_script(script) == "refused"
    assert any("Content Security Policy" in line for line in complaints(driver))


def size(driver: WebDriver, chart: str) -> tuple[float, float]:
    box = ask(driver, f"document.querySelector('#{chart} .main-svg').getBoundingClientRect().toJSON()")
    return box["width"], box["height"]


@pytest.mark.parametrize("name", list(pages.TRACES))
def test_every_chart_is_drawn(driver: WebDriver, name: str) -> None:
    drawn = ".trace.bars:has(.point path), .scatterlayer .trace:has(path.js-line), .heatmaplayer image"
    found = ask(driver, f"document.querySelectorAll('#{name} .main-svg :is({drawn})').length")
    assert found == pages.TRACES[name]
    width, height = size(driver, name)
    assert width > 600 and height > 150


def test_the_drawing_keeps_its_rules_to_itself(driver: WebDriver) -> None:
    inside = ask(driver, "getComputedStyle(document.querySelector('#drawing-first .box')).stroke")
    assert inside == "rgb(87, 96, 106)"
    loose = "[...document.styleSheets].flatMap(s => [...s.cssRules]).map(r => r.selectorText).filter(s => s === 'text')"
    assert ask(driver, loose) == []


def test_numbers_of_the_tables_are_those_of_the_data(driver: WebDriver) -> None:
    data = json.loads(ask(driver, "document.getElementById('data').textContent"))
    for name, table in data["tables"].items():
        rows = f"[...document.querySelectorAll('#table-{name} tbody tr')]"
        cells = ask(driver, f"{rows}.map(row => [...row.cells].map(cell => cell.dataset.value))")
        keys = ask(
            driver, f"[...document.querySelectorAll('#table-{name} thead th')].map(h => h.dataset.key)"
        )
        assert len(cells) == len(table["rows"])
        for row, record in zip(cells, table["rows"], strict=True):
            for key, text in zip(keys, row, strict=True):
                value = record[key]
                if isinstance(value, str):
                    assert text == value
                elif value is None:
                    assert text in ("", "Infinity")  # JSON has no infinity
                else:
                    assert float(text) == float(value)


def column(driver: WebDriver, at: int) -> list[str]:
    rows = f"[...document.querySelectorAll('#table-first tbody tr')].map(r => r.cells[{at}].dataset.value)"
    return [str(value) for value in ask(driver, rows)]


def test_a_click_sorts_and_another_turns_it_round(driver: WebDriver) -> None:
    heads = driver.find_elements("css selector", "#table-first thead button")
    heads[1].click()
    assert column(driver, 1) == ["1e-09", repr(0.1 + 0.2), "2.5", ""]
    heads[1].click()
    assert column(driver, 1) == ["2.5", repr(0.1 + 0.2), "1e-09", ""]
    sorts = "[...document.querySelectorAll('#table-first th')].map(h => h.getAttribute('aria-sort')).filter(Boolean)"
    assert ask(driver, sorts) == ["descending"]
    assert ask(driver, "document.querySelector('#table-first tfoot th').textContent") == "all"


def test_a_key_sorts_and_texts_sort_as_people_do(driver: WebDriver) -> None:
    head = driver.find_element("css selector", "#table-first thead button")
    driver.execute_script("arguments[0].focus()", head)
    head.send_keys("\ue007")  # Enter
    assert [name for name in column(driver, 0) if name != pages.EVIL] == ["conv2", "conv10", "fc1"]
    assert ask(driver, "document.querySelector('#table-first th').getAttribute('aria-sort')") == "ascending"


def test_a_phone_scrolls_tables_but_not_the_page(driver: WebDriver) -> None:
    resize(driver, 390, mobile=True)
    assert ask(driver, "document.documentElement.scrollWidth") <= 390
    for name in pages.TRACES:
        width, height = size(driver, name)
        assert 200 < width <= 390 and height > 150
    assert ask(driver, "getComputedStyle(document.querySelector('.wide')).overflowX") == "auto"
    resize(driver, 1280)
    assert size(driver, "chart-first-1")[0] > 600


def colours(driver: WebDriver) -> tuple[str, str, str]:
    return (
        ask(driver, "getComputedStyle(document.body).backgroundColor"),
        ask(driver, "getComputedStyle(document.querySelector('#chart-first-1 .xtick text')).fill"),
        ask(driver, "getComputedStyle(document.querySelector('#drawing-first .page')).fill"),
    )


def brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 765


def test_dark_and_light_follow_the_reader(driver: WebDriver) -> None:
    page_, text, drawing = map(brightness, colours(driver))
    assert page_ > 0.9 and drawing > 0.9 and text < 0.3
    scheme(driver, "dark")
    page_, text, drawing = map(brightness, colours(driver))
    assert page_ < 0.2 and drawing < 0.2 and text > 0.7
    scheme(driver, "light")
    assert brightness(colours(driver)[1]) < 0.3


def test_paper_is_light_whole_and_without_tools(driver: WebDriver) -> None:
    resize(driver, 720)
    scheme(driver, "dark", media="print")
    page_, text, drawing = map(brightness, colours(driver))
    assert page_ > 0.9 and drawing > 0.9 and text < 0.3
    assert ask(driver, "getComputedStyle(document.querySelector('nav')).display") == "none"
    assert ask(driver, "getComputedStyle(document.querySelector('.modebar-container')).display") == "none"
    assert ask(driver, "getComputedStyle(document.querySelector('.wide')).maxHeight") == "none"
    assert (
        ask(
            driver,
            "Math.max(...[...document.querySelectorAll('.main-svg')].map(s => s.getBoundingClientRect().width))",
        )
        <= 720
    )
    scheme(driver, "light")
    paper = driver.execute_cdp_cmd("Page.printToPDF", {})
    found = base64.b64decode(paper["data"])
    assert found.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", found)) >= 2
    settle(driver)
    resize(driver, 1280)
    assert size(driver, "chart-first-1")[0] > 720


def test_nothing_was_complained_of_on_the_way(driver: WebDriver) -> None:
    assert [line for line in complaints(driver) if "example.invalid" not in line] == []
