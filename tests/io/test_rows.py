"""Lines and tables: encodings, line ends, quotation marks, wide fields and malformed rows."""

import csv
import gzip
import io
import threading

import pytest

from rlora.io.rows import (
    csv_rows,
    read_csv,
    read_lines,
    read_text,
    table_rows,
    tsv_rows,
    wide_fields,
)

SWALLOWED = '1,"so good,yes\n2,bad,no\n3,fine{}yes\n'


@pytest.fixture
def write(tmp_path):
    def written(content):
        path = tmp_path / "rows.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [[], [""], ["", "  ", ""]])
def test_a_csv_file_has_any_line_ends(write, bom, end, last):
    content = bom + end.join(["id,text", "1,one", '2,"two, 2"', *last]).encode()
    assert read_csv(write(content), ["text"]) == [
        (2, {"id": "1", "text": "one"}),
        (3, {"id": "2", "text": "two, 2"}),
    ]


def test_unicode_separators_end_no_line(write):
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"
    assert read_csv(write(f"text,n\n{text},1\n")) == [(2, {"text": text, "n": "1"})]
    assert read_lines(write(f"{text}\r\n{text}")) == [(1, text), (2, text)]


def test_the_byte_order_mark_of_a_joined_file_is_dropped(write):
    path = write("\ufeff\ufefftext\none\n\ufefftwo\ufeff\n")
    assert read_csv(path, ["text"]) == [(2, {"text": "one"}), (3, {"text": "two\ufeff"})]


def test_cr_alone_ends_the_lines_of_a_file_without_lf(write):
    assert read_lines(write("a\rb\r\r")) == [(1, "a"), (2, "b"), (3, "")]
    assert read_lines(write("a\rb\nc\n")) == [(1, "a\rb"), (2, "c")]
    assert read_lines(write("a\rb\n")) == [(1, "a\rb")]


def test_fields_may_be_wider_than_the_limit_of_csv(write):
    limit = csv.field_size_limit()
    ((_, row),) = read_csv(write("text\n" + "x" * 200_000 + "\n"))
    assert len(row["text"]) == 200_000
    assert csv.field_size_limit() == limit


def test_the_limit_returns_after_the_last_of_several_threads():
    limit = csv.field_size_limit()
    entered, leave = threading.Barrier(3), threading.Event()

    def use():
        with wide_fields():
            entered.wait()
            leave.wait()

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    entered.wait()
    with wide_fields():
        pass
    assert csv.field_size_limit() > limit
    leave.set()
    for thread in threads:
        thread.join()
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SWALLOWED.format(","), "lines 2 to 4: a quotation mark opens a field that no other"),
        (SWALLOWED.format(',"'), "lines 2 to 4: text follows the quotation mark"),
        ('1,"a"b,yes\n', "line 2: text follows the quotation mark"),
        ("1,a,yes\n\n2,b\n", "line 4: 2 columns, expected 3"),
        ("1,a,yes,more\n", "line 2: 4 columns, expected 3"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_lines(write, content, message):
    path = write("id,text,label\n" + content)
    with pytest.raises(ValueError, match=message) as error:
        read_csv(path)
    assert str(error.value).startswith(f"{path}, line")


def test_a_quoted_field_that_spans_rows_is_reported(write, caplog):
    path = write("id,text,label\n" + SWALLOWED.format('",'))
    assert len(read_csv(path)) == 1
    assert f"{path}, lines 2 to 4: they are one row" in caplog.text
    caplog.clear()
    assert len(read_csv(write("id,text,label\n" + 3 * SWALLOWED.format('",')))) == 3
    assert [record.getMessage().count("2 more rows") for record in caplog.records] == [0, 1]
    caplog.clear()
    assert len(read_csv(write('text\n"a\nb\nc"\n'))) == 1
    assert "lines 2 to 4: they are one row" in caplog.text
    caplog.clear()
    assert len(read_csv(write('id,text,label\n1,"two\nlines",yes\n'))) == 1
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n\r\n", "is empty"),
        (b"id,label\n1,yes\n", "has no column text: it has id, label"),
        (b"text,id,text\na,1,b\n", "line 1: the column 'text' occurs twice"),
        (b"text\ncaf\xe9\n", r"line 2: byte 4 of the line \(0xe9\) is not UTF-8"),
        ("text\na\n".encode("utf-16"), r"is UTF-16, .*: save it as UTF-8 \(in Excel: CSV UTF-8\)"),
        ("text\na\n".encode("utf-32"), "is UTF-32, expected text in UTF-8"),
        (gzip.compress(b"text\na\n"), "is compressed by gzip, .*: decompress it"),
        (b"PK\x03\x04\x14\0", "is a ZIP archive or an Excel workbook, .* as CSV UTF-8"),
        (b"id;text\n1;a\n", "line 1: its columns are separated by ';': save it as CSV"),
        (b"sep=;\nid;text\n1;a\n", "line 1: its columns are separated by ';'"),
        (b'id\ttext\n1\t"a, b"\n', r"line 1: its columns are separated by '\\t'"),
        (b"text\na\0b\n", "line 2: it has a NUL byte"),
    ],
)
def test_a_wrong_file_is_named(write, content, message):
    path = write(content)
    with pytest.raises(ValueError, match=message) as error:
        read_csv(path, ["text"])
    assert str(error.value).startswith(str(path))


def test_a_header_alone_has_no_rows(write):
    assert read_csv(write("text,label\n"), ["text"]) == []


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(ValueError, match="cannot be read: ") as error:
            read_text(path)
        assert str(path) in str(error.value)


def test_commas_in_a_tab_separated_header_are_named():
    rows = tsv_rows([b"id,text\n", b"1,a\n"], "in")
    with pytest.raises(ValueError, match="in, line 1: its columns are separated by ','"):
        list(table_rows(rows, "in"))


def test_tab_separated_rows_have_no_quotation():
    stream = io.BytesIO('\ufefftext\tlabel\r\n"a\tyes\r\n\r\nb"\tno'.encode())
    assert list(table_rows(tsv_rows(stream, "in"), "in")) == [
        (2, {"text": '"a', "label": "yes"}),
        (4, {"text": 'b"', "label": "no"}),
    ]
    with pytest.raises(ValueError, match="in, line 2: 1 columns, expected 2"):
        list(tsv_rows(io.BytesIO(b"a\tb\nc\n"), "in"))


def test_rows_come_as_their_lines_do():
    lines = iter([b"text\n", b"one\n", b"two\n"])
    rows = csv_rows(lines, "in")
    assert next(rows) == (1, ["text"])
    assert next(lines) == b"one\n"
