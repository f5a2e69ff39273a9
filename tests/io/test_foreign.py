"""Small files from elsewhere: limits of what is read, and sentences instead of tracebacks."""

import os

import pytest
import yaml

from rlora.io.foreign import (
    parse_foreign_json,
    parse_foreign_yaml,
    read_foreign_text,
    read_small_file,
)

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


# Large enough that what is not refused early takes minutes, or all memory.
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3_000,
        "[" * 3_000 + "]" * 3_000,
        "{a: " * 100_000,
        "\n".join(" " * i + "a:" for i in range(3_000)),
        "- " * 3_000,
        BOMB,
        "a: &a [*a]",
        "a: &a {<<: *a}",
        "&a [" + "&b [" * 98 + "1" + "]" * 98 + ", [*b]]",
        "a: !!python/object/apply:os.system [id]",
        "a: *missing",
        "a: [1",
        "a: 2026-13-45",
        "{[1]: 2}",
        "\t",
        "a: 1\n---\nb: 2\n",
        "x: [" + "1," * 300_000 + "]",
    ],
)
def test_refuses_yaml(text):
    with pytest.raises(ValueError, match=r"^config\.yaml ") as error:
        parse_foreign_yaml(text, "config.yaml")
    assert "\n" not in str(error.value)


def test_reads_the_aliases_that_yaml_writes_for_shared_values():
    shared = {"a": [1, 2]}
    text = yaml.safe_dump({"one": shared, "two": shared})
    assert "&" in text
    assert parse_foreign_yaml(text, "config.yaml") == {"one": shared, "two": shared}


@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ('{"a": ', "}")])
@pytest.mark.parametrize("depth", [101, 900, 3_000, 100_000])
def test_refuses_deep_json(open_, close, depth):
    with pytest.raises(ValueError, match=r"^results\.json ") as error:
        parse_foreign_json(open_ * depth + "1" + close * depth, "results.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "nan", "NaN", "1e999", '{"a": 1, "a": 2}', '"\\ud800"', "[1"])
def test_refuses_json_that_is_none(text):
    with pytest.raises(ValueError, match=r"^results\.json"):
        parse_foreign_json(text, "results.json")


def test_reads_nested_json():
    text = "[" * 100 + "]" * 100
    assert parse_foreign_json(text, "results.json")
