"""Progress: a live line on terminals and in notebooks, lines in logs, functions."""

import builtins
import io
import os
import pty
import re
import sys
from contextlib import suppress
from threading import Thread
from types import ModuleType

import pytest

from layertap.core import progress
from layertap.core.progress import open_progress, show_progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    seconds = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def work(show, outcome=""):
    """Shows some work, to 3 of 4 rows."""
    with show_progress(show) as display:
        display.status("planning a [red] folder")
        display.say("2 rows [there]")
        display.report("saving", 4, 2, 0)
        display.report("saving", 4, 3, 5000)
        display.outcome = outcome


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        (
            lambda seen: lambda rows, size: seen.append((rows, size)),
            [(2, 0), (3, 5000)],
        ),
        (
            lambda seen: lambda rows, size, total=None: seen.append((total, rows)),
            [(4, 2), (4, 3)],
        ),
        (lambda seen: lambda *told: seen.append(told), [(2, 0, 4), (3, 5000, 4)]),
        (
            lambda seen: lambda rows, size, *, end="": seen.append((rows, size)),
            [(2, 0), (3, 5000)],
        ),
    ],
)
def test_a_function_gets_the_total_if_it_accepts_it(function, calls, capsys):
    seen = []
    work(function(seen))
    assert seen == calls
    assert capsys.readouterr() == ("", "")


def test_a_function_without_a_signature(monkeypatch):
    seen = {}
    # Python can't say what `dict.update` or `min` accept.
    monkeypatch.setattr(progress.inspect, "signature", _no_signature)
    work(lambda rows, size: seen.update({rows: size}))
    assert seen == {2: 0, 3: 5000}


def _no_signature(function):
    raise ValueError("no signature found")


@pytest.mark.parametrize("show", [None, False])
def test_no_terminal_no_output(show, capsys):
    work(show, "Kept 2 rows, computed 1.")
    assert capsys.readouterr() == ("", "")


def test_lines_of_a_log(clock, capsys):
    with show_progress(True) as display:
        display.status("planning")
        for rows in range(0, 1000, 10):
            display.report("saving 2 values", 2000, rows, 2**20 if rows else 0)
            clock[0] += 0.5
        display.outcome = "Kept 0 rows."
    output, lines = capsys.readouterr()
    assert output == ""
    assert lines.splitlines() == [
        "layertap: planning",
        "layertap: saving 2 values: 0 of 2,000 rows",
        *(
            f"layertap: saving 2 values: {rows} of 2,000 rows, 20/s, 1.0 MB written, "
            f"0:{left // 60:02}:{left % 60:02} left"
            for rows, left in ((200, 90), (400, 80), (600, 70), (800, 60))
        ),
        "layertap: Kept 0 rows.",
    ]


def test_the_last_line_of_a_log_is_the_last_state(clock, capsys):
    with show_progress(True) as display:
        display.report("saving", None, 32, 0)
        clock[0] += 4
        display.report("saving", None, 64, 0)
    _, lines = capsys.readouterr()
    assert lines.splitlines()[1:] == ["layertap: saving: 64 rows, 8/s"]


def test_a_log_that_can_not_be_written_stops_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    sys.stderr.close()
    # `isatty` of a closed file raises.
    sys.stderr.isatty = lambda: False
    work(True)
    monkeypatch.setattr(sys, "stderr", None)
    work(True)


class Terminal:
    """Standard error as a terminal, in a `with` statement of a test."""

    def __init__(self, monkeypatch, kind="xterm"):
        self._patch, self._kind = monkeypatch, kind
        self._parts = []
        self.shown = ""

    def __enter__(self):
        self._ours, theirs = pty.openpty()
        self._stream = os.fdopen(theirs, "w")
        # Not in a fixture: pytest sets it again before it calls the test.
        self._patch.setattr(sys, "stderr", self._stream)
        self._patch.setenv("TERM", self._kind)
        self._patch.setenv("COLUMNS", "100")
        self._reader = Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self):
        # The end of a terminal is an error on Linux.
        with suppress(OSError):
            while part := os.read(self._ours, 4096):
                self._parts.append(part)

    def __exit__(self, *error):
        self._stream.close()
        self._reader.join()
        os.close(self._ours)
        self._patch.undo()
        self.shown = plain(b"".join(self._parts).decode())


