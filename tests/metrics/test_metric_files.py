"""Files of outputs and references: every format the official scorer takes, and what is wrong told by line."""

import pytest

from rlora.metrics.files import read_pairs, read_references, read_rows

REFERENCES = 'mr,ref\n"name[A], area[x]","A is in x."\n"name[A], area[x]","In x, A is."\n"name[B]","B, a ""pub""."\n'


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
def test_outputs_in_a_table_are_paired_by_source(write, outputs):
    found, sought = read_pairs(write("out.tsv", outputs), write("refs.csv", REFERENCES))
    assert [row.text for row in found] == ["A.", "B."]
    assert sought == [["A is in x.", "In x, A is."], ['B, a "pub".']]


def test_the_order_is_the_outputs(write):
    found, sought = read_pairs(
        write("o.tsv", "mr\tout\nname[B]\tB.\nname[A], area[x]\tA.\n"), write("r.csv", REFERENCES)
    )
    assert [row.text for row in found] == ["B.", "A."]
    assert [len(group) for group in sought] == [1, 2]


def test_plain_text(write):
    outputs, references = (
        write("out.txt", "A.\n\nC.\n"),
        write("refs.txt", "a1\na2\n\nb1\n\nc1\nc2\n"),
    )
    found, sought = read_pairs(outputs, references)
    assert [row.text for row in found] == ["A.", "", "C."]
    assert sought == [["a1", "a2"], ["b1"], ["c1", "c2"]]


def test_plain_outputs_against_a_table(write):
    found, sought = read_pairs(write("out.txt", "A.\nB.\n"), write("refs.csv", REFERENCES))
    assert [len(group) for group in sought] == [2, 1]
    assert len(found) == 2


def test_badly_decoded_characters_are_mended(write):
    rows = read_rows(write("o.tsv", "mr\tref\nm\tÂ£20 at CafÃ© for Ł30\n"))
    assert rows[0].text == "£20 at Café for £30"


@pytest.mark.parametrize(
    ("name", "outputs", "said"),
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
            "line 2: 3 columns, where the first line has 2",
        ),
        ("o.tsv", "id\ttext\tmore\n1\t2\t3\n", "one column of sources"),
        ("o.tsv", "", "is empty"),
    ],
)
def test_what_does_not_fit_is_told_by_file_and_line(write, name, outputs, said):
    path = write(name, outputs)
    with pytest.raises(ValueError, match=said) as error:
        read_pairs(path, write("refs.csv", REFERENCES))
    assert str(path) in str(error.value)


def test_an_empty_reference_is_told_by_line(write):
    with pytest.raises(ValueError, match="line 3: the reference is empty"):
        read_references(write("refs.csv", 'mr,ref\nm,r\nm,""\n'))


def test_a_file_that_is_no_text(write, tmp_path):
    with pytest.raises(ValueError, match="cannot be read as UTF-8"):
        read_rows(write("o.tsv", "mr\tout\nm\té\n", "latin-1"))
    with pytest.raises(ValueError, match="cannot be read"):
        read_rows(tmp_path / "none.tsv")
