import io
import re
import threading

from hearth.cli.progress import Progress
from hearth.cli.render import milliseconds, printable, show_table, size


class Terminal(io.StringIO):
    """A terminal that says when something was written."""

    def __init__(self):
        super().__init__()
        self.written = threading.Event()

    def isatty(self):
        return True

    def write(self, text):
        self.written.set()
        return super().write(text)


class Pipe(Terminal):
    def isatty(self):
        return False


def test_control_characters_are_replaced_but_not_tabs_and_newlines():
    assert printable("a\tb\nc") == "a\tb\nc"
    assert printable("\x1b[31m\r\x00\x9b") == "\ufffd[31m\ufffd\ufffd\ufffd"


def test_what_was_not_measured_is_a_dash():
    assert (milliseconds(None), size(None)) == ("-", "-")
    assert (milliseconds(1_234_567), size(3 << 20), size(2048)) == ("1.23 ms", "3.0 MiB", "2.0 KiB")


def test_a_table_without_a_terminal_has_no_colour(capsys):
    show_table(("A", "LONG"), [("x", None), ("yy", 1)])
    assert capsys.readouterr().out == "A   LONG\nx\nyy  1\n"


def test_a_table_on_a_terminal_shows_markup_as_text(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    show_table(("A",), [("[red]x[/red]",)])
    assert "[red]x[/red]" in terminal.getvalue()


def test_no_color_leaves_no_colour_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    show_table(("A",), [("x",)])
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.getvalue())


def test_what_is_quick_says_nothing():
    terminal = Terminal()
    with Progress(terminal, patience_s=3600) as progress:
        progress.phase("packing")
    assert terminal.getvalue() == ""


def test_what_is_slow_is_shown_on_a_terminal_and_wiped_off_again():
    terminal = Terminal()
    with Progress(terminal, patience_s=0.001) as progress:
        progress.phase("packing")
        terminal.written.clear()
        assert terminal.written.wait(10)
    assert "packing" in terminal.getvalue()
    assert re.search(r"\r +\r$", terminal.getvalue())


def test_what_is_slow_is_a_line_for_each_phase_in_a_pipe():
    pipe = Pipe()
    progress = Progress(pipe, patience_s=0.001)
    progress.phase("packing")
    with progress:
        assert pipe.written.wait(10)
        pipe.written.clear()
        progress.phase("uploading")
        assert pipe.written.wait(10)
    assert pipe.getvalue() == "packing …\nuploading …\n"
