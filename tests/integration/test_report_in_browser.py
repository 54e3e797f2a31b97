"""The report in a real browser, opened from disk: silent, self-contained, filtered, no wider than the window."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.report import write_report
from analysis.side_by_side import write_comparison
from benchmarks.report import make

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e .[dev]")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium and chromedriver on the path")

NASTY = "<script>document.title='owned'</script>"
LONG = "a_domain_whose_name_goes_on_and_on"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser") / "run"
    make(folder, checkpoints=9, domains=["grief", NASTY, LONG, *"abcdefg"], layers=12, answer=f"{NASTY} & sorry")
    write_report(folder)
    write_comparison(folder, folder)
    return folder


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield opened
    opened.quit()


def show(driver: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    driver.get("about:blank")
    driver.get(page.as_uri())


def visible(driver: Any, selector: str) -> int:
    script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).length"
    return driver.execute_script(script, selector)


def choose(driver: Any, name: str, value: str) -> None:
    script = (
        "const s = document.forms[0].elements[arguments[0]];"
        "s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
    )
    driver.execute_script(script, name, value)


@pytest.mark.parametrize("page", ["report.html", "compare.html"])
def test_it_opens_from_disk_without_an_error_and_asks_the_network_for_nothing(driver, run, page):
    driver.get_log("browser")
    driver.get_log("performance")
    show(driver, run / page)
    assert driver.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert (run / page).as_uri() in asked  # or the log would be no witness
    assert all(url.startswith(("file:", "data:", "about:")) for url in asked)
    assert len([url for url in asked if url.startswith("file:")]) == 1


@pytest.mark.parametrize("page", ["report.html", "compare.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window_with_everything_opened(driver, run, page, width, scheme):
    show(driver, run / page, width, scheme)
    driver.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert driver.execute_script("return window.innerWidth") == width
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_light_and_dark_differ_and_both_can_be_read(driver, run):
    def contrast() -> float:
        channels = driver.execute_script(
            "const s = getComputedStyle(document.body);"
            "return [s.color, s.backgroundColor].map(c => c.match(/\\d+/g).slice(0, 3).map(Number))"
        )

        def luminance(rgb: list[int]) -> float:
            linear = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        ink, paper = (luminance(c) for c in channels)
        seen.append(paper)
        return (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)

    seen: list[float] = []
    for scheme in ("light", "dark"):
        show(driver, run / "report.html", scheme=scheme)
        assert contrast() > 7
    assert seen[0] > 0.9
    assert seen[1] < 0.1


def test_filters_leave_the_chosen_step_and_domain_and_give_everything_back(driver, run):
    show(driver, run / "report.html")
    every = visible(driver, "table.matrix td")
    assert every == 8 * 11
    choose(driver, "step", "1")
    assert visible(driver, "table.matrix tbody tr") == 1
    assert visible(driver, "#layers details[data-step='1'] .panel") > 0  # its page has opened
    assert visible(driver, "#layers details[data-step='0']") == 0
    choose(driver, "domain", "grief")
    assert visible(driver, "table.matrix td") == 1
    assert visible(driver, "table.glance td") == 1
    assert "grief" in driver.execute_script("return document.querySelector('#filters output').textContent")
    driver.execute_script("document.forms[0].reset()")
    driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert visible(driver, "table.matrix td") == every


def test_a_verdict_leads_to_its_reasons_by_keyboard(driver, run):
    show(driver, run / "report.html")
    assert visible(driver, "#why-3-2") == 0
    driver.execute_script("document.querySelector('table.glance a[href=\"#why-3-2\"]').focus()")
    driver.switch_to.active_element.send_keys("\ue007")  # Enter
    driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert visible(driver, "#why-3-2") == 1


def test_text_from_studies_and_pairs_shows_as_text(driver, run):
    for page in ("report.html", "compare.html"):
        show(driver, run / page)
        assert "compassion-probes" in driver.title
        assert NASTY in driver.execute_script("return document.body.textContent")
    assert driver.execute_script("return document.scripts.length") == 0  # compare.html has none
    show(driver, run / "report.html")
    assert driver.execute_script("return document.scripts.length") == 1
    assert f"{NASTY} & sorry" in driver.execute_script("return document.querySelector('#steering').textContent")


def test_without_scripts_everything_but_the_filters_is_there(driver, run):
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(driver, run / "report.html")
        page = driver.find_element("css selector", "#verdicts").text
        assert driver.find_element("css selector", "#filters").is_displayed() is False
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "Which step cost which domain what?" in page
    assert page.count("R ") > 50
