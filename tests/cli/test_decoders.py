import pytest

from tuili.cli.decoders import time_left, with_time_left


@pytest.mark.parametrize(("seconds", "done", "total", "text"), [
    (10, 0, 5, "time left unknown"),
    (10, 1, 5, "40 s left"),
    (10, 5, 5, "0 s left"),
    (100, 1, 4, "5 min left"),
    (3600, 1, 3, "2.0 h left"),
])  # fmt: skip
def test_time_left(seconds, done, total, text):
    assert time_left(seconds, done, total) == text


def test_stages_get_their_time_left():
    seen = []
    on_progress = with_time_left(lambda *each: seen.append(each))
    on_progress("measuring", 0, 4)
    on_progress("measuring", 4, 4)
    assert seen == [("measuring, time left unknown", 0, 4), ("measuring, 0 s left", 4, 4)]
