"""The parts of a generation task that need a processor but no data: prompts, texts, end token."""

import shutil

import pytest

from rlora.models.random_init import byte_tokenizer
from rlora.tasks.base import GenerationTask


@pytest.fixture
def task(build_task):
    """E2E with a tokenizer, without files."""
    task = build_task("e2e", path="nowhere")
    task.processor = byte_tokenizer()
    return task


def ids_of(text):
    return byte_tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_prompts_need_no_files(task):
    assert isinstance(task, GenerationTask)
    sources = ["name[A], priceRange[cheap]", "name[B]"]
    prompts = [task.encode_prompt(source, "in, line 1") for source in sources]
    prefix, end = byte_tokenizer().cls_token_id, task.generation.end_token
    assert prompts == [
        [prefix, *ids_of("name : A | price : cheap"), end],
        [prefix, *ids_of("name : B"), end],
    ]
    assert task.prompts() == {}


def test_a_malformed_input_is_named_by_its_location(task):
    with pytest.raises(ValueError, match=r"in, line 2: the meaning representation 'pub'"):
        task.encode_prompt("pub", "in, line 2")
    with pytest.raises(ValueError, match=r"in, line 3: its prompt has \d+ tokens, .* of the model"):
        task.encode_prompt(f"name[{'x' * 600}]", "in, line 3")


def test_inputs_and_references_of_e2e_have_the_names_of_its_files(task):
    row = {"mr": "name[A]", "ref": " A\nis. ", "id": "1"}
    assert task.row_inputs(row, "in") == ("name[A]",)
    assert task.row_inputs({"input": "name[A]"}, "in") == ("name[A]",)
    assert task.row_target(row, "in") == "A is."
    assert task.row_target({"mr": "name[A]", "ref": ""}, "in") is None
    with pytest.raises(ValueError, match="in has no text under input: it has id"):
        task.row_inputs({"id": "1"}, "in")


def test_rows_of_the_same_source_share_their_references(task, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)  # METEOR has its own tests
    inputs = [("name[A]",), ("name[B]",), ("name[A]",)]
    targets = ["A is a pub here.", "B is a bar over there.", "There is a pub named A."]
    texts = ["There is a pub named A.", "B is a bar over there.", "wrong"]
    assert task.score_rows(inputs, targets, texts).values["BLEU"] == pytest.approx(1.0)


def test_a_text_ends_at_the_first_end_token(task):
    end = task.generation.end_token
    assert task.decode_text([*ids_of(" A pub. "), end, *ids_of("more"), end]) == "A pub."
    assert task.decode_text(ids_of("A pub.")) == "A pub."
    assert task.decode_text([end, *ids_of("A pub.")]) == ""


def test_the_end_token_is_that_of_the_tokenizer_unless_set(build_task, task):
    assert task.generation.end_token == byte_tokenizer().sep_token_id
    (newline,) = ids_of("\n")
    other = build_task("e2e", decoding={"beams": 2, "end_token": newline})
    other.processor = task.processor
    assert (other.generation.beams, other.generation.end_token) == (2, newline)
    assert other.decode_text(ids_of("one line\nanother")) == "one line"
