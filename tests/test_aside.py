"""Files that are written aside: whole or not there, and nobody else's is touched."""

import os

import pytest

from cvvae_jax.errors import UserError
from cvvae_jax.resumable.files import require_vacant, require_writable, written_aside


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "out.txt"
    with written_aside(path) as aside:
        assert aside.suffix == ".txt" and aside.parent == tmp_path
        aside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["out.txt"]


def test_after_an_error_the_old_file_is_there(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_aside(path) as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["out.txt"]


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    other, path = tmp_path / "other.txt", tmp_path / "out.txt"
    other.write_text("mine")
    path.symlink_to(other)
    with written_aside(path) as aside:
        aside.write_text("new")
    assert other.read_text() == "mine" and path.read_text() == "new"


def test_long_names_have_a_file_aside(tmp_path):
    path = tmp_path / f"{'ü' * 120}.txt"
    with written_aside(path) as aside:
        aside.write_text("new")
    assert path.read_text() == "new"


def test_permissions_are_those_that_the_user_has_chosen(tmp_path):
    before = os.umask(0o027)
    try:
        with written_aside(tmp_path / "out.txt"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "out.txt").stat().st_mode & 0o777 == 0o640


def test_what_is_there_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "out.txt"
    require_vacant(path, overwrite=False)
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"out\.txt exists; --overwrite replaces it\.$"):
        require_vacant(path, overwrite=False)
    require_vacant(path, overwrite=True)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    require_writable(tmp_path / "out.txt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"out\.txt cannot be written: No such file"):
        require_writable(tmp_path / "missing" / "out.txt")
