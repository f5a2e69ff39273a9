"""JSON files and JSON lines: separators in texts, values that JSON or files cannot hold."""

import pytest

from rlora.io.json_values import parse_json, read_json, read_json_lines


@pytest.fixture
def write(tmp_path):
    def written(content):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def test_unicode_separators_end_no_line(write):
    path = write('\ufeff{"a": "x\u2028y\x85z"}\r\n\n{"a": "\\ud83d\\ude00"}\n\n \n')
    assert read_json_lines(path) == [
        (f"{path}, line 1", {"a": "x\u2028y\x85z"}),
        (f"{path}, line 3", {"a": "😀"}),
    ]


def test_cr_alone_ends_a_line(write):
    path = write('{"a": 1}\r{"a": 2}\r')
    assert read_json_lines(path) == [(f"{path}, line 1", {"a": 1}), (f"{path}, line 2", {"a": 2})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": "\\ud800"}', "line 2: its text under a has a lone surrogate or a NUL"),
        ('{"a": [{"b": "x\\uDFFF"}]}', "line 2: its text under a.1.b has a lone surrogate"),
        ('{"a\\u0000": 1}', "line 2: its text has a lone surrogate or a NUL"),
        ('{"a": 1, "a": 2}', "line 2 is not valid JSON: the key 'a' occurs twice"),
        ('{"a": NaN}', "line 2 is not valid JSON: the number NaN is not finite"),
        ('{"a": -1e999}', "line 2 is not valid JSON: the number -1e999 is not finite"),
        ('{"a": ' + "9" * 5000 + "}", "line 2 is not valid JSON: Exceeds the limit"),
        ("[" * 100_000, "line 2 is not valid JSON: "),
        ("{", "line 2 is not valid JSON: "),
    ],
)
def test_a_wrong_line_is_named(write, line, message):
    path = write(f"{{}}\n{line}\n")
    with pytest.raises(ValueError, match=message) as error:
        read_json_lines(path)
    assert str(error.value).startswith(f"{path}, line 2")


def test_a_latin_1_file_is_named(write):
    path = write(b'["a",\n"caf\xe9"]')
    with pytest.raises(ValueError, match=r"line 2: byte 5 of the line \(0xe9\) is not UTF-8"):
        read_json(path)


def test_escapes_of_characters_stay():
    assert parse_json('["\\\\ud800", "\\u00e9"]', "in") == ["\\ud800", "é"]


@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ('{"a": ', "}")])
@pytest.mark.parametrize("depth", [101, 900, 3_000, 100_000])
def test_refuses_deep_json(open_, close, depth):
    with pytest.raises(ValueError, match=r"^results\.json ") as error:
        parse_json(open_ * depth + "1" + close * depth, "results.json")
    assert "\n" not in str(error.value)


def test_reads_nested_json():
    text = "[" * 100 + "]" * 100
    assert parse_json(text, "results.json")
