"""Texts that a model writes: batches, beams, what is kept, and what is gone on with."""

import itertools
import json

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from rich.console import Console

from rlora.adapters import inject
from rlora.adapters.lora import LoRA
from rlora.evaluation.generate import Generator
from rlora.models.random_init import random_model
from rlora.tasks.base import Decoding

CONFIG = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
NEW = 12


class Spelling:
    """A task as far as a generator looks at it: texts are the tokens themselves."""

    end_token = 3

    def __init__(self, **options):
        self.settings = Decoding(max_new_tokens=NEW, **options)

    def text_of(self, tokens):
        kept = tokens[: tokens.index(self.end_token)] if self.end_token in tokens else tokens
        return " ".join(map(str, kept))


@pytest.fixture
def adapters():
    backbone = random_model(CONFIG, kind="text", num_labels=0, seed=0)
    made = inject(backbone.model, LoRA(rank=2, alpha=4, targets=["q", "v"]), seed=0)
    with torch.no_grad():
        for parameter in made.adapter_parameters().values():
            parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    return made


@pytest.fixture
def prompts():
    draw = torch.Generator().manual_seed(0)
    return [
        torch.randint(4, 200, (length,), generator=draw).tolist() for length in (7, 2, 5, 11, 3)
    ]


def generator(adapters, **options):
    return Generator(
        adapters,
        Spelling(**options),
        device=torch.device("cpu"),
        precision=Precision(),
        console=Console(quiet=True),
    )


@torch.no_grad()
def greedy(model, prompt):
    """One token at a time, without cache, padding or merging."""
    ids = list(prompt)
    for _ in range(NEW):
        best = int(model.eval()(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if best == Spelling.end_token:
            break
        ids.append(best)
    return " ".join(map(str, ids[len(prompt) :]))


@torch.no_grad()
def beam(model, prompt, beams, penalty):
    """Beam search as written in textbooks: all hypotheses that end, ranked by their length-penalized probability."""
    alive, done = [(0.0, [])], []
    for _ in range(NEW):
        grown = []
        for score, tokens in alive:
            logits = model.eval()(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, -1]
            for value, token in zip(*logits.log_softmax(-1).topk(2 * beams), strict=True):
                grown.append((score + float(value), [*tokens, int(token)]))
        grown.sort(key=lambda one: -one[0])
        for score, tokens in grown[: 2 * beams][:beams]:
            if tokens[-1] == Spelling.end_token:
                done.append((score / len(tokens) ** penalty, tokens[:-1]))
        alive = [one for one in grown[: 2 * beams] if one[1][-1] != Spelling.end_token][:beams]
    done += [(score / len(tokens) ** penalty, tokens) for score, tokens in alive]
    return " ".join(map(str, max(done, key=lambda one: one[0])[1]))


@pytest.mark.parametrize("size", [1, 2, 16])
def test_greedy_texts_are_those_of_one_prompt_at_a_time(adapters, prompts, tmp_path, size):
    written = generator(adapters, batch_size=size).write("test", prompts, tmp_path / "t.jsonl")
    assert written == [greedy(adapters.model, prompt) for prompt in prompts]
    assert len(set(written)) == len(prompts)


@pytest.mark.parametrize("size", [1, 16])
def test_beams_find_what_a_textbook_finds(adapters, prompts, tmp_path, size):
    written = generator(adapters, batch_size=size, beams=3, length_penalty=0.9).write(
        "test", prompts, tmp_path / "t"
    )
    assert written == [beam(adapters.model, prompt, 3, 0.9) for prompt in prompts]


def test_no_ngram_occurs_twice(adapters, prompts, tmp_path):
    for text in generator(adapters, no_repeat_ngram_size=2).write("test", prompts, tmp_path / "t"):
        tokens = text.split()
        pairs = list(itertools.pairwise(tokens))
        assert len(pairs) == len(set(pairs))


def test_the_model_is_left_as_it_was(adapters, prompts, tmp_path):
    adapters.model.train()
    before = {name: value.clone() for name, value in adapters.model.state_dict().items()}
    generator(adapters).write("test", prompts, tmp_path / "t")
    assert adapters.model.training
    assert not adapters.is_merged
    assert all(
        torch.equal(value, before[name]) for name, value in adapters.model.state_dict().items()
    )


def test_a_broken_off_file_is_gone_on_with(adapters, prompts, tmp_path, monkeypatch):
    file = tmp_path / "t.jsonl"
    whole = generator(adapters, batch_size=2).write("test", prompts, file)
    lines = file.read_text().splitlines()
    assert len(lines) == 1 + len(prompts)
    file.write_text("\n".join([*lines[:3], lines[3][:9]]))  # killed while it wrote the third text
    maker = generator(adapters, batch_size=2)
    asked = []
    batch = maker.batch
    monkeypatch.setattr(maker, "batch", lambda some: asked.extend(some) or batch(some))
    assert maker.write("test", prompts, file) == whole
    assert len(asked) == len(prompts) - 2
    assert sorted(json.loads(line)["row"] for line in file.read_text().splitlines()[1:]) == list(
        range(len(prompts))
    )
    asked.clear()
    assert maker.write("test", prompts, file) == whole
    assert asked == []


@pytest.mark.parametrize("change", ["weights", "options", "prompts"])
def test_texts_of_something_else_are_written_anew(adapters, prompts, tmp_path, change):
    file = tmp_path / "t.jsonl"
    generator(adapters).write("test", prompts, file)
    file.write_text(file.read_text().replace('"text": "', '"text": "old '))
    kept = generator(adapters).write("test", prompts, file)
    assert all(text.startswith("old ") for text in kept)
    if change == "weights":
        with torch.no_grad():
            next(iter(adapters.adapter_parameters().values())).mul_(2)
    options = {"no_repeat_ngram_size": 3} if change == "options" else {}
    asked = prompts[::-1] if change == "prompts" else prompts
    assert not any(
        "old" in text for text in generator(adapters, **options).write("test", asked, file)
    )


def test_what_cannot_be_merged_writes_the_same(adapters, prompts, tmp_path, monkeypatch):
    merged = generator(adapters).write("test", prompts, tmp_path / "a")
    monkeypatch.setattr(type(adapters), "mergeable", lambda self: "quantized")
    assert generator(adapters).write("test", prompts, tmp_path / "b") == merged


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beams": 0}, "task.decoding.beams=0 must be at least 1"),
        ({"batch_size": 0}, "task.decoding.batch_size=0"),
        ({"no_repeat_ngram_size": -1}, "must not be negative"),
    ],
)
def test_wrong_options(options, said):
    with pytest.raises(ValueError, match=said):
        Decoding(**options)
