"""Math and commonsense questions: prompts, reading, answers, leaks and output files."""

import json
import logging

import pytest

from rlora.models.random_init import byte_tokenizer
from rlora.tasks.base import GenerationConfig
from rlora.tasks.question_answering import read_questions

ROWS = [
    {"instruction": "What is 1 + 1?", "input": "", "output": "It is 2.", "answer": "2"},
    {"instruction": "What is 2 + 2?", "input": "Think.", "output": "It is 4.", "answer": "4.0"},
]


@pytest.fixture
def gsm8k(tmp_path, build_task):
    (tmp_path / "train.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "question": f"How many is {i} and 1?",
                    "answer": f"{i}+1=<<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}",
                }
            )
            + "\n"
            for i in range(40)
        )
    )
    (tmp_path / "test.json").write_text(json.dumps(ROWS))
    return build_task(
        "gsm8k",
        path=tmp_path,
        train=["train.jsonl"],
        tests={"x": {"file": "test.json", "answer": "number"}},
    )


def ready(task, folder):
    task.decoding = GenerationConfig(max_new_tokens=8)
    task.setup(byte_tokenizer(), seed=0, cache_dir=folder / "cache")
    return task


def test_reading_and_prompting(gsm8k, tmp_path):
    gsm8k.template = "alpaca"
    task = ready(gsm8k, tmp_path)
    assert task.describe()["rows"] == {"train": 38, "validation": 2, "test": 2}
    row = task.prepared.splits["train"][0]
    assert task.decode_text(row["labels"][row["labels"] >= 0].tolist()) == "0+1=1\n#### 1"
    plain, with_input = task.test_prompts["test"]
    assert plain.text.endswith("### Instruction:\nWhat is 1 + 1?\n\n### Response:\n")
    assert "### Input:\nThink.\n" in with_input.text


