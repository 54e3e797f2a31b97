"""Files whole or not at all, one writer a folder."""

import pytest

from activations.artifact import content_hash, file_hash, sole_writer, write_text, writing
from activations.errors import InputError


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fails() -> None:
        with writing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fails()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path):
    left = tmp_path / "figures" / ".size.png.abc.tmp"
    left.parent.mkdir()
    left.write_text("half")
    with sole_writer(tmp_path):
        assert not left.exists()


def test_a_folder_has_one_writer(tmp_path):
    with sole_writer(tmp_path), pytest.raises(InputError, match="another process is writing"), sole_writer(tmp_path):
        pass
    with sole_writer(tmp_path):
        pass


def test_a_changed_file_has_another_hash(tmp_path):
    path = tmp_path / "a"
    path.write_text("one")
    before = file_hash(path)
    path.write_text("three")
    assert file_hash(path) != before


def test_content_hash_does_not_depend_on_key_order():
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
