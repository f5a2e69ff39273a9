"""E2E, DART and WebNLG: reading, linearization, grouping, output files, and the real E2E files."""

import json
import shutil

import pytest

from rlora.metrics import nlg
from rlora.metrics.files import read_pairs
from rlora.models.random_init import byte_tokenizer
from rlora.tasks.data_to_text import linearize

E2E = {
    "trainset.csv": 'mr,ref\n"name[The Vaults], priceRange[cheap]",The Vaults is cheap.\n'
    '"name[A], food[pie]",A pie.\n',
    "devset.csv": "mr,ref\nname[B],B is there.\n",
    "testset_w_refs.csv": 'mr,ref\nname[C],C.\n"name[D], familyFriendly[yes]","D, of\ncourse."\n'
    "name[C],It is C.\n",
}
DART = [
    {
        "tripleset": [["A", "LOCATION", "B"], ["A", "AREA", "3"]],
        "annotations": [{"text": "A lies in B."}],
    },
    {
        "tripleset": [["C", "NAME", "D"]],
        "annotations": [{"text": "C is D."}, {"text": "D, that is C."}],
    },
]
WEBNLG = {
    "entries": [
        {
            "1": {
                "category": "Food",
                "lexicalisations": [
                    {"comment": "good", "lex": "Bacon is in it."},
                    {"comment": "toFix", "lex": "no"},
                ],
                "modifiedtripleset": [
                    {"subject": "Dish", "property": "ingredient", "object": "Bacon"}
                ],
            }
        }
    ]
}


@pytest.fixture
def e2e(tmp_path, build_task):
    for name, text in E2E.items():
        (tmp_path / name).write_text(text)
    return build_task("e2e", path=tmp_path, max_length=128)


def ready(task, folder):
    task.setup(byte_tokenizer(), seed=0, cache_dir=folder / "cache")
    return task


def test_e2e_is_read_and_grouped(e2e, tmp_path):
    task = ready(e2e, tmp_path)
    assert task.describe()["rows"] == {"train": 2, "validation": 1, "test": 2}
    first, second = task.test_prompts["test"]
    assert first.references == ("C.", "It is C.")
    assert (second.source, second.text) == (
        "name[D], familyFriendly[yes]",
        "name : D | family friendly : yes",
    )
    assert second.references == ("D, of course.",)
    assert second.location.endswith("testset_w_refs.csv, line 3")
    row = task.prepared.splits["train"][0]
    text = task.decode_text(row["labels"][row["labels"] >= 0].tolist())
    assert text == "The Vaults is cheap."


def test_the_official_reader_reads_the_written_files(e2e, tmp_path):
    task = ready(e2e, tmp_path)
    texts = ['Say "C"\tor\nelse.', ""]
    outputs, references = task.write({"test": texts}, tmp_path / "out")
    rows, groups = read_pairs(outputs, references)
    assert [row.text for row in rows] == ['Say "C" or else.', ""]
    assert groups == [["C.", "It is C."], ["D, of course."]]
    with pytest.raises(ValueError, match="1 texts for 2 sources"):
        task.write({"test": ["one"]}, tmp_path / "out")


