"""Small files from elsewhere: limits of what is read, and sentences instead of tracebacks."""

import os

import pytest

from rlora.io.foreign import read_foreign_text, read_small_file

pytestmark = pytest.mark.timeout(30)  # a pipe or an endless file would block for ever


def test_reads_a_regular_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes(b"a: 1\n")
    assert read_small_file(file) == b"a: 1\n"
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    assert read_foreign_text(link) == "a: 1\n"


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "large", "latin", "nul", "cycle"])
def test_refuses_other_files(tmp_path, kind):
    file = tmp_path / "config.yaml"
    match kind:
        case "fifo":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
        case "folder":
            file.mkdir()
        case "large":
            with file.open("wb") as stream:
                stream.truncate(2**26)
        case "latin":
            file.write_bytes(b"a: \xe9\n")
        case "nul":
            file = tmp_path / "config\0.yaml"
        case "cycle":
            file.symlink_to(file)
    with pytest.raises(ValueError, match="cannot be read") as error:
        read_foreign_text(file)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_small_file(tmp_path / "none")
