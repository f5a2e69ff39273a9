"""Text generation: batches, beams, texts on disk, and resuming."""

import itertools
import json

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from rich.console import Console

from rlora.adapters import inject
from rlora.adapters.lora import LoRA
from rlora.evaluation.generate import Generator
from rlora.models.pretrained import load_pretrained
from rlora.models.random_init import random_model
from rlora.tasks.base import GenerationConfig

CONFIG = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
NEW, END = 12, 3


class Spelling:
    """The part of a task that a generator uses; a text is the list of its token ids."""

    def __init__(self, **options):
        self.generation = GenerationConfig(max_new_tokens=NEW, end_token=END, **options)

    def decode_text(self, ids):
        return " ".join(map(str, ids[: ids.index(END)] if END in ids else ids))


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
    """Generate one token at a time, without cache, padding or merging."""
    ids = list(prompt)
    for _ in range(NEW):
        best = int(model.eval()(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if best == END:
            break
        ids.append(best)
    return " ".join(map(str, ids[len(prompt) :]))


@torch.no_grad()
def beam(model, prompt, beams, penalty):
    """Return the best text of a textbook beam search, by length-penalized log probability."""
    alive, done = [(0.0, [])], []
    for _ in range(NEW):
        grown = []
        for score, tokens in alive:
            logits = model.eval()(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, -1]
            for value, token in zip(*logits.log_softmax(-1).topk(2 * beams), strict=True):
                grown.append((score + float(value), [*tokens, int(token)]))
        grown.sort(key=lambda one: -one[0])
        for score, tokens in grown[: 2 * beams][:beams]:
            if tokens[-1] == END:
                done.append((score / len(tokens) ** penalty, tokens[:-1]))
        alive = [one for one in grown[: 2 * beams] if one[1][-1] != END][:beams]
    done += [(score / len(tokens) ** penalty, tokens) for score, tokens in alive]
    return " ".join(map(str, max(done, key=lambda one: one[0])[1]))


@pytest.mark.parametrize("size", [1, 2, 16])
def test_a_batch_generates_the_texts_of_single_prompts(adapters, prompts, tmp_path, size):
    texts = generator(adapters, batch_size=size).generate("test", prompts, tmp_path / "t.jsonl")
    assert texts == [greedy(adapters.model, prompt) for prompt in prompts]
    assert len(set(texts)) == len(prompts)


@pytest.mark.parametrize("size", [1, 16])
def test_beam_search_equals_the_textbook(adapters, prompts, tmp_path, size):
    texts = generator(adapters, batch_size=size, beams=3, length_penalty=0.9).generate(
        "test", prompts, tmp_path / "t"
    )
    assert texts == [beam(adapters.model, prompt, 3, 0.9) for prompt in prompts]


def test_no_ngram_occurs_twice(adapters, prompts, tmp_path):
    for text in generator(adapters, no_repeat_ngram_size=2).generate(
        "test", prompts, tmp_path / "t"
    ):
        tokens = text.split()
        pairs = list(itertools.pairwise(tokens))
        assert len(pairs) == len(set(pairs))


def test_generation_restores_the_model(adapters, prompts, tmp_path):
    adapters.model.train()
    before = {name: value.clone() for name, value in adapters.model.state_dict().items()}
    generator(adapters).generate("test", prompts, tmp_path / "t")
    assert adapters.model.training
    assert not adapters.is_merged
    assert all(
        torch.equal(value, before[name]) for name, value in adapters.model.state_dict().items()
    )


def test_an_interrupted_file_is_resumed(adapters, prompts, tmp_path, monkeypatch):
    file = tmp_path / "t.jsonl"
    whole = generator(adapters, batch_size=2).generate("test", prompts, file)
    lines = file.read_text().splitlines()
    assert len(lines) == 1 + len(prompts)
    file.write_text("\n".join([*lines[:3], lines[3][:9]]))  # killed while writing the third text
    resumed = generator(adapters, batch_size=2)
    generated = []
    batch = resumed.generate_batch
    monkeypatch.setattr(
        resumed, "generate_batch", lambda prompts: generated.extend(prompts) or batch(prompts)
    )
    assert resumed.generate("test", prompts, file) == whole
    assert len(generated) == len(prompts) - 2
    assert sorted(json.loads(line)["row"] for line in file.read_text().splitlines()[1:]) == list(
        range(len(prompts))
    )
    generated.clear()
    assert resumed.generate("test", prompts, file) == whole
    assert generated == []


@pytest.mark.parametrize("change", ["weights", "options", "prompts"])
def test_texts_of_another_key_are_not_reused(adapters, prompts, tmp_path, change):
    file = tmp_path / "t.jsonl"
    generator(adapters).generate("test", prompts, file)
    file.write_text(file.read_text().replace('"text": "', '"text": "old '))
    kept = generator(adapters).generate("test", prompts, file)
    assert all(text.startswith("old ") for text in kept)
    if change == "weights":
        with torch.no_grad():
            next(iter(adapters.adapter_parameters().values())).mul_(2)
    options = {"no_repeat_ngram_size": 3} if change == "options" else {}
    changed = prompts[::-1] if change == "prompts" else prompts
    assert not any(
        "old" in text for text in generator(adapters, **options).generate("test", changed, file)
    )


def test_an_unmerged_model_generates_the_same_texts(adapters, prompts, tmp_path, monkeypatch):
    merged = generator(adapters).generate("test", prompts, tmp_path / "a")
    monkeypatch.setattr(type(adapters), "mergeable", lambda self: "quantized")
    assert generator(adapters).generate("test", prompts, tmp_path / "b") == merged


HIDDEN = {
    "repetition_penalty": 5.0,
    "suppress_tokens": list(range(20, 130)),
    "forced_bos_token_id": 7,
    "forced_eos_token_id": 9,
    "bad_words_ids": [[5], [130]],
    "no_repeat_ngram_size": 1,
    "min_length": 60,
    "min_new_tokens": 12,
    "do_sample": True,
    "temperature": 3.0,
    "top_k": 2,
    "num_beams": 2,
    "early_stopping": True,
    "length_penalty": -2.0,
    "num_return_sequences": 2,
    "exponential_decay_length_penalty": (1, 2.0),
    "sequence_bias": [[[6], -10.0]],
}


@pytest.fixture
def checkpoint(tmp_path):
    """Function of decoding options: folder of a decoder that has them."""
    backbone = random_model(CONFIG, kind="text", num_labels=0, seed=0)
    folder = tmp_path / "decoder"
    backbone.model.save_pretrained(folder)
    backbone.processor.save_pretrained(folder)

    def write(options, file="generation_config.json"):
        content = json.loads((folder / file).read_text())
        if file == "config.json":  # which transformers reads where the other file is absent
            (folder / "generation_config.json").unlink()
        (folder / file).write_text(json.dumps(content | options))
        return folder

    return write


def loaded(folder):
    backbone = load_pretrained(str(folder), kind="text", num_labels=0, seed=0)
    return inject(backbone.model, LoRA(rank=2), seed=0)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_decoding_options_of_a_checkpoint_have_no_effect(
    checkpoint, prompts, tmp_path, file, beams
):
    plain = loaded(checkpoint({}))
    expected = generator(plain, beams=beams).generate("test", prompts, tmp_path / "plain")
    options = HIDDEN if file == "generation_config.json" else {"repetition_penalty": 5.0}
    hidden = loaded(checkpoint(options, file))
    made = generator(hidden, beams=beams)
    assert made.generate("test", prompts, tmp_path / "hidden") == expected
    with made.ready():  # as predict.py does
        assert made.generate_batch(prompts) == expected


def test_the_model_keeps_its_decoding_options(checkpoint, prompts, tmp_path):
    adapters = loaded(checkpoint({"repetition_penalty": 5.0, "suppress_tokens": [4]}))
    generator(adapters).generate("test", prompts, tmp_path / "t")
    assert adapters.model.generation_config.repetition_penalty == 5.0
    assert adapters.model.generation_config.suppress_tokens == [4]


def test_all_that_is_in_force_is_known():
    assert GenerationConfig(beams=3, end_token=END).in_force() == {
        "batch_size": 16,
        "beams": 3,
        "length_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "max_new_tokens": 64,
        "end_token": END,
        "do_sample": False,
        "early_stopping": False,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 0}, "task.decoding.beams=0 is invalid: expected at least 1"),
        ({"batch_size": 0}, "task.decoding.batch_size=0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size=-1 is invalid: expected 0 or"),
    ],
)
def test_invalid_settings_raise(options, message):
    with pytest.raises(ValueError, match=message):
        GenerationConfig(**options)
