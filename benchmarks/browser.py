"""A real browser for the tests of the page, its cost and its pictures: Debian's Chromium."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver import Chrome

MISSING = "needs Chromium, its driver and selenium; on Debian: apt install chromium chromium-driver"


def is_there() -> bool:
    """Whether there is one, with what drives it."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return False
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


@contextlib.contextmanager
def browser(width: int = 1440, height: int = 900, *, dark: bool = False) -> Iterator[Chrome]:
    """A browser without a window whose page has this size in CSS pixels. It downloads nothing and has no profile."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("headless=new", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking"):
        options.add_argument(f"--{argument}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root with one
    driver = Chrome(options, ChromeService(shutil.which("chromedriver")))
    try:
        resize(driver, width, height, dark=dark)
        yield driver
    finally:
        driver.quit()


def resize(driver: Chrome, width: int, height: int, *, dark: bool = False) -> None:
    """Give the page this size, and the theme that it prefers."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
