"""The page in a real browser: what it shows, how it is steered, and that texts of strangers stay texts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from importlib import resources
from typing import TYPE_CHECKING, Any, Self

import pytest
from benchmarks.browser import MISSING, browser, is_there, resize

from quantus_miner.dev.pool import DEV_WALLET
from quantus_miner.errors import LinkLostError
from quantus_miner.hub.roster import Roster
from quantus_miner.hub.tags import Tags
from quantus_miner.sources.hub import HubLink
from quantus_miner.store.writer import Store
from quantus_miner.wire import fleet

from .conftest import MinerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

pytestmark = pytest.mark.skipif(not is_there(), reason=MISSING)

WAIT_S = 30.0
WIDTHS = (360, 768, 1440)
NAME = """(element) => element.id || element.getAttribute("aria-label") || element.textContent.trim()"""
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>'\"&lt;\x1b[31m\u202e`${1}"


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as driver:
        yield driver


def wait(driver: Chrome, what: Callable[[Chrome], object]) -> Any:
    """What ``what`` returns, once that is something."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(driver, WAIT_S, poll_frequency=0.02).until(what)


def text(driver: Chrome, name: str) -> str:
    """The text of an element, also while it is hidden."""
    shown = driver.execute_script("return document.getElementById(arguments[0]).textContent", name)
    assert isinstance(shown, str)
    return shown


def wait_for(driver: Chrome, name: str, part: str) -> None:
    wait(driver, lambda _: part in text(driver, name))


def open_page(driver: Chrome, miner: MinerProcess) -> None:
    driver.get(f"http://127.0.0.1:{miner.port}/")
    wait_for(driver, "link", "live")
    wait_for(driver, "state", "i")  # idle, mining


def problems(driver: Chrome) -> list[str]:
    """What the browser complained of: errors of scripts, what the policy has blocked. Not a miner that is gone."""
    said = [entry["message"] for entry in driver.get_log("browser")]  # type: ignore[no-untyped-call]
    return [line for line in said if "net::ERR_" not in line and "status of 401" not in line]


def click(driver: Chrome, name: str) -> None:
    driver.execute_script("document.getElementById(arguments[0]).click()", name)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_it_loads_updates_and_survives_a_restart(chrome: Chrome, tmp_path: Path) -> None:
    port = free_port()
    flags = (f"--port={port}", "--workers=1", f"--state-dir={tmp_path}", "--log=debug")
    with MinerProcess(*flags) as miner:
        open_page(chrome, miner)
        assert text(chrome, "state") == "idle"
        job = {"job_id": "job-1", "mining_hash": "00" * 32, "difficulty": str(2**500)}
        assert miner.call("POST", "/mine", job)[0] == 200
        wait_for(chrome, "state", "mining")
        wait_for(chrome, "jobs", "job-1running")
        wait_for(chrome, "rate", "H/s")
        wait_for(chrome, "log", "Job job-1 accepted")
        wait_for(chrome, "doctor-count", "(")
        wait(chrome, lambda driver: "H/s" in driver.title)
        wait(chrome, lambda driver: driver.execute_script("return document.querySelectorAll('#plot canvas').length"))
        assert problems(chrome) == []
        assert miner.stop() == 0
    wait_for(chrome, "link", "no connection")
    with MinerProcess(*flags) as miner:
        wait_for(chrome, "link", "live")
        wait_for(chrome, "state", "mining")  # the job goes on
        # The plot begins before the restart.
        wait(chrome, lambda driver: "average 0\u00a0H/s" not in text(driver, "plot-summary"))
        assert problems(chrome) == []
        assert miner.stop() == 0


