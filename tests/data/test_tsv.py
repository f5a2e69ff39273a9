"""Tab-separated files: quotes, encodings, malformed rows and labels."""

import re

import pytest

from rlora.data.tsv import class_label, read_tsv, score_label

HEADER = "index\ttext\tlabel\n"


def read(
    tmp_path, content, *, text=("text",), label="label", header=True, parse=None, incomplete="error"
):
    path = tmp_path / "rows.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    parse = parse or class_label(["no", "yes"])
    return read_tsv(
        path, text=text, label=label, header=header, parse_label=parse, incomplete_rows=incomplete
    )


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_quotes_bom_line_ends_and_separators(tmp_path, newline, bom):
    lines = [b"text\tlabel", b'he said "so\tyes', b'"a\tno', b"caf\xc3\xa9 \xe2\x80\xa8x\tno"]
    examples = read(tmp_path, bom + newline.join(lines) + 3 * newline)
    assert examples.texts == [('he said "so',), ('"a',), ("café \u2028x",)]
    assert examples.labels == [1, 0, 0]
    long = "x" * 200_000
    assert read(tmp_path, f"text\tlabel\n{long}\tno\n").texts == [(long,)]


def test_positions_without_header(tmp_path):
    examples = read(tmp_path, "s\tyes\t*\tone\ns\tno\t\ttwo\n", text=(3,), label=1, header=False)
    assert examples.texts == [("one",), ("two",)]
    assert examples.labels == [1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + "0\ta\tyes\n1\tb\n", "line 3: 2 columns, expected 3"),
        (HEADER + "0\ta\tb\tyes\n", "line 2: 4 columns, expected 3"),
        (HEADER + "0\ta\tmaybe\n", "line 2: label 'maybe', expected one of ['no', 'yes']"),
        (HEADER + "0\ta\tyes\n1\t \tno\n", "line 3: an empty text column"),
        (
            "index\tsentence\tlabel\n0\ta\tyes\n",
            "line 1: has the columns ['index', 'sentence', 'label'], expected",
        ),
        (HEADER, "has no rows"),
        ("", "is empty"),
        (b"text\tlabel\ncaf\xe9\tyes\n", "line 2: byte 4 of the line (0xe9) is not UTF-8"),
        (b"text\tlabel\na\0b\tyes\n", "line 2: it has a NUL byte"),
        ("text\ttext\tlabel\na\tb\tyes\n", "line 1: the column 'text' occurs twice"),
    ],
)
def test_malformed_rows_are_named_by_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read(tmp_path, content)
    assert str(tmp_path / "rows.tsv") in str(error.value)


@pytest.mark.parametrize("score", ["5.1", "-0.1", "nan", "five", ""])
def test_score_out_of_range(tmp_path, score):
    with pytest.raises(
        ValueError, match=re.escape(f"line 3: score {score!r}, expected a number from 0 to 5")
    ):
        read(tmp_path, f"text\tlabel\na\t5.000\nb\t{score}\n", parse=score_label(0.0, 5.0))


def test_incomplete_rows_can_be_skipped_but_not_in_unlabeled_files(tmp_path, caplog):
    content = HEADER + "0\ta\tyes\n1\tb\n2\t\tno\n3\tc\tno\n"
    assert read(tmp_path, content, incomplete="skip").texts == [("a",), ("c",)]
    assert "skipping 2 incomplete rows" in caplog.text
    assert read(tmp_path, content, label=None, incomplete="skip").texts == [
        ("a",),
        ("b",),
        ("",),
        ("c",),
    ]
