"""Chromium, for the tests of pages and displays."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Without a sandbox, which needs rights that containers lack, nor calls home.
OPTIONS = ("no-sandbox", "disable-gpu", "disable-quic", "disable-sync")
OPTIONS += ("disable-background-networking", "disable-component-update")


@pytest.fixture(scope="module")
def browser():
    """Opens Chromium, if the machine has it."""
    if CHROMIUM is None:
        pytest.skip("this machine has no Chromium")
    with sync_playwright() as playwright:
        arguments = [f"--{option}" for option in OPTIONS]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()
