"""A real browser for pages: it is started, shows a page in a size and a scheme, and axe-core checks it."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.paths import needed

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDE, NARROW = (1280, 900), (390, 844)
EVERYWHERE = [(size, scheme) for size in (WIDE, NARROW) for scheme in ("light", "dark")]
WIDTH = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
CUT = """
    const box = each => each.getBoundingClientRect();
    return [...document.querySelectorAll('svg.chart text')].filter(each => {
        const [text, figure] = [box(each), box(each.closest('svg'))];
        return text.left < figure.left - 2 || text.right > figure.right + 2;
    }).map(each => each.textContent);
"""  # the labels of figures that are cut


@contextmanager
def open_browser(profile: Path) -> Iterator[Any]:
    """Start a headless browser, with its profile in a folder; skip the test where there is none."""
    needed(importlib.util.find_spec("selenium"), "selenium")
    driver, program = (needed(shutil.which(name), name) for name in ("chromedriver", "chromium"))
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


def show(
    browser: Any, path: Path, size: tuple[int, int] = WIDE, scheme: str = "light", media: str = ""
) -> None:
    """Show a page in a window of this size."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    browser.get(path.as_uri())


def violations(browser: Any) -> list[tuple[str, str]]:
    """Return the serious violations that axe-core finds, with all details open."""
    folder = Path(os.environ.get("MIL_AXE", "."))
    axe = needed([*folder.glob("**/axe-core/axe.min.js")], "axe-core, below the folder that MIL_AXE names,")[
        0
    ]
    browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    browser.execute_script(axe.read_text())
    found = browser.execute_async_script("const done = arguments[0]; axe.run().then(done)")["violations"]
    return [
        (each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")
    ]
