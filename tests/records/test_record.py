"""The run record: written atomically, read back unchanged, refused if invalid."""

import contextlib
import json
from dataclasses import asdict, replace

import pytest

from rlora.records.record import SCHEMA, parse_record, read_record, write_record


def test_round_trip(record, tmp_path):
    file = write_record(record, tmp_path / "new" / "run")
    assert file == tmp_path / "new" / "run" / "results.json"
    assert read_record(file) == record
    assert read_record(file.parent) == record


def test_the_file_is_plain_json_with_its_schema(record, tmp_path):
    raw = json.loads(write_record(record, tmp_path).read_text())
    assert raw["schema"] == SCHEMA
    assert raw["run"]["adapter"] == "rlora"
    assert raw["scores"]["test/accuracy"] == 1 / 3


def test_a_second_record_replaces_the_first(record, tmp_path):
    write_record(record, tmp_path)
    write_record(replace(record, monitor="validation/f1"), tmp_path)
    assert read_record(tmp_path).monitor == "validation/f1"
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_a_record_that_json_cannot_hold_keeps_the_old_one(record, tmp_path):
    write_record(record, tmp_path)
    with pytest.raises(TypeError):
        write_record(replace(record, data={"a": object()}), tmp_path)
    assert read_record(tmp_path) == record
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def refused(path):
    with pytest.raises(ValueError, match=r"\S") as caught:
        read_record(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_missing_record(tmp_path):
    assert "did not finish" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "results.json")


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": 1', b"\xff\xfe", b"[1, 2"])
def test_a_damaged_record(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    assert "cannot be read" in refused(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", "3", "{}", '{"schema": 3}', '{"schema": "2"}'])
def test_another_schema(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    assert "reads schema 2" in refused(tmp_path)


def test_a_record_of_version_0_1_is_refused_and_says_what_to_do(record, tmp_path):
    message = changed(record, tmp_path, lambda raw: raw.update(schema=1))
    assert "written by rlora 0.1" in message
    assert "run it again" in message


def changed(record, tmp_path, change):
    raw = json.loads(write_record(record, tmp_path).read_text())
    change(raw)
    (tmp_path / "results.json").write_text(json.dumps(raw))
    return refused(tmp_path)


def test_an_extra_field(record, tmp_path):
    assert "surplus" in changed(record, tmp_path, lambda raw: raw.update(surplus=1))


def test_an_extra_field_inside(record, tmp_path):
    assert "surplus" in changed(record, tmp_path, lambda raw: raw["run"].update(surplus=1))


def test_a_missing_field(record, tmp_path):
    assert "monitor" in changed(record, tmp_path, lambda raw: raw.pop("monitor"))


@pytest.mark.parametrize("value", [None, 3, [1], "x"])
def test_a_part_that_is_not_an_object(record, tmp_path, value):
    changed(record, tmp_path, lambda raw: raw.update(run=value))


def leaves(value, path=()):
    """Return the paths of all leaves of plain JSON."""
    items = list[tuple]()
    if isinstance(value, dict | list):
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
    paths = [leaf for key, item in items for leaf in leaves(item, (*path, key))]
    return paths or [path]


@pytest.mark.parametrize("wrong", ["word", -1, True, None, [], {}, [1], {"a": "b"}])
def test_a_value_of_another_type_is_refused_or_harmless(record, wrong):
    """A wrong value anywhere in a record is either refused or reported without a crash."""
    from rlora.reports.load import LoadedRun, collect_scores
    from rlora.reports.report import ReportSpec, make_report

    record.certificate = {
        "bound": 0.3, "risk": 0.2, "by_group": {"bound": 0.4}, "kl": 1.0, "rows": 9,
        "baseline": {"bound": 0.2, "predictor": "it"},
        "test": {"test": {"mean": 0.25, "posterior": 0.3}},
    }  # fmt: skip
    whole = json.dumps(asdict(record))
    for path in leaves(json.loads(whole)):
        raw = json.loads(whole)
        parent = raw
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = wrong
        with contextlib.suppress(ValueError):
            run = LoadedRun("here", parse_record(raw, "here"))
            make_report(collect_scores([run], "test"), ReportSpec())
