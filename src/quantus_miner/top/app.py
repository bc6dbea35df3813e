"""The view in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from rich.text import Text
from textual.app import App
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.coordinate import Coordinate
from textual.widgets import DataTable, Footer, Sparkline, Static
from textual.worker import WorkerFailed

from quantus_miner.errors import MinerError, printable
from quantus_miner.host.deadline import in_thread
from quantus_miner.host.user import user_name
from quantus_miner.top import faces, text
from quantus_miner.top.watch import Watch
from quantus_miner.wire.commands import ALL, CommandRequest, parse_target
from quantus_miner.wire.fleet import MAX_NAME
from quantus_miner.wire.hub_status import HubStatus
from quantus_miner.wire.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult
    from textual.events import Resize

    from quantus_miner.client import Client
    from quantus_miner.wire.commands import Action

POLL_S: Final = 1.0
"""Seconds from one call to the next."""
MIN_WIDTH: Final = 80
MIN_HEIGHT: Final = 24
"""Columns and lines of the smallest terminal."""
TALL: Final = 40
"""Lines of a terminal with room for a higher plot."""
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
    "ignored": "red",
    "offline": "red",
}
"""Colours of states, by their first word."""


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
    """Shows the miner or the hub of ``client`` until the user quits. Until it answers, it counts as a miner."""

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
        self._face: faces.Face = faces.MINER

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
                for name in faces.TABLES:
                    yield Rows(name)
            yield Static(id="help")
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
        if (face := faces.of(status)) is not self._face:
            self._face = face
            self.refresh_bindings()
            self.action_view("all")
            return
        self._update("head", Text(f"{text.head(status)} | {printable(self._client.url)}"))
        self._update("speed", coloured(face.speed(status)))
        self._update("totals", Text(face.totals(status)))
        faults = face.faults(status)
        self._update("faults", Text("\n".join(f"! {line}" for line in faults)))
        self.query_one("#faults").display = bool(faults)
        for name in face.views[self._view]:
            self.query_one(f"#{name}", Rows).show(faces.TABLES[name](status))

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

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return False for the keys of views that there are not."""
        return action != "view" or parameters[0] in self._face.views

    def action_view(self, view: str) -> None:
        """Show a view."""
        self._view = view
        shown = self._face.views[view]
        for name in faces.TABLES:
            self.query_one(f"#{name}").display = name in shown
        self.query_one("#figures").display = bool(shown)
        self._update("help", Text(self._face.help))
        self.query_one("#help").display = not shown
        if shown:
            self.query_one(f"#{shown[0]}").focus()
        self._show_figures()

    def action_steer(self, verb: Literal["pause", "resume"]) -> None:
        """Pause or resume the selected device or rig."""
        if self._steering:
            self.notify("The miner has not answered the last command yet", severity="warning", markup=False)
            return
        self._steering = True
        if isinstance(self._watch.status, HubStatus):
            call = partial(self._command, verb, self._rig())
        else:
            call = partial(self._pause, verb, self._device())
        self.run_worker(self._steer(call))

    def _device(self) -> str | None:
        """Return the id of the selected device. None: all."""
        table, status = self.query_one("#devices", Rows), self._watch.status
        devices = status.devices if isinstance(status, Status) else []
        number = table.cursor_row - 1
        return devices[number].id if table.display and 0 <= number < len(devices) else None

    def _rig(self) -> str:
        """Return the text in the selected row, ALL for the first one: the name of a rig, or of a stratum miner."""
        table = self.query_one("#miners", Rows)
        return str(table.get_row_at(table.cursor_row)[0]) if table.display and table.cursor_row else ALL

    def _pause(self, verb: Literal["pause", "resume"], device: str | None) -> str:
        """Pause or resume a device of a miner, or all. Return what was done. Raises MinerError."""
        reply = (self._client.pause if verb == "pause" else self._client.resume)(device)
        done = f"{verb}d {'all devices' if device is None else f'device {printable(device)}'}"
        return done.capitalize() if reply.changed else f"Nothing to do: {done} already"

    def _command(self, action: Action, rig: str) -> str:
        """Have a rig of a hub pause or resume, or all. Return what was done. Raises MinerError."""
        try:
            target = parse_target(rig)
        except ValueError:
            raise MinerError(f"{rig} is not a rig; only rigs can be paused from here") from None
        reply = self._client.command(CommandRequest(action, [target], printable(user_name())[:MAX_NAME]))
        kept = f", {len(reply.exceptions):,} keep what was said for them" if reply.exceptions else ""
        return f"{action.capitalize()}: {reply.rigs:,} rigs, {reply.offline:,} of them offline{kept}"

    async def _steer(self, call: Callable[[], str]) -> None:
        try:
            done = await in_thread(call)
        except MinerError as error:
            self.notify(str(error), severity="error", markup=False)
        else:
            self.notify(done, markup=False)
        finally:
            self._steering = False
        self._wake.set()


def coloured(words: str) -> Text:
    """Return ``words`` with the colour of the state that is the first of them."""
    state = words.partition(" ")[0]
    shown = Text(words)
    shown.stylize(COLOURS.get(state, ""), 0, len(state))
    return shown
