"""Random models: byte tokenizer, roles of every family, weights that depend on the seed alone."""

import pytest
import torch

from rlora.adapters import inject
from rlora.adapters.lora import LoRA
from rlora.config.build import build
from rlora.models.random_init import byte_tokenizer, random_model

HEAD = {"kind": "classification", "num_labels": 2}
MODULES = ("classifier", "score")
_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "bert": {"model_type": "bert", **_ENCODER},
    "roberta": {"model_type": "roberta", **_ENCODER},
    "deberta-v2": {
        "model_type": "deberta-v2",
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "pooler_hidden_size": 32,
        **_ENCODER,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": {"model_type": "llama", "num_key_value_heads": 1, **_ENCODER},
}
_BERT_ROLES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
ROLES = {  # role: the site's name within its block
    "bert": _BERT_ROLES,
    "roberta": _BERT_ROLES,
    "deberta-v2": _BERT_ROLES | {r: f"{_BERT_ROLES[r]}_proj" for r in "qkv"},
    "gpt2": {
        **{r: f"attn.c_attn[{r}]" for r in "qkv"},
        "o": "attn.c_proj",
        "fc1": "mlp.c_fc",
        "fc2": "mlp.c_proj",
    },
    "llama": {
        **{r: f"self_attn.{r}_proj" for r in "qkvo"},
        **{r: f"mlp.{r}_proj" for r in ("gate", "up", "down")},
    },
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def logits(backbone, sentences=("good", "terrible news")):
    batch = backbone.processor(list(sentences), padding=True, return_tensors="pt")
    with torch.no_grad():
        return backbone.model.eval()(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits


@pytest.mark.parametrize(
    "text", ["Hello wörld 漢字 🙂", " two  spaces\n\tand a tab ", "[CLS] is text here", "a"]
)
def test_the_tokenizer_decodes_to_the_same_text(text):
    tokenizer = byte_tokenizer()
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    if "[CLS]" not in text:
        assert len(tokens) == len(text.encode())
    assert tokenizer.decode(tokens) == text


def test_the_tokenizer_marks_ends_and_pairs():
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(tokenizer("a")["input_ids"]) == "[CLS]a[SEP]"
    assert tokenizer.decode(tokenizer("a", "b")["input_ids"]) == "[CLS]a[SEP]b[SEP]"
    batch = tokenizer(["a", "abc"], padding=True)
    assert batch["attention_mask"] == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["input_ids"][0][-1] == tokenizer.pad_token_id


def test_padding_does_not_change_the_logits(family):
    backbone = random_model(FAMILIES[family], **HEAD, seed=0)
    together = logits(backbone, ["good", "a much longer sentence"])
    assert together.shape == (2, 2)
    torch.testing.assert_close(together[:1], logits(backbone, ["good"]), atol=1e-5, rtol=1e-4)
    assert backbone.model.config.pad_token_id == backbone.processor.pad_token_id is not None
    assert backbone.source == f"random {family}"


def test_the_roles_of_a_family_resolve(family):
    backbone = random_model(FAMILIES[family], **HEAD, seed=0)
    start = logits(backbone)
    adapters = inject(
        backbone.model,
        LoRA(rank=2, targets=list(ROLES[family])),
        head=backbone.head_parameters(MODULES),
    )
    sites = list(adapters.adapters)
    for role, name in ROLES[family].items():
        matches = [s for s in sites if name in (s.partition(".0.")[2], s.partition(".1.")[2])]
        assert len(matches) == 2, (role, sites)
    assert len(sites) == 2 * len(ROLES[family])
    assert torch.equal(logits(backbone), start)


def test_one_role_alone(family):
    for role, name in ROLES[family].items():
        backbone = random_model(FAMILIES[family], **HEAD, seed=0)
        sites = inject(backbone.model, LoRA(rank=1, targets=[role])).adapters
        assert [site.endswith(f"{number}.{name}") for number, site in enumerate(sites)] == [
            True,
            True,
        ]


@pytest.mark.parametrize("name", ["tiny_encoder", "tiny_decoder"])
def test_weights_depend_on_the_seed_alone(compose, name):
    node = compose(f"model={name}").config["model"]
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = build(node, **HEAD, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    same, other = build(node, **HEAD, seed=0), build(node, **HEAD, seed=1)
    assert first.fingerprint == same.fingerprint != other.fingerprint
    assert torch.equal(logits(first), logits(same))
    assert not torch.equal(logits(first), logits(other))


def test_the_fingerprint_does_not_depend_on_the_head(family):
    backbone = random_model(FAMILIES[family], **HEAD, seed=0)
    with torch.no_grad():
        before = backbone.fingerprint
        dict(backbone.model.named_parameters())[backbone.head_parameters(MODULES)[-1]].add_(1.0)
    from rlora.ops.fingerprint import fingerprint

    assert fingerprint(backbone.model, backbone.fresh) == before
    assert fingerprint(backbone.model, []) == before  # a head from the checkpoint


def test_the_fingerprint_depends_on_every_weight_of_the_backbone():
    from rlora.ops.fingerprint import fingerprint

    backbone = random_model(FAMILIES["bert"], **HEAD, seed=0)
    for name, parameter in backbone.model.named_parameters():
        if name not in backbone.fresh:
            parameter.data.view(-1)[0] += 1.0
            assert fingerprint(backbone.model, backbone.fresh) != backbone.fingerprint, name
            parameter.data.view(-1)[0] -= 1.0


def test_the_head_parameters_of_each_family(family):
    backbone = random_model(FAMILIES[family], **HEAD, seed=0)
    heads = {
        "bert": {"classifier"},
        "roberta": {"classifier.dense", "classifier.out_proj"},
        "deberta-v2": {"classifier", "pooler.dense"},  # its checkpoints have no pooler
        "gpt2": {"score"},
        "llama": {"score"},
    }
    assert {name.rpartition(".")[0] for name in backbone.head_parameters(MODULES)} == heads[family]


def test_a_missing_head_is_refused(family):
    backbone = random_model(FAMILIES[family], **HEAD, seed=0)
    with pytest.raises(
        ValueError, match=rf"random {family} has none of the modules lm_head, qa_outputs"
    ):
        backbone.head_parameters(("lm_head", "qa_outputs"))


def test_regression():
    backbone = random_model(FAMILIES["bert"], kind="regression", num_labels=1, seed=0)
    assert backbone.model.config.problem_type == "regression"
    assert logits(backbone).shape == (2, 1)


@pytest.mark.parametrize("name", ["tiny_encoder", "tiny_decoder"])
def test_gradient_checkpointing_changes_no_gradient(compose, name):
    gradients = []
    for flag in ("false", "true"):
        node = compose(f"model={name}", f"model.gradient_checkpointing={flag}").config["model"]
        backbone = build(node, **HEAD, seed=0)
        assert backbone.model.is_gradient_checkpointing == (flag == "true")
        adapters = inject(backbone.model, LoRA(rank=2), head=backbone.head_parameters(MODULES))
        for module in backbone.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        batch = backbone.processor(["good", "terrible news"], padding=True, return_tensors="pt")
        backbone.model.train()
        out = backbone.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        out.logits.square().sum().backward()
        trained = adapters.adapter_parameters() | adapters.head_parameters()
        assert all(parameter.grad is not None for parameter in trained.values())
        gradients.append({key: parameter.grad for key, parameter in trained.items()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, msg=key)
    assert any(gradient.any() for gradient in gradients[0].values())
