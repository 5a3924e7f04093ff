import json

import pytest

from tuili import InputError
from tuili.porting import texts
from tuili.porting.texts import bundled_text, encode, read_corpora, read_text


def test_a_folders_files_are_one_text_in_the_order_of_their_names(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.md").write_text("three")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "a.json").write_text(json.dumps({"text": "zero", "id": 3}))
    (tmp_path / "x.bin").write_bytes(b"\xff")
    (tmp_path / "y.py").write_text("four")
    assert read_corpora([tmp_path]) == {str(tmp_path): "zero\n\none\n\nthree\n\nfour"}
    assert list(read_corpora([tmp_path / "y.py", tmp_path / "a.txt"]).values()) == ["four", "one"]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.txt", None, "can't read"),
    ("a.txt", b"", "holds no text"),
    ("a.txt", b" \n", "holds no text"),
    ("a.txt", b"ab\xff", "no UTF-8 text: invalid start byte at byte 2"),
    ("a.json", b'{"text": 1}', '"text"'),
    ("a.json", b'["text"]', '"text"'),
    ("a.json", b"{", "no sound JSON"),
    ("a.json", b'{"text": ""}', "holds no text"),
])  # fmt: skip
def test_bad_files_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_text(tmp_path / name)


def test_a_file_over_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "MAX_FILE_BYTES", 3)
    (tmp_path / "a.txt").write_text("four")
    with pytest.raises(InputError, match="4 bytes, the limit is 3"):
        read_text(tmp_path / "a.txt")


def test_no_paths_and_paths_given_twice_are_refused(tmp_path):
    with pytest.raises(InputError, match="no text"):
        read_corpora([])
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(InputError, match="twice"):
        read_corpora([tmp_path / "a.txt"] * 2)


def test_python_brings_a_text_long_enough_for_a_window(tiny_decoder, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    name, text = bundled_text()
    assert name == "Python's tarfile.py" and len(text) > 80_000
    assert len(encode(AutoTokenizer.from_pretrained(tiny_decoder()), text)) > 8192
    monkeypatch.setattr(texts.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(InputError, match="give a text of your own"):
        bundled_text()
