"""A study's file: appended whole, and searched through an index that always fits it."""

import json
import os
from dataclasses import asdict, replace

import pytest

from rlora.records import study_file
from rlora.records.record import STUDY_FILE
from rlora.records.study_file import append_execution, read_study, records_of

MANY = 300


@pytest.fixture
def numbered(record):
    """Function (number): a record whose config hash is that number in hexadecimal."""

    def make(number, seed=0):
        started = f"2024-01-01T00:00:0{seed}+00:00"
        run = replace(record.run, config_hash=f"{number:064x}", seed=seed, started=started)
        return replace(record, run=run)

    return make


@pytest.fixture
def file(tmp_path, numbered):
    """A study of many records."""
    path = tmp_path / "study" / STUDY_FILE
    path.parent.mkdir()
    lines = [json.dumps(asdict(numbered(number))) + "\n" for number in range(MANY)]
    path.write_text("".join(lines))
    return path


def hashes(file, *numbers):
    found = [records_of(file, f"{number:064x}") for number in numbers]
    return [[record.run.config_hash for record in records] for records in found]


def found_everywhere(file, *numbers):
    return hashes(file, *numbers) == [[f"{number:064x}"] for number in numbers]


def test_records_are_found_and_only_their_lines_are_parsed(file, monkeypatch):
    assert found_everywhere(file, 0, 7, MANY - 1)
    assert hashes(file, MANY) == [[]]
    parsed, parse = [], study_file.parse_study_line
    monkeypatch.setattr(
        study_file,
        "parse_study_line",
        lambda line, place: parsed.append(place) or parse(line, place),
    )
    assert found_everywhere(file, 7)
    assert parsed == [f"{file}, line 8"]


def test_appended_records_are_found_in_order(file, numbered):
    assert found_everywhere(file, 5)
    for seed in (1, 2):
        append_execution(numbered(5, seed), file)
    assert [record.run.seed for record in records_of(file, f"{5:064x}")] == [0, 1, 2]
    assert len(read_study(file)) == MANY + 2


@pytest.mark.parametrize("change", ["shorter", "replaced", "edited"])
def test_a_file_that_changed_is_indexed_again(file, numbered, change):
    assert found_everywhere(file, 0, MANY - 1)
    lines = file.read_text().splitlines(keepends=True)
    if change == "shorter":
        file.write_text("".join(lines[: MANY // 2]))
    elif change == "replaced":
        file.unlink()
        file.write_text("".join(reversed(lines)))
    else:
        file.write_text("".join(lines[1:]) + json.dumps(asdict(numbered(MANY))) + "\n")
    expected = [record.run.config_hash for record in read_study(file)]
    assert [hashes(file, n)[0] for n in (0, 3, MANY - 1, MANY)] == [
        [f"{n:064x}"] if f"{n:064x}" in expected else [] for n in (0, 3, MANY - 1, MANY)
    ]


@pytest.mark.parametrize("content", [b"", b"no index", b"SQLite format 3\0" + b"x" * 200])
def test_a_damaged_index_is_replaced_or_ignored(file, content):
    index = file.with_name(f".{STUDY_FILE}.index")
    index.write_bytes(content)
    assert found_everywhere(file, 0, 9)


def test_a_study_is_read_where_no_index_can_be_written(file, monkeypatch):
    def fail(*_, **__):
        raise study_file.sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(study_file.sqlite3, "connect", fail)
    assert found_everywhere(file, 0, 9)


def test_an_incomplete_line_is_skipped_and_replaced(file, numbered):
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:100_000].rpartition(b"\n")[2])
    assert len(read_study(file)) == MANY
    assert found_everywhere(file, 0, MANY - 1)
    append_execution(numbered(MANY), file)
    assert len(read_study(file)) == MANY + 1
    assert found_everywhere(file, 0, MANY)


def test_a_long_incomplete_line_is_dropped_too(tmp_path, numbered):
    file = tmp_path / STUDY_FILE
    for start in (b"", (json.dumps(asdict(numbered(0))) + "\n").encode()):
        file.write_bytes(start + b"x" * (3 * study_file._BLOCK + 5))
        append_execution(numbered(1), file)
        assert file.read_bytes().startswith(start + b'{"run"')
        os.remove(file)


def test_a_line_that_is_not_a_record_is_named(tmp_path):
    file = tmp_path / STUDY_FILE
    file.write_text("{}\n")
    with pytest.raises(ValueError, match=r"records\.jsonl, line 1 has record schema None"):
        read_study(file)
    file.write_text("{\n")
    with pytest.raises(ValueError, match=r"records\.jsonl, line 1 cannot be read"):
        read_study(file)
