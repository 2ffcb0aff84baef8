"""docs/site/ in a real browser, headless Chromium, from the file system: docs/test.sh installs it and runs this."""

import shutil

import pytest
from conftest import ROOT

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("no Chromium with its driver here: see docs/test.sh", allow_module_level=True)

SITE = ROOT / "docs" / "site"
PAGES = sorted(path.name for path in SITE.glob("*.html"))
each_page = pytest.mark.parametrize("page", PAGES)
WIDTHS = (390, 1440)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield found
    found.quit()


def visit(browser, page, width=1440, theme="light", script=True):
    """Open a page of the site, in a window of this width."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    browser.get((SITE / page).as_uri())


def count(browser, selector, test="true"):
    """How many elements there are for which a test of `e` is true."""
    code = f"return [...document.querySelectorAll('{selector}')].filter((e) => {test}).length"
    return browser.execute_script(code)


def sideways(browser):
    """Whether the page, or a part of it, is wider than its place."""
    page = "document.documentElement.scrollWidth > innerWidth"
    return browser.execute_script(f"return {page}") or count(
        browser,
        "pre, math, .wide, .story, .unit, article",
        "e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0",
    )


@each_page
def test_a_page_loads_and_its_folds_open(browser, page):
    for width in WIDTHS:
        for theme in ("light", "dark"):
            visit(browser, page, width, theme)
            assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
            assert not sideways(browser), (width, theme)
            assert count(browser, "main", "e.innerText.length > 500")
            hosts = "return performance.getEntriesByType('resource').map((e) => e.name)"
            assert all(
                name.startswith(("file:", "data:")) for name in browser.execute_script(hosts)
            )
        folds = browser.find_elements("css selector", "details:not([open]) > summary")
        for summary in folds[:2]:
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", summary)
            summary.click()
        browser.execute_script(
            "document.querySelectorAll('details').forEach((d) => (d.open = true))"
        )
        assert (
            count(browser, "details > :not(summary)", "e.offsetHeight == 0 && e.innerText.trim()")
            == 0
        )
        assert not sideways(browser), f"folds open at {width}"


@each_page
def test_two_columns_where_there_is_room(browser, page):
    shown = {}
    for width in WIDTHS:
        visit(browser, page, width)
        shown[width] = count(browser, ".hunk > .old.same", "e.offsetHeight > 0")
        code = "return [...document.querySelectorAll('.hunk')].map((e) => e.children[1].offsetLeft > 300)"
        if shown[width]:
            assert all(browser.execute_script(code))
    assert shown[390] == 0 and (shown[1440] > 0 or page in ("index.html", "v0.html"))


@each_page
def test_it_reads_without_javascript(browser, page):
    visit(browser, page, script=False)
    text = browser.find_element("css selector", "main").text
    assert len(text) > 500
    summary = browser.find_element("css selector", "details:not([open]) > summary")
    parent = summary.find_element("xpath", "..")
    summary.click()
    assert parent.get_attribute("open") is not None
    visit(browser, page)


def test_tokens_by_keyboard(browser):
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    visit(browser, "index.html", 390)
    for name, picked in (("v5_ngpt", "v1_transformer"), ("v1_transformer", "v5_ngpt")):
        browser.execute_script(f"document.getElementById('pick-{name}').click()")
        assert count(browser, f"#{name}", "e.offsetHeight > 0") == 1
        assert count(browser, f"#{picked}", "e.offsetHeight > 0") == 0
        story = browser.find_element("id", name)
        story.send_keys(keys.ARROW_RIGHT)
        story.send_keys(keys.ARROW_RIGHT)
        assert count(browser, "#guess tr") == 10
        assert browser.execute_script("return document.querySelector('.t.on').dataset.n") == "2"
        assert not sideways(browser)


def test_folds_and_the_skip_link_by_keyboard(browser):
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    visit(browser, "v3.html")
    browser.find_element("css selector", "body").send_keys(keys.TAB)
    assert browser.switch_to.active_element.get_attribute("class") == "skip"
    summary = browser.find_element("css selector", "details > summary")
    summary.send_keys(keys.ENTER)
    assert summary.find_element("xpath", "..").get_attribute("open") is not None
    button = browser.find_element("id", "unfold")
    button.send_keys(keys.ENTER)
    assert count(browser, ".part .fold", "!e.open") == 0
    button.send_keys(keys.ENTER)
    assert count(browser, ".part .fold", "e.open") == 0
