"""Files of outputs and references: all formats of the official scorer, and errors with lines."""

import pytest

from rlora.metrics.files import read_pairs, read_references, read_rows

REFERENCES = """\
mr,ref
"name[A], area[x]","A is in x."
"name[A], area[x]","In x, A is."
"name[B]","B, a ""pub""."
"""


@pytest.fixture
def write(tmp_path):
    def written(name, text, encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return written


@pytest.mark.parametrize(
    "outputs",
    [
        "MR\toutput\nname[A], area[x]\tA.\nname[B]\tB.\n",
        '\ufeffMR\toutput\r\n"name[A], area[x]"\tA.\r\nname[B]\t"B."\r\n',
        "MR\toutput\n'name[A], area[x]'\t'A.'\n'name[B]'\t'B.'\n",
        "name[A], area[x]\tA.\nname[B]\tB.\n\n",
        "name[A], area[x]\tA.\nname[B]\tB.",
    ],
)
def test_outputs_in_a_table_get_the_references_of_their_source(write, outputs):
    rows, references = read_pairs(write("out.tsv", outputs), write("refs.csv", REFERENCES))
    assert [row.text for row in rows] == ["A.", "B."]
    assert references == [["A is in x.", "In x, A is."], ['B, a "pub".']]


def test_the_outputs_determine_the_order(write):
    rows, references = read_pairs(
        write("o.tsv", "mr\tout\nname[B]\tB.\nname[A], area[x]\tA.\n"), write("r.csv", REFERENCES)
    )
    assert [row.text for row in rows] == ["B.", "A."]
    assert [len(group) for group in references] == [1, 2]


def test_plain_text(write):
    outputs = write("out.txt", "A.\n\nC.\n")
    rows, references = read_pairs(outputs, write("refs.txt", "a1\na2\n\nb1\n\nc1\nc2\n"))
    assert [row.text for row in rows] == ["A.", "", "C."]
    assert references == [["a1", "a2"], ["b1"], ["c1", "c2"]]


def test_blank_lines_after_the_last_segment_do_not_count(write):
    references = write("refs.txt", "a1\n\nb1\n\n\n")
    rows, groups = read_pairs(write("out.txt", "\ufeffA.\r\n\r\n\r\n \r\n"), references)
    assert ([row.text for row in rows], len(groups)) == (["A.", ""], 2)


def test_plain_outputs_against_a_table(write):
    rows, references = read_pairs(write("out.txt", "A.\nB.\n"), write("refs.csv", REFERENCES))
    assert [len(group) for group in references] == [2, 1]
    assert len(rows) == 2


def test_wrongly_decoded_characters_are_repaired(write):
    rows = read_rows(write("o.tsv", "mr\tref\nm\tÂ£20 at CafÃ© for Ł30\n"))
    assert rows[0].text == "£20 at Café for £30"


@pytest.mark.parametrize(
    ("name", "outputs", "message"),
    [
        ("o.txt", "A.\n", "1 outputs and .* references for 2 segments"),
        (
            "o.tsv",
            "mr\tout\nname[A], area[x]\tA.\n",
            "no output for 1 of the 2 sources .*name\\[B\\]",
        ),
        (
            "o.tsv",
            "mr\tout\nname[A], area[x]\tA.\nname[C]\tC.\n",
            "line 3: .* no reference for its source 'name\\[C\\]'",
        ),
        (
            "o.tsv",
            "mr\tout\nname[A], area[x]\tA.\textra\n",
            "line 2: 3 columns, but the first line has 2",
        ),
        ("o.tsv", "id\ttext\tmore\n1\t2\t3\n", "expected one column of sources"),
        ("o.tsv", "", "is empty"),
    ],
)
def test_mismatches_are_named_by_file_and_line(write, name, outputs, message):
    path = write(name, outputs)
    with pytest.raises(ValueError, match=message) as error:
        read_pairs(path, write("refs.csv", REFERENCES))
    assert str(path) in str(error.value)


def test_a_long_field_is_read(write):
    assert len(read_rows(write("o.tsv", f"mr\tref\nm\t{'x' * 200_000}\n"))[0].text) == 200_000


def test_an_empty_reference_is_named_by_line(write):
    with pytest.raises(ValueError, match="line 3: the reference is empty"):
        read_references(write("refs.csv", 'mr,ref\nm,r\nm,""\n'))


def test_an_unreadable_file_raises(write, tmp_path):
    with pytest.raises(ValueError, match=r"o\.tsv, line 2: byte 3 of the line \(0xe9\) is not UTF"):
        read_rows(write("o.tsv", "mr\tout\nm\té\n", "latin-1"))
    with pytest.raises(ValueError, match=r"o\.tsv cannot be read as a table"):
        read_rows(write("o.tsv", "mr\tout\nm\ta\rb\n"))
    with pytest.raises(ValueError, match="cannot be read"):
        read_rows(tmp_path / "none.tsv")
