"""One real Airflow, and a browser, for all tests of the operators' page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support import services
from tests.support.databases import Databases
from tests.support.site import PASSWORD, Site, running_site

Open = Callable[[str, str], Page]


@pytest.fixture(scope="module")
def chromium(session_pids: set[int]) -> Iterator[Browser]:
    path = services.chromium()
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        session_pids.update(one.pid for one in psutil.Process().children(recursive=True))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, databases: Databases, chromium: Browser) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site-page")
    dags = Path(__file__).parent / "dags"
    with (
        databases.new("sqlite", migrated=False) as url,
        running_site(folder, dags, url, triggerer=False, users={"ann": "admin", "vera": "viewer"}) as site,
    ):
        yield site


@pytest.fixture(autouse=True)
def _spare_what_all_use(site: Site, chromium: Browser, session_pids: set[int]) -> Iterator[None]:
    """The site's processes and the browser's live until the session's end."""
    yield
    session_pids.update(one.pid for one in psutil.Process().children(recursive=True))
    for one in psutil.process_iter(["environ"]):
        if (one.info["environ"] or {}).get("HOME", "").startswith(str(site.home.parent)):
            session_pids.add(one.pid)


@pytest.fixture
def open_as(site: Site, chromium: Browser) -> Iterator[Open]:
    """Opens a page of Airflow's in a browser of its own, signed in by Airflow's own form."""
    with ExitStack() as contexts:

        def open_as(user: str, path: str) -> Page:
            context = contexts.enter_context(chromium.new_context(viewport={"width": 1280, "height": 800}))
            context.set_default_timeout(60_000)
            page = context.new_page()
            page.goto(site.url)
            page.fill("input[name=username]", user)
            page.fill("input[name=password]", PASSWORD)
            page.click("button[type=submit]")
            page.wait_for_url(lambda url: "login" not in url)
            page.goto(site.url + path)
            return page

        yield open_as