def test_references_as_outputs_have_the_best_scores(e2e, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)  # METEOR has its own tests
    scores = ready(e2e, tmp_path).score({"test": ["It is C.", "D, of course."]})
    assert scores.values["test/BLEU"] == pytest.approx(1.0)
    names = [*scores.values, *scores.missing]
    assert names.count("test/METEOR") == 1
    assert {name.removeprefix("test/") for name in names} == set(nlg.NAMES)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "trainset.csv",
            "mr,ref\nThe Vaults,Text.\n",
            "trainset.csv, line 2: the meaning representation 'The Vaults'",
        ),
        ("trainset.csv", 'mr,ref\n"name[A] and B",Text.\n', "line 2: the meaning representation"),
        ("devset.csv", "mr,ref\nname[A],\n", "devset.csv, line 2: its text is empty"),
        ("devset.csv", "mr,ref\nname[A],x,y\n", "devset.csv, line 2: 3 columns"),
        ("devset.csv", "id,ref\nname[A],x\n", "devset.csv, line 1: the columns are"),
        (
            "testset_w_refs.csv",
            "mr,ref\nname[A], \n",
            "testset_w_refs.csv, line 2: its text is empty",
        ),
        ("trainset.csv", "mr,ref\n,Text.\n", "line 2: the meaning representation ''"),
        ("trainset.csv", 'mr,ref\nname[A],"A.\nname[B],B.\n', "lines 2 to 3: a quotation mark"),
        ("testset_w_refs.csv", "mr,ref\n", "testset_w_refs.csv has no rows"),
        ("testset_w_refs.csv", "mr\nname[A]\n", "line 1: the columns are"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(e2e, tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        ready(e2e, tmp_path)


def test_a_long_prompt_is_named_by_file_and_line(e2e, tmp_path, build_task):
    e2e.max_length = 20
    with pytest.raises(
        ValueError, match=r"trainset.csv, line 2: its prompt has \d+ tokens, and task.max_length=20"
    ):
        ready(e2e, tmp_path)
    (tmp_path / "testset_w_refs.csv").write_text(f"mr,ref\nname[{'x' * 490}],C.\n")
    with pytest.raises(
        ValueError, match=r"testset_w_refs.csv, line 2: .* more than the 512 of the model"
    ):
        ready(build_task("e2e", path=tmp_path, max_length=128), tmp_path)


def test_missing_files_are_named_with_their_origin(build_task, tmp_path, monkeypatch):
    monkeypatch.delenv("RLORA_DATA", raising=False)
    with pytest.raises(
        ValueError, match=r"set task\.path to the folder with trainset\.csv.*tuetschek"
    ):
        ready(build_task("e2e"), tmp_path)
    with pytest.raises(ValueError, match=r"task\.path=.* has no .*trainset\.csv"):
        ready(build_task("e2e", path=tmp_path), tmp_path)


def test_dart(tmp_path, build_task):
    task = build_task("dart", path=tmp_path, max_length=128)
    for name in task.files.values():
        (tmp_path / name).write_text(json.dumps(DART))
    ready(task, tmp_path)
    assert task.describe()["rows"] == {"train": 3, "validation": 3, "test": 2}
    assert task.test_prompts["test"][0].text == "A : location : B | A : area : 3"
    assert task.test_prompts["test"][1].references == ("C is D.", "D, that is C.")


def test_webnlg_uses_the_good_texts(tmp_path, build_task):
    task = build_task("webnlg", path=tmp_path, max_length=128)
    for name in task.files.values():
        (tmp_path / name).write_text(json.dumps(WEBNLG))
    ready(task, tmp_path)
    assert task.describe()["rows"] == {"train": 1, "validation": 1, "test": 1}
    assert task.test_prompts["test"][0].text == "Dish : ingredient : Bacon"
    assert task.test_prompts["test"][0].references == ("Bacon is in it.",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dart", "{", "is not valid JSON"),
        ("dart", "{}", "holds a dict, not a list"),
        ("dart", '[{"tripleset": []}]', "entry 1: it has no 'annotations'"),
        ("dart", '[{"tripleset": [["A", "B"]]}]', "entry 1: .* is no triple of texts"),
        ("dart", '[{"tripleset": [["A", "B", 3]]}]', "entry 1: .* is no triple of texts"),
        ("dart", '[{"tripleset": 1}]', "entry 1: its 'tripleset' is no list"),
        (
            "dart",
            '[{"tripleset": [["A", "B", "C"]], "annotations": []}]',
            "entry 1: it has no texts under 'annotations'",
        ),
        (
            "dart",
            '[{"tripleset": [["A", "B", "C"]], "annotations": [{"text": null}]}]',
            "entry 1: None is no text",
        ),
        ("dart", "[]", "has no rows"),
        ("webnlg", '{"entries": ["1"]}', "entry 1: it is no object"),
        ("webnlg", '{"entries": [{"1": {"modifiedtripleset": [{}]}}]}', "it has no 'subject'"),
        (
            "dart",
            '[{"tripleset": [], "annotations": [{"text": "A."}]}]',
            "entry 1: it has no triples",
        ),
        ("webnlg", "[]", "holds a list, not a dict"),
        ("webnlg", '{"entries": [{"1": {}}]}', "entry 1: it has no 'modifiedtripleset'"),
    ],
)
def test_a_malformed_file_of_triples_raises(tmp_path, build_task, name, content, message):
    task = build_task(name, path=tmp_path)
    for file in task.files.values():
        (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        ready(task, tmp_path)


@pytest.mark.data
def test_the_real_files(data_root, build_task):
    task = build_task("e2e", path=data_root / "e2e")
    splits = task.read_splits(byte_tokenizer()).splits
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 42_061,
        "validation": 4_672,
    }
    # `setup` tokenizes all rows; here the length in bytes shows that every prompt leaves room.
    prompts = {prompt for split in splits.values() for prompt, _ in split.texts}
    assert max(len(prompt.encode()) for prompt in prompts) + 2 < task.max_length
    assert len(task.test_prompts["test"]) == 630
    assert sum(len(prompt.references) for prompt in task.test_prompts["test"]) == 4_693
    lines = (data_root / "e2e" / "lora_format" / "test.txt").read_text().splitlines()
    public = dict.fromkeys(line.split("||")[0].replace(" ", "") for line in lines)
    # The public values are tokenized, so the comparison ignores white space.
    assert [prompt.text.replace(" ", "") for prompt in task.test_prompts["test"]] == list(public)


def test_linearize():
    meaning = (
        "name[Café Sicilia], eatType[pub], priceRange[less than £20], customer rating[5 out of 5]"
    )
    prompt = (
        "name : Café Sicilia | Type : pub | price : less than £20 | customer rating : 5 out of 5"
    )
    assert linearize(meaning, "") == prompt