def test_gsm8k_rows_become_questions(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text(
        json.dumps({"question": "Q", "answer": "1,000+2=<<1000+2=1002>>1,002\n#### 1,002"})
    )
    (question,) = read_questions(lines)
    assert (question.output, question.answer) == ("1,000+2=1,002\n#### 1,002", "1002")


def test_accuracy_and_the_file_of_the_evaluator(gsm8k, tmp_path):
    task = ready(gsm8k, tmp_path)
    texts = ["The answer is 2.", "I do not know"]
    assert task.score({"test": texts}).values == {"test/accuracy": 0.5}
    (file,) = task.write({"test": texts}, tmp_path / "out")
    rows = json.loads(file.read_text())
    assert rows[0] == {
        "instruction": "What is 1 + 1?",
        "answer": "2",
        "output_pred": "The answer is 2.",
        "pred": 2.0,
        "flag": True,
    }
    assert (rows[1]["pred"], rows[1]["flag"]) == (None, False)


def test_a_text_after_a_repeated_marker_does_not_count(gsm8k, tmp_path):
    task = ready(gsm8k, tmp_path)
    texts = ["It is 2.\n\n### Response:\nIt is 9.", "9" * 400]
    assert task.score({"test": texts}).values == {"test/accuracy": 0.5}
    (file,) = task.write({"test": texts}, tmp_path / "out")
    first, second = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert (first["output_pred"], first["pred"], first["flag"]) == ("It is 2.", 2.0, True)
    assert (second["pred"], second["flag"]) == (None, False)


def test_all_five_choices_of_siqa_count(task_config):
    assert task_config("commonsense")["tests"]["siqa"]["answer"][3:] == ["answer4", "answer5"]


def with_answer(task, folder, answer, form="number"):
    (folder / "test.json").write_text(json.dumps([ROWS[0], {**ROWS[0], "answer": answer}]))
    task.tests = {"x": {"file": "test.json", "answer": form}}
    return task


@pytest.mark.parametrize(
    ("answer", "form", "output"),
    [
        (2, "number", "2"),
        (2.5, "number", "2.5"),
        ("$18", "number", "$18"),
        ("50%", "number", "50 percent"),
        ("3/4", "number", "3/4"),
        ("1,234", "number", "1234"),
        ("\u22125", "number", "-5"),
        (True, ["2", "true", "false"], "true"),
    ],
)
def test_notations_of_an_answer(gsm8k, tmp_path, answer, form, output):
    task = ready(with_answer(gsm8k, tmp_path, answer, form), tmp_path)
    assert task.score({"test": ["2", output]}).values == {"test/accuracy": 1.0}


@pytest.mark.parametrize(
    ("answer", "form", "message"),
    [
        ("about 3", "number", "the answer 'about 3' is no number, expected one such as 18"),
        ("9" * 400, "number", "the answer '9+...' is no finite number"),
        ("nan", "number", "the answer 'nan' is no number"),
        ("", "number", "its answer is empty"),
        (None, "number", "its answer is null, expected a text"),
        ([2], "number", r"its answer is \[2\], expected a text"),
        ("b", "letter", "the answer 'b' is none of A, B, C, D, E"),
        ("answer6", ["2", "answer1"], "the answer 'answer6' is none of 2, answer1"),
    ],
)
def test_a_wrong_answer_is_named_by_file_and_row_at_reading(gsm8k, tmp_path, answer, form, message):
    task = with_answer(gsm8k, tmp_path, answer, form)
    if form == "letter":
        rows = json.loads((tmp_path / "test.json").read_text())
        (tmp_path / "test.json").write_text(json.dumps([{**rows[0], "answer": "A"}, rows[1]]))
    with pytest.raises(ValueError, match=f"test.json, row 2: {message}"):
        ready(task, tmp_path)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("He has 3 eggs left", "the answer 'He has 3 eggs left' is no number, .* after ####"),
        ("3 eggs\n#### ", "the answer '' is no number"),
        ("3 eggs\n#### three", "the answer 'three' is no number"),
    ],
)
def test_a_solution_of_gsm8k_has_a_final_number(gsm8k, tmp_path, answer, message):
    row = {"question": "How\u2028many?", "answer": answer}
    good = {"question": "How many?", "answer": 2}
    (tmp_path / "test.jsonl").write_text(
        "".join(json.dumps(each, ensure_ascii=False) + "\n\n" for each in (good, row))
    )
    gsm8k.tests = {"x": {"file": "test.jsonl", "answer": "number"}}
    with pytest.raises(ValueError, match=f"test.jsonl, line 3: {message}"):
        ready(gsm8k, tmp_path)


@pytest.mark.parametrize(
    ("row", "question", "target"),
    [
        ({"question": "1+1?", "answer": "1+1 is 2\n#### 2"}, "1+1?", "2"),
        ({"question": "1+1?"}, "1+1?", None),
        ({"instruction": "1+1?", "input": "", "output": "", "answer": 2}, "1+1?", "2"),
        ({"input": "1+1?", "answer": ""}, "1+1?", None),
    ],
)
def test_rows_to_predict_have_the_names_of_the_files(gsm8k, row, question, target):
    assert gsm8k.row_inputs(row, "in, line 1") == (question,)
    assert gsm8k.row_target(row, "in, line 1") == target


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "Q", "input": "x"}, "it has an instruction and an input"),
        ({"instruction": " ", "input": ""}, "its instruction is empty"),
        ({"answer": "2"}, "has no text under input: it has answer"),
    ],
)
def test_a_wrong_row_to_predict_is_named(gsm8k, row, message):
    with pytest.raises(ValueError, match=f"in, line 1:? {message}"):
        gsm8k.row_inputs(row, "in, line 1")


def test_predicted_rows_are_scored_by_the_form_of_their_answer(gsm8k):
    gsm8k.tests = {**gsm8k.tests, "aqua": {"file": "a", "answer": "letter"}}
    scores = gsm8k.score_rows([()] * 3, ["$2", "B", "3/4"], ["It is 2.", "(B)", "4"])
    assert scores.values == {"accuracy": pytest.approx(2 / 3)}
    with pytest.raises(ValueError, match="in: the answer 'x' is no number"):
        gsm8k.row_target({"answer": "x"}, "in")