def plain(text):
    """Returns text without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_terminal_has_a_live_line(monkeypatch):
    with Terminal(monkeypatch) as terminal:
        work(None, "Kept 2 rows, computed 1.")
    lines = terminal.shown.replace("\r\n", "\n").split("\n")
    assert "planning a [red] folder" in terminal.shown
    assert "2 rows [there]" in terminal.shown
    bars = [line for line in lines if "3 of 4 rows" in line]
    assert "5.0 kB written" in bars[-1]
    assert any(line.endswith("Kept 2 rows, computed 1.") for line in lines)


def test_a_status_does_not_stay(monkeypatch):
    with Terminal(monkeypatch) as terminal, show_progress(None) as display:
        display.status("comparing", 4, 3)
    assert "comparing" in terminal.shown
    # Up a line, and erased.
    assert terminal.shown.rstrip().endswith("\x1b[1A\x1b[2K")


def test_a_display_is_shared(monkeypatch):
    with Terminal(monkeypatch) as terminal, open_progress(None) as display:
        with show_progress(display) as inner:
            assert inner is display
            inner.outcome = "Compared, not computed."
        display.status("more")
    assert "more" in terminal.shown
    # Whoever opened it shows it.
    assert "Compared" not in terminal.shown


def test_a_dumb_terminal_has_lines(monkeypatch):
    with Terminal(monkeypatch, "dumb") as terminal:
        work(None)
    assert "layertap: planning a [red] folder\r\n" in terminal.shown


class ZMQInteractiveShell:
    """What `get_ipython` returns in a notebook."""


@pytest.fixture
def notebook(monkeypatch):
    """What a notebook shows: a list of `display`'s arguments."""
    shown = []

    def display(data, **options):
        shown.append((data, options))

    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    ipython, module = ModuleType("IPython"), ModuleType("IPython.display")
    module.display = display
    for name, fake in (("IPython", ipython), ("IPython.display", module)):
        monkeypatch.setitem(sys.modules, name, fake)
    return shown


def test_a_notebook_has_one_display(notebook, capsys):
    work(None, "Kept 2 <rows>.")
    assert [options["update"] for _, options in notebook] == [False] + [True] * 4
    assert len({options["display_id"] for _, options in notebook}) == 1
    data = notebook[-1][0]
    state, *said = data["text/plain"].splitlines()
    assert re.fullmatch(r"layertap: saving: 3 of 4 rows, .*5.0 kB written.*", state)
    assert said == ["2 rows [there]", "Kept 2 <rows>."]
    assert data["text/html"].startswith('<div><progress value="3" max="4"></progress> ')
    assert data["text/html"].endswith("<br>Kept 2 &lt;rows&gt;.</div>")
    assert capsys.readouterr() == ("", "")


def test_a_notebook_is_not_flooded(notebook, clock):
    with show_progress(None) as display:
        for rows in range(1000):
            display.report("saving", None, rows, 0)
            clock[0] += 0.01
        display.status("closing")
    times = [data["text/plain"].split()[2] for data, _ in notebook[:-1]]
    assert len(times) == 50
    assert notebook[-1][0]["text/plain"] == "layertap: closing"
    assert "<progress" not in notebook[-1][0]["text/html"]


def test_a_notebook_that_is_gone_stops_nothing(notebook, monkeypatch, capsys):
    def display(data, **options):
        raise RuntimeError("not connected")

    monkeypatch.setattr(sys.modules["IPython.display"], "display", display)
    work(None, "Kept 2 rows.")
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    work(None, "Kept 2 rows.")
    assert notebook == []
    assert capsys.readouterr() == ("", "")
