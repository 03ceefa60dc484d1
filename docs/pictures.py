"""Take the README's screenshots of a report.

    python docs/pictures.py demo/studies/demo/report.html [FOLDER]

Needs Chromium with its driver (Debian's chromium and chromium-driver) and selenium.
"""

import io
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.select import Select

SCREEN = {"width": 1200, "height": 850, "deviceScaleFactor": 1, "mobile": False}
NAVIGATION = 60  # height in pixels of the bar at the top
SCHEMES = ("light", "dark")
COLOURS = 128  # few, to keep the files small


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Start a Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless", "--no-sandbox", "--hide-scrollbars", "--disable-background-networking"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def take(driver: webdriver.Chrome, path: Path) -> None:
    """Save the visible part of the page, once it is drawn."""
    driver.execute_async_script(
        "const done = arguments[0]; setTimeout(() => requestAnimationFrame(done), 500)"
    )
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(COLOURS).save(path, optimize=True)


def show_attention(driver: webdriver.Chrome) -> None:
    """Scroll to the gallery, with tumoral patients, the most confident correct predictions first."""
    for name, value in (("sort", "best"), ("filter-class", "1")):
        Select(driver.find_element("id", name)).select_by_value(value)
    top = driver.find_element("id", "attention").location["y"]
    driver.execute_script(f"scrollTo({{top: {top - NAVIGATION}, behavior: 'instant'}})")


def main(report: Path, folder: Path) -> None:
    """Take every screenshot, in light and in dark mode."""
    folder.mkdir(parents=True, exist_ok=True)
    with browser() as driver:
        for scheme in SCHEMES:
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", SCREEN)
            driver.get(report.resolve().as_uri())
            take(driver, folder / f"report-{scheme}.png")
            show_attention(driver)
            take(driver, folder / f"attention-{scheme}.png")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3 or not Path(sys.argv[1]).is_file():
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent / "images")
