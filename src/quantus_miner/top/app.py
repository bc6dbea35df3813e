"""The view in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.app import App
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.coordinate import Coordinate
from textual.widgets import DataTable, Footer, Sparkline, Static
from textual.worker import WorkerFailed

from quantus_miner.errors import MinerError, printable
from quantus_miner.host.deadline import in_thread
from quantus_miner.top import text
from quantus_miner.top.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult
    from textual.events import Resize

    from quantus_miner.client import Client
    from quantus_miner.wire.status import PauseReply, Status

POLL_S: Final = 1.0
"""Seconds from one call to the next."""
MIN_WIDTH: Final = 80
MIN_HEIGHT: Final = 24
"""Columns and lines of the smallest terminal."""
TALL: Final = 40
"""Lines of a terminal with room for a higher plot."""
TABLES: Final[dict[str, Callable[[Status], text.Table]]] = {
    "devices": text.devices,
    "workers": text.workers,
    "shares": text.shares,
    "connections": text.connections,
    "jobs": text.jobs,
}
VIEWS: Final = {
    "all": ("devices", "shares", "jobs"),
    "hash rate": ("devices", "workers"),
    "shares": ("shares",),
    "connections": ("connections",),
    "jobs": ("jobs",),
    "help": (),
}
"""The tables of each view."""
COLOURS: Final = {
    "mining": "green",
    "mined": "green",
    "running": "green",
    "completed": "green",
    "paused": "yellow",
    "failing": "yellow",
    "stalled": "yellow",
    "failed": "red",
    "lost": "red",
    "down": "red",
    "refused": "red",
}
"""Colours of states, by their first word."""
HELP: Final = """\
a  all: devices, nodes and pools, jobs   p  pause the selected device
h  hash rate by device and worker        r  resume the selected device
s  shares by node and pool               ?  this help
c  connections to nodes and pools        q  quit
j  jobs of the job API

Arrows select a device and scroll, Tab goes to the next table. In the row
"all", and in views without devices, p and r are for all devices.

Rates are averages: over 10 s, and over 60 s and 15 min where these stand.
"-" is unknown. The plot shows the rate since top was started, one hour at
most; no answer counts as 0. Figures that are older than 5 s are dimmed.

SHARES  accepted, rejected, stale (too late)
SENT    solutions sent, also those to nodes, which do not confirm them
LUCK    accepted work for the nonces tested, on average 100 %"""


class Rows(DataTable[Text]):
    """A table that keeps its place while its rows change."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name, cursor_type="row", zebra_stripes=False)
        self._shown = text.Table((), [])

    def show(self, table: text.Table) -> None:
        """Show ``table``. The cursor stays on the row with the same first text."""
        if not self.columns:
            self.add_columns(*(Text(title) for title in table.titles))
        names, before = [row[0] for row in table.rows], [row[0] for row in self._shown.rows]
        if names == before:
            for number, (old, new) in enumerate(zip(self._shown.rows, table.rows, strict=True)):
                for column in (column for column, cell in enumerate(new) if cell != old[column]):
                    cell = self._cell(table, new, column)
                    self.update_cell_at(Coordinate(number, column), cell, update_width=True)
        else:
            selected = before[self.cursor_row] if before else ""
            self.clear()
            for row in table.rows:
                self.add_row(*(self._cell(table, row, column) for column in range(len(row))))
            self.move_cursor(row=names.index(selected) if selected in names else 0, animate=False)
        self._shown = table

    def _cell(self, table: text.Table, row: tuple[str, ...], column: int) -> Text:
        return coloured(row[column]) if table.titles[column] == text.STATE else Text(row[column])