def give_token(driver: Chrome, token: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    wait(driver, lambda _: driver.execute_script("return document.getElementById('ask').open"))
    driver.find_element(By.ID, "token").send_keys(token + Keys.ENTER)


def test_it_pauses_and_resumes_with_the_token_and_only_with_it(chrome: Chrome, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    with MinerProcess("--port=0", "--workers=1", f"--state-dir={tmp_path}") as miner:
        open_page(chrome, miner)
        token = (tmp_path / "control-token").read_text().strip()
        click(chrome, "pause")
        wait(chrome, lambda driver: driver.execute_script("return document.activeElement.id") == "token")
        chrome.find_element(By.ID, "token").send_keys(Keys.ESCAPE)
        wait(chrome, lambda driver: not driver.execute_script("return document.getElementById('ask').open"))
        click(chrome, "pause")
        give_token(chrome, "wrong")
        wait_for(chrome, "ask-wrong", "The miner refuses this token")
        assert miner.call("GET", "/status")[1]["pauses"] == []
        give_token(chrome, "not one")
        wait_for(chrome, "ask-wrong", "no spaces")
        give_token(chrome, token)
        wait_for(chrome, "state", "paused")
        wait_for(chrome, "reason", "user")
        wait_for(chrome, "live", "paused")  # what a screen reader says
        wait_for(chrome, "events", "all devices: paused (user)")
        assert miner.call("GET", "/status")[1]["pauses"] == [{"device": None, "reason": "user"}]
        assert chrome.execute_script("return [localStorage.length, document.cookie]") == [0, ""]
        click(chrome, "resume")  # without being asked again
        wait_for(chrome, "state", "idle")
        chrome.find_element(By.CSS_SELECTOR, "#devices button").click()
        wait_for(chrome, "devices", "Resume")
        assert miner.call("GET", "/status")[1]["pauses"] == [{"device": "cpu", "reason": "user"}]
        chrome.find_element(By.CSS_SELECTOR, "#devices button").click()
        wait_for(chrome, "devices", "Pause")
        click(chrome, "forget")
        click(chrome, "pause")
        wait(chrome, lambda driver: driver.execute_script("return document.getElementById('ask').open"))
        assert problems(chrome) == []


@contextlib.contextmanager
def hostile_pool() -> Iterator[str]:
    """The URL of a pool that refuses every login with EVIL."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, connection.makefile("rwb") as stream:
                        login = json.loads(stream.readline() or b'{"id":1}')
                        error = {"code": -1, "message": EVIL}
                        stream.write(json.dumps({"id": login["id"], "error": error, "result": None}).encode() + b"\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"stratum+tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(WAIT_S)


def test_texts_of_strangers_stay_texts(chrome: Chrome) -> None:
    with (
        hostile_pool() as url,
        MinerProcess("--port=0", "--workers=1", f"--pool={url}", f"--wallet={DEV_WALLET}") as miner,
    ):
        open_page(chrome, miner)
        job = {"job_id": EVIL, "mining_hash": "00" * 32, "difficulty": str(2**500)}
        assert miner.call("POST", "/mine", job)[0] == 200
        for name in ("jobs", "sources", "events", "log"):
            wait_for(chrome, name, "<img src=x onerror=")
        assert EVIL in text(chrome, "jobs")
        assert not chrome.execute_script(
            "return document.querySelectorAll('main img, main script, body > script').length"
        )
        assert "owned" not in chrome.title
        assert not re.search("[\x1b\u202e]", text(chrome, "log") + text(chrome, "sources"))
        assert problems(chrome) == []
        click(chrome, "happened")
        size = chrome.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
        assert size[0] <= size[1]


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_can_be_used_with_the_keyboard(chrome: Chrome, miner: MinerProcess, width: int) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    for dark in (False, True):
        resize(chrome, width, 800, dark=dark)
        open_page(chrome, miner)
        shown = chrome.execute_script(
            "const e = document.documentElement;"
            "return [e.scrollWidth, e.clientWidth, getComputedStyle(document.body).backgroundColor]"
        )
        assert shown[0] <= shown[1] <= width
        assert (shown[2] == "rgb(255, 255, 255)") != dark
    if width == WIDTHS[0]:
        # On a phone, all sections are on one screen, those that are closed by their names.
        assert chrome.execute_script("return document.documentElement.scrollHeight") <= 800
    chrome.find_element(By.TAG_NAME, "body").click()
    reached = set()
    for _ in range(20):
        ActionChains(chrome).send_keys(Keys.TAB).perform()
        reached.add(chrome.execute_script(f"return ({NAME})(document.activeElement)"))
    assert {"pause", "hour", "day", "split", "plot", "Pause CPU", "Log"} <= reached
    chrome.execute_script("document.getElementById('plot').focus()")
    ActionChains(chrome).send_keys(Keys.ARROW_LEFT).perform()
    wait_for(chrome, "at", ":")
    controls = "document.querySelectorAll('button, select, input, summary, [tabindex=\"0\"]')"
    assert chrome.execute_script(f"return [...{controls}].map({NAME}).filter((name) => !name).length") == 0
    assert problems(chrome) == []


class Unmoved:
    """A live source that does nothing with what its link says."""

    def ignore(self, *_: object) -> None:
        pass

    on_open = on_alive = on_job = on_no_job = on_handover = on_verdict = ignore


class Rigs:
    """Rigs of a hub, in a thread of this process. They only report; the version that they say is EVIL."""

    def __init__(self, urls: list[fleet.HubUrl], folder: Path) -> None:
        self.orders: dict[str, fleet.Orders] = {}
        self._urls = urls
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    async def _run(self) -> None:
        store = Store(self._folder, history_days=30)
        store.begin()
        tasks = [asyncio.create_task(self._link(url, number, store)) for number, url in enumerate(self._urls)]
        await self._ended.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        store.close(WAIT_S)

    async def _link(self, url: fleet.HubUrl, number: int, store: Store) -> None:
        def report() -> fleet.StatusMessage:
            orders = self.orders.get(url.name, fleet.NO_ORDERS)
            pauses = ["hub"] if orders.paused else []
            return fleet.StatusMessage(
                *(EVIL[:64], 1.0, 1e6 * (number + 1), 1, 0, 1, 60.0, 200.0),
                pauses=pauses, paused=orders.paused, done=orders.id,
            )  # fmt: skip

        def obey(orders: fleet.Orders) -> None:
            self.orders[url.name] = orders
            link.report()

        link = HubLink(url, store, report, obey)
        while True:
            with contextlib.suppress(LinkLostError):
                await link.run(Unmoved())
            await asyncio.sleep(0.1)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(WAIT_S)
        self._loop.close()


def first_row(driver: Chrome) -> str:
    row = driver.execute_script("return document.getElementById('miners').rows[0].textContent")
    assert isinstance(row, str)
    return row


def test_the_page_of_a_hub_shows_all_rigs_and_steers_them(chrome: Chrome, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By

    pytest.importorskip("nats", reason="needs the extra hub")
    port, state = free_port(), tmp_path / "hub"
    roster = Roster(state)
    servers, pin = (("127.0.0.1", port),), roster.fingerprint()
    urls = [roster.invite(f"rig{number:02}", servers, pin) for number in range(12)]
    Tags(Roster(state).folder).set("rig03", ["farm1"])
    Tags(Roster(state).folder).set("rig04", ["farm1"])
    source = ("--pool=stratum+tcp://127.0.0.1:9", f"--wallet={DEV_WALLET}")
    with MinerProcess("hub", "--port=0", f"--nats-port={port}", *source, f"--state-dir={state}") as hub:
        hub.wait_for_line("Rigs can connect to port ")
        with Rigs(urls, tmp_path / "rigs") as rigs:
            resize(chrome, 1440, 900)
            chrome.get(f"http://127.0.0.1:{hub.port}/")
            wait_for(chrome, "link", "live")
            wait_for(chrome, "count", "12 of 12 miners")
            wait_for(chrome, "rigs", "12 / 12")
            wait(chrome, lambda driver: text(driver, "miners").count(EVIL[:40]) == 12)
            assert "owned" not in chrome.title
            # Sorted by a click on a head, and the other way round by a second one.
            heads = {
                head.text.rstrip(" ▲▼"): head for head in chrome.find_elements(By.CSS_SELECTOR, "#miners-head button")
            }
            heads["rate"].click()
            assert first_row(chrome).startswith("rig11")
            assert heads["rate"].find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
            heads["rate"].click()
            assert first_row(chrome).startswith("rig00")
            chrome.find_element(By.ID, "filter").send_keys("tag:farm1")
            wait_for(chrome, "count", "2 of 12 miners")
            # A command from the form needs the token, and is told to the rigs.
            chrome.find_element(By.ID, "target").send_keys("tag:farm1")
            click(chrome, "send")
            give_token(chrome, "wrong")
            wait_for(chrome, "ask-wrong", "refuses this token")
            give_token(chrome, (state / "control-token").read_text().strip())
            wait_for(chrome, "said", "pause: 2 rigs")
            wait(chrome, lambda driver: text(driver, "miners").count("paused (hub)") == 2)
            assert {name for name, orders in rigs.orders.items() if orders.paused} == {"rig03", "rig04"}
            # One from a row counts before it.
            chrome.find_element(By.CSS_SELECTOR, "[aria-label='Resume rig04']").click()
            wait(chrome, lambda driver: text(driver, "miners").count("paused (hub)") == 1)
            wait_for(chrome, "commands", "page (127.0.0.1)")
            assert hub.call("GET", "/commands")[1]["commands"][1]["target"] == "rig04"
            names = f"return [...document.querySelectorAll('button, select, input, summary')].map({NAME})"
            assert all(chrome.execute_script(names))
            for width in WIDTHS:
                resize(chrome, width, 800)
                chrome.refresh()
                wait_for(chrome, "count", "12 of 12 miners")
                size = "const e = document.documentElement; return [e.scrollWidth, e.clientWidth, e.scrollHeight]"
                across, room, down = chrome.execute_script(size)
                assert across <= room <= width
                assert down <= 800 or width > WIDTHS[0]
            assert problems(chrome) == []
        assert hub.stop() == 0


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_texts_have_the_contrast_that_wcag_asks_for() -> None:
    style = resources.files("quantus_miner.web").joinpath("static", "page.css").read_text()
    themes = [dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", part)) for part in re.split("@media", style)[:2]]
    assert len(themes) == 2
    for theme in themes:
        for name in ("text", "dim", "accent", "good", "warn", "bad", "block"):
            for back in ("back", "card"):
                light, dark = sorted((luminance(theme[name]), luminance(theme[back])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, back)