def test_several_sets_have_a_mean(gsm8k, tmp_path):
    letters = [{"instruction": "Which?", "input": "", "output": "(B)", "answer": "B"}]
    (tmp_path / "letters.json").write_text(json.dumps(letters))
    gsm8k.tests = {**gsm8k.tests, "aqua": {"file": "letters.json", "answer": "letter"}}
    task = ready(gsm8k, tmp_path)
    scores = task.score({"test_x": ["2", "3"], "test_aqua": ["B"]}).values
    assert scores == {"test_x/accuracy": 0.5, "test_aqua/accuracy": 1.0, "test/accuracy": 0.75}


def test_test_questions_in_the_training_data_are_reported(gsm8k, tmp_path, caplog):
    other = [{**ROWS[0], "instruction": f"What is {i} + 3?"} for i in range(40)]
    (tmp_path / "more.json").write_text(
        json.dumps([{**ROWS[0], "instruction": " what is  1 + 1? "}, ROWS[1], *other])
    )
    gsm8k.train = ["more.json"]
    with caplog.at_level(logging.WARNING):
        task = ready(gsm8k, tmp_path)
    assert "2 of the 2 questions of test are in the training data" in caplog.text
    assert task.describe()["trained_test_questions"] == {"test": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": "none"}, "task.template=none is unknown; set task.template to one of"),
        (
            {"tests": {"x": {"file": "f", "answer": "color"}}},
            "task.tests.x.answer=color is unknown",
        ),
        ({"tests": {"x": {"file": "f", "answer": [True]}}}, "answer=.*quote each"),
        ({"tests": {"x": {"file": "f", "answer": []}}}, "expected a list of choices"),
        ({"tests": {"x": {"file": "f"}}}, "task.tests.x needs the keys file and answer"),
        ({"tests": {}}, "expected at least one test set"),
    ],
)
def test_wrong_settings(build_task, change, message):
    with pytest.raises(ValueError, match=message):
        build_task("gsm8k", **change)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not valid JSON"),
        ("[]", "has no rows"),
        ("{}", "holds one dict, expected a list"),
        ('{"question": "Q"}\n{"question": "R"}', "is not valid JSON: Extra data"),
        ('[{"question": 1, "answer": "2"}]', "row 1: its question is 1, expected a text"),
        ('[{"question": " ", "answer": "2"}]', "row 1: its question is empty"),
        ('[{"question": "Q\\ud800", "answer": "2"}]', "1.question has a lone surrogate"),
        ('[{"instruction": "Q"}]', "row 1: expected the keys question and answer"),
        ('[{"instruction": "Q", "output": "", "answer": "1"}]', "row 1: its output is empty"),
    ],
)
def test_wrong_files(gsm8k, tmp_path, content, message):
    (tmp_path / "bad.json").write_text(content)
    gsm8k.train = ["bad.json"]
    with pytest.raises(ValueError, match=message):
        ready(gsm8k, tmp_path)


@pytest.mark.data
@pytest.mark.parametrize("name", ["gsm8k", "math", "commonsense"])
def test_reference_answers_of_the_real_test_sets_are_correct(data_root, build_task, name):
    root = data_root / ("commonsense" if name == "commonsense" else "math")
    task = build_task(name, path=root, train=["gsm8k/train.jsonl"] if name != "commonsense" else [])
    task.tests = {key: test for key, test in task.tests.items() if (root / test["file"]).is_file()}
    task.test_prompts = task.read_prompts()
    sizes = {key: len(prompts) for key, prompts in task.test_prompts.items()}
    if name == "math":
        assert sizes["test_aqua"] == 254
        assert sizes["test_addsub"] == 395
        assert len(sizes) == 7
    if name == "commonsense":
        assert sizes["test_boolq"] == 3_270
        assert len(sizes) == 7  # HellaSwag is not available
    texts = {
        key: [prompt.references[0] for prompt in prompts]
        for key, prompts in task.test_prompts.items()
    }
    assert set(task.score(texts).values.values()) == {1.0}
