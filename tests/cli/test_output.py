import io

import pytest

from tuili.cli import output


def test_off_a_terminal_a_line_comes_every_ten_seconds(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 11.0, 12.0, 22.0])
    monkeypatch.setattr(output.time, "monotonic", lambda: next(clock))
    with output.progress() as on_progress:
        for done in range(4):
            on_progress("reading", done, 4 if done else 0)
    assert capsys.readouterr().err == "reading: 1 of 4\nreading: 3 of 4\n"


def test_quiet_progress_is_silent(capsys):
    with output.progress(quiet=True) as on_progress:
        on_progress("reading", 1, 2)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar_is_drawn(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with output.progress() as on_progress:
        on_progress("reading", 1, 2)
    assert "reading" in stream.getvalue()


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_what_is_no_terminal(stream):
    assert not output.is_terminal(stream)


def test_a_closed_stream_is_no_terminal():
    stream = io.StringIO()
    stream.close()
    assert not output.is_terminal(stream)


def test_json_is_one_line_of_ascii(capsys):
    output.print_json({"ü": "推"})
    assert capsys.readouterr().out == '{"\\u00fc": "\\u63a8"}\n'
