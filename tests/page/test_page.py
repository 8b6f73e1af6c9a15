"""The operators' page in a real browser, on a real Airflow with a real worker."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.conftest import Open
from tests.support.site import Site
from tests.support.waiting import wait_until

pytestmark = pytest.mark.system

FLEET = "/plugin/edge-ws"
CHANGE = "/edge-ws/v1/admin/set-worker-concurrency"
LIVE = "[data-how=live]"


@pytest.fixture(scope="module")
def worker(site: Site) -> str:
    """A worker that all tests of this file may use."""
    site.worker("welder-1", "-c", "3", "-q", "default,paint")
    return "welder-1"


def _row(page: Page, name: str) -> Locator:
    return page.locator(f'tr[data-name="{name}"]')


def _choose(page: Page, name: str, wish: str) -> Locator:
    """Ask a wish of a worker; return the dialog."""
    page.get_by_label(f"Select {name}", exact=True).check()
    page.get_by_role("toolbar").get_by_role("button", name=wish, exact=True).click()
    return page.get_by_role("dialog")


def _worker(site: Site, name: str) -> dict[str, Any]:
    shown: dict[str, Any] = site.told("show-worker", worker=name)
    return shown


def test_it_is_in_airflows_menu_and_asks_nobody_else(site: Site, open_as: Open) -> None:
    page = open_as("ann", "/")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.get_by_role("button", name="Browse").click()
    page.get_by_text("Edge fleet").click()
    expect(page.get_by_role("tab", name="Workers")).to_be_visible()
    expect(page.locator(LIVE)).to_be_visible()
    for tab in ("Queues", "Jobs", "Last hour", "Events", "Add a worker"):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tabpanel")).to_have_attribute("aria-labelledby", re.compile("ew-tab-"))
        expect(page.locator(LIVE)).to_be_visible()
        expect(page.get_by_role("tabpanel").get_by_role("alert")).to_have_count(0)
    # By keyboard, too.
    page.get_by_role("tab", name="Add a worker").press("ArrowLeft")
    expect(page.get_by_role("tab", name="Events")).to_be_focused()
    ours = [one for one in asked if "/edge-ws/" in one]
    assert any("/page/main.js" in one for one in ours)
    assert all(one.startswith((site.url, "data:", "blob:")) for one in ours)
    assert faults == []


def test_a_worker_connects_and_appears_by_itself(site: Site, open_as: Open) -> None:
    page = open_as("ann", FLEET)
    expect(page.locator(LIVE)).to_be_visible()
    expect(_row(page, "newcomer")).to_have_count(0)
    process = site.worker("newcomer", "-c", "2")
    expect(_row(page, "newcomer")).to_be_visible(timeout=5_000)
    # Once its job host has Airflow loaded.
    expect(_row(page, "newcomer")).to_contain_text("idle")
    expect(_row(page, "newcomer")).to_contain_text("WebSocket")
    # A worker that is killed is not "idle" for ever.
    process.stop(signal.SIGKILL)
    expect(_row(page, "newcomer")).to_contain_text("away", timeout=60_000)


def test_concurrency_is_changed_and_seen_applied(site: Site, worker: str, open_as: Open) -> None:
    page = open_as("ann", FLEET)
    dialog = _choose(page, worker, "Concurrency…")
    dialog.get_by_label("Slots").fill("7")
    dialog.get_by_role("button", name="Change it").click()
    expect(dialog).to_contain_text(f"{worker}: concurrency 7")
    dialog.get_by_role("button", name="Close").click()
    expect(_row(page, worker)).to_contain_text("/ 7")
    expect(_row(page, worker).locator("[data-of=concurrency]")).to_have_count(0)
    assert _worker(site, worker)["concurrency"] == 7


def test_a_wish_that_is_not_in_force_stands_beside_what_is(site: Site, open_as: Open) -> None:
    process = site.worker("sleeper", "-c", "2", "-q", "asleep")
    page = open_as("ann", FLEET)
    expect(_row(page, "sleeper")).to_be_visible()
    process.popen.send_signal(signal.SIGSTOP)
    try:
        dialog = _choose(page, "sleeper", "Concurrency…")
        dialog.get_by_label("Slots").fill("5")
        dialog.get_by_role("button", name="Change it").click()
        dialog.get_by_role("button", name="Close").click()
        expect(_row(page, "sleeper").locator("[data-of=concurrency]")).to_have_text("5 wanted, 2 applied")
    finally:
        process.popen.send_signal(signal.SIGCONT)
    expect(_row(page, "sleeper").locator("[data-of=concurrency]")).to_have_count(0)
    expect(_row(page, "sleeper")).to_contain_text("/ 5")


def test_maintenance_with_an_end(site: Site, worker: str, open_as: Open) -> None:
    page = open_as("ann", FLEET)
    dialog = _choose(page, worker, "Maintenance…")
    dialog.get_by_role("button", name="Begin maintenance").click()
    # The browser asks for the reason; nothing was sent.
    expect(dialog.get_by_label("Why")).to_be_focused()
    dialog.get_by_label("Why").fill("a new torch")
    dialog.get_by_label("It ends").select_option("2h")
    dialog.get_by_role("button", name="Begin maintenance").click()
    dialog.get_by_role("button", name="Close").click()
    expect(_row(page, worker)).to_contain_text("maintenance")
    expect(_row(page, worker).locator("[data-of=maintenance]")).to_contain_text(
        re.compile(r"a new torch, by ann, until .*\d")
    )
    assert _worker(site, worker)["maintenance_until"] is not None
    page.get_by_role("toolbar").get_by_role("button", name="End maintenance", exact=True).click()
    dialog.get_by_role("button", name="End maintenance").click()
    dialog.get_by_role("button", name="Close").click()
    expect(_row(page, worker)).to_contain_text("idle")


def test_what_stops_work_is_asked_once_more_and_refusals_say_why(
    site: Site, worker: str, open_as: Open
) -> None:
    page = open_as("ann", FLEET)
    dialog = _choose(page, worker, "Remove…")
    expect(dialog).to_contain_text("Only workers that have ended can be removed")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("toolbar").get_by_role("button", name="Remove…", exact=True).click()
    dialog.get_by_role("button", name="Remove", exact=True).click()
    expect(dialog).to_contain_text("1 of 1 refused")
    expect(dialog.get_by_role("listitem")).to_contain_text(worker)
    assert _worker(site, worker)["connected"]


def test_a_queue_is_paused_and_a_runs_jobs_move(site: Site, worker: str, open_as: Open) -> None:
    page = open_as("ann", f"{FLEET}?tab=queues")
    page.get_by_role("button", name="Pause queue default").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why").fill("the line is cleaned")
    dialog.get_by_role("button", name="Pause it").click()
    dialog.get_by_role("button", name="Close").click()
    expect(_row(page, "default")).to_contain_text("the line is cleaned, by ann")

    jobs = open_as("ann", f"{FLEET}?tab=jobs&dag_id=line")
    site.trigger("line", "r1")
    job = jobs.locator("tbody tr").filter(has_text="r1")
    expect(job).to_contain_text("queued")
    expect(job).to_contain_text("paused")
    # The verdict stands on the task's own page, too.
    task = open_as("ann", "/dags/line/runs/r1/tasks/weld/plugin/edge-ws-job")
    expect(task.locator(".ew h2")).to_contain_text("paused")

    page.get_by_role("button", name="Resume queue default").click()
    dialog.get_by_role("button", name="Resume it").click()
    dialog.get_by_role("button", name="Close").click()
    expect(job).to_contain_text("started")
    expect(job).to_contain_text(worker)
    (site.notes / "go-on").touch()
    expect(job).to_contain_text("success")
    assert site.wait_run("line", "r1") == "success"
    # To Airflow's page of the task, with its log.
    job.get_by_role("link", name="weld").click()
    expect(jobs).to_have_url(re.compile(r"/dags/line/runs/r1/tasks/weld\?try_number=1$"))
    expect(jobs.get_by_text("the weld begins")).to_be_visible()


def test_a_gateway_is_killed_and_the_page_recovers(site: Site, worker: str, open_as: Open) -> None:
    page = open_as("ann", FLEET)
    expect(page.locator(LIVE)).to_be_visible()
    expect(_row(page, worker)).to_be_visible()
    site.processes["api-server"].stop(signal.SIGKILL)
    expect(page.locator("[data-how=away]")).to_have_text(re.compile("Not live"))
    # What was heard last is still there.
    expect(_row(page, worker)).to_be_visible()
    site.serve()
    expect(page.locator(LIVE)).to_be_visible()
    expect(page.get_by_role("tabpanel").get_by_role("alert")).to_have_count(0)
    expect(_row(page, worker)).to_contain_text("idle")


def test_a_token_is_made_and_shown_once(site: Site, open_as: Open) -> None:
    page = open_as("ann", f"{FLEET}?tab=join")
    page.get_by_label("Name").fill("press-9")
    page.get_by_label("Queues").fill("paint")
    page.get_by_role("button", name="Make a token").click()
    expect(page.get_by_text("shown only here")).to_be_visible()
    secret = page.get_by_label("The token").inner_text().strip()
    expect(page.get_by_label("Commands")).to_contain_text(f"--url {site.url} -H press-9")
    expect(page.get_by_label("Commands")).to_contain_text(secret)
    page.reload()
    expect(page.get_by_role("button", name="Make a token")).to_be_visible()
    expect(page.get_by_text(secret)).to_have_count(0)
    assert secret not in json.dumps(site.told("token-list"))


def test_a_viewer_sees_no_buttons_and_his_forged_requests_are_refused(
    site: Site, worker: str, open_as: Open
) -> None:
    page = open_as("vera", FLEET)
    expect(_row(page, worker)).to_be_visible()
    expect(page.get_by_role("toolbar")).to_have_count(0)
    expect(page.get_by_role("checkbox")).to_have_count(0)
    page.get_by_role("tab", name="Queues").click()
    expect(_row(page, "default")).to_be_visible()
    expect(page.get_by_role("button", name="Pause queue default")).to_have_count(0)
    before = _worker(site, worker)["wished_concurrency"]
    assert _forged(page, site.url + CHANGE, worker) == 403
    assert _worker(site, worker)["wished_concurrency"] == before


FORGE = """async ([url, worker, type]) => {
    const body = JSON.stringify({ worker, concurrency: 1 });
    try {
        const answer = await fetch(url, { method: "POST", body, credentials: "include", headers: { "content-type": type } });
        return answer.status;
    } catch { return 0; }
}"""


def _forged(page: Page, url: str, worker: str, kind: str = "application/json") -> int:
    """Return the status of an administrator's request for one slot, 0 if the browser did not let it be read."""
    status: int = page.evaluate(FORGE, [url, worker, kind])
    return status


