"""A real browser."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.paths import needed

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def browser_of(profile: Path) -> Iterator[Any]:
    """Yield a Chromium whose logs have all requests, and end it; profile: an empty folder for its data."""
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
    yield browser
    browser.quit()