class Top(App[None]):
    """Shows the miner of ``client`` until the user quits."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    .line { height: 1; text-wrap: nowrap; text-overflow: ellipsis; padding: 0 1; }
    #head { background: $panel; text-style: bold; }
    #notice { background: $error; color: $text; height: auto; max-height: 3; padding: 0 1; }
    #faults { color: $warning; height: auto; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    #plot { height: 2; margin: 0 1; }
    .tall #plot { height: 6; }
    #help { padding: 1 0 0 1; height: 1fr; overflow-y: auto; }
    #small { display: none; padding: 1; }
    Rows { height: auto; max-height: 1fr; min-height: 3; margin-top: 1; }
    .old Static, .old Rows, .old Sparkline { text-opacity: 50%; }
    .small #board { display: none; }
    .small #small { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "view('all')", "All"),
        Binding("h", "view('hash rate')", "Hash rate"),
        Binding("s", "view('shares')", "Shares"),
        Binding("c", "view('connections')", "Connections"),
        Binding("j", "view('jobs')", "Jobs"),
        Binding("p", "steer('pause')", "Pause"),
        Binding("r", "steer('resume')", "Resume"),
        Binding("question_mark", "view('help')", "Help", key_display="?"),
        Binding("q,ctrl+c", "quit", "Quit", key_display="q", priority=True),
        Binding("ctrl+z", "suspend_process", show=False),
    ]

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self._watch = Watch(client.url, time.monotonic())
        self._wake = asyncio.Event()
        self._steering = False
        self._view = "all"

    def show(self) -> None:
        """Run until the user quits. Raises what the view could not handle."""
        self.run()
        error = self._exception
        if error is not None:
            raise error.error if isinstance(error, WorkerFailed) else error

    def _fatal_error(self) -> None:
        """End without printing a traceback. ``show`` raises the error."""
        self._close_messages_no_wait()

    def compose(self) -> ComposeResult:
        """Yield the widgets, from top to bottom."""
        yield Static(id="small")
        with Vertical(id="board"):
            yield Static(id="head", classes="line")
            yield Static(id="notice")
            with Vertical(id="figures"):
                yield Static(id="speed", classes="line")
                yield Sparkline(id="plot")
                yield Static(id="totals", classes="line")
                yield Static(id="faults")
                for name in TABLES:
                    yield Rows(name)
            yield Static(Text(HELP), id="help")
            yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin to ask the miner."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        self.action_view(self._view)
        self.set_interval(POLL_S, self._show_age)
        self.run_worker(self._poll())

    def on_resize(self, event: Resize) -> None:
        """Say so if the terminal is too small."""
        width, height = event.size
        self.screen.set_class(width < MIN_WIDTH or height < MIN_HEIGHT, "small")
        self.screen.set_class(height >= TALL, "tall")
        needed = f"quantus-miner top needs {MIN_WIDTH} columns and {MIN_HEIGHT} lines"
        self.query_one("#small", Static).update(Text(f"{needed}; this terminal has {width} and {height}."))

    # --- figures ---

    async def _poll(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                self._watch.on_status(await in_thread(self._client.status), time.monotonic())
            except MinerError as error:
                self._watch.on_error(str(error))
            self._show_figures()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(begun + POLL_S - time.monotonic()):
                    await self._wake.wait()
            self._wake.clear()

    def _show_figures(self) -> None:
        self._show_age()
        # Textual scales a plot from the smallest value; from 0 on, small changes look small.
        self.query_one(Sparkline).data = [0.0, *self._watch.rates]
        status = self._watch.status
        if status is None:
            return
        self._update("head", Text(f"{text.head(status)} | {printable(self._client.url)}"))
        self._update("speed", coloured(text.speed(status)))
        self._update("totals", Text(text.totals(status)))
        faults = text.faults(status)
        self._update("faults", Text("\n".join(f"! {line}" for line in faults)))
        self.query_one("#faults").display = bool(faults)
        for name in VIEWS[self._view]:
            self.query_one(f"#{name}", Rows).show(TABLES[name](status))

    def _show_age(self) -> None:
        now = time.monotonic()
        notice = self._watch.notice(now)
        self._update("notice", Text(notice))
        self.query_one("#notice").display = bool(notice)
        self.query_one("#figures").set_class(self._watch.is_old(now), "old")

    def _update(self, name: str, content: Text) -> None:
        shown = self.query_one(f"#{name}", Static)
        if content != shown.content:  # to lay out the screen takes time
            shown.update(content)

    # --- keys ---

    def action_view(self, view: str) -> None:
        """Show a view."""
        self._view = view
        shown = VIEWS[view]
        for name in TABLES:
            self.query_one(f"#{name}").display = name in shown
        self.query_one("#figures").display = bool(shown)
        self.query_one("#help").display = not shown
        if shown:
            self.query_one(f"#{shown[0]}").focus()
        self._show_figures()

    def action_steer(self, verb: str) -> None:
        """Pause or resume the selected device."""
        if self._steering:
            self.notify("The miner has not answered the last command yet", severity="warning", markup=False)
            return
        self._steering = True
        calls = {"pause": self._client.pause, "resume": self._client.resume}
        self.run_worker(self._steer(verb, calls[verb], self._selected()))

    def _selected(self) -> str | None:
        """Return the id of the selected device. None: all."""
        table = self.query_one("#devices", Rows)
        devices = self._watch.status.devices if self._watch.status is not None else []
        number = table.cursor_row - 1
        return devices[number].id if table.display and 0 <= number < len(devices) else None

    async def _steer(self, verb: str, call: Callable[[str | None], PauseReply], device: str | None) -> None:
        name = "all devices" if device is None else f"device {printable(device)}"
        try:
            reply = await in_thread(lambda: call(device))
        except MinerError as error:
            self.notify(str(error), severity="error", markup=False)
        else:
            done = f"{verb}d {name}"
            self.notify(done.capitalize() if reply.changed else f"Nothing to do: {done} already", markup=False)
        finally:
            self._steering = False
        self._wake.set()


def coloured(words: str) -> Text:
    """Return ``words`` with the colour of the state that is the first of them."""
    state = words.partition(" ")[0]
    shown = Text(words)
    shown.stylize(COLOURS.get(state, ""), 0, len(state))
    return shown