def test_another_sites_page_changes_nothing(site: Site, worker: str, open_as: Open) -> None:
    page = open_as("ann", FLEET)
    before = _worker(site, worker)["wished_concurrency"]
    answers: list[int] = []
    page.context.on("response", lambda one: answers.append(one.status) if CHANGE in one.url else None)
    # The same machine under another name: same site for cookies of some browsers, another origin for all.
    stranger = site.url.replace("127.0.0.1", "localhost")
    page.goto(stranger + "/edge-ws/page/icon.svg")
    for kind in ("text/plain", "application/json"):
        assert _forged(page, site.url + CHANGE, worker, kind) in {0, 401, 403}
    # A page's own cookie with a request that comes from elsewhere, which a browser would not send.
    cookies = {one["name"]: one["value"] for one in page.context.cookies(site.url)}
    assert "_token" in cookies
    for origin in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": stranger},
        {},
    ):
        answer = page.context.request.post(
            site.url + CHANGE, data={"worker": worker, "concurrency": 1}, headers=origin
        )
        assert answer.status == 403, (origin, answer.text())
    assert _worker(site, worker)["wished_concurrency"] == before
    # The very same is done where it comes from the page.
    page.goto(site.url + FLEET)
    expect(_row(page, worker)).to_be_visible()
    assert _forged(page, site.url + CHANGE, worker) == 200
    wait_until(lambda: _worker(site, worker)["concurrency"] == 1, 10)
    assert 200 in answers
