"""The parts of a generation task that need a processor but no data: prompts, texts, end token."""

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
    (prompts,) = task.prompts(["name[A], priceRange[cheap]", "name[B]"]).values()
    prefix, end = byte_tokenizer().cls_token_id, task.generation.end_token
    assert prompts == [
        [prefix, *ids_of("name : A | price : cheap"), end],
        [prefix, *ids_of("name : B"), end],
    ]
    assert task.prompts() == {}


def test_a_malformed_input_is_named_by_row(task):
    with pytest.raises(ValueError, match=r"row 2: the meaning representation 'pub'"):
        task.prompts(["name[A]", "pub"])


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
