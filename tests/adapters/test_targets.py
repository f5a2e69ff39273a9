"""Which layers a target selection selects."""

import adapter_zoo as zoo
import pytest

from rlora.adapters import inject
from rlora.adapters.lora import LoRA
from rlora.adapters.targets import FAMILIES, Role, Target, find_targets

BLOCKS = {"q": Role(r"attn\.c_attn", (0, 3)), "v": Role(r"attn\.c_attn", (2, 3))}
BERT_SUFFIXES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}


def select(model, targets, roles=None):
    return find_targets(zoo.build(model), targets, FAMILIES[model] if roles is None else roles)


def bert(*roles):
    """Return the module names of roles, block by block in the order of the model."""
    return [f"bert.encoder.layer.{i}.{BERT_SUFFIXES[role]}" for i in (0, 1) for role in roles]


@pytest.mark.parametrize("role", BERT_SUFFIXES)
def test_every_role_of_bert(role):
    assert [t.module for t in select("bert", [role])] == bert(role)


@pytest.mark.parametrize(
    "order", [["q", "v", "fc2"], ["fc2", "v", "q"], ["v", "q", "v", "fc2", "query", "q"]]
)
def test_targets_come_in_the_order_of_the_model_and_once(order):
    assert select("bert", order) == [Target(name) for name in bert("q", "v", "fc2")]


@pytest.mark.parametrize(
    ("targets", "roles"),
    [
        (["query"], ["q"]),
        (["self.query", "value"], ["q", "v"]),
        (["dense"], ["o", "fc1", "fc2"]),
        (["output.dense"], ["o", "fc2"]),
        (("query",), ["q"]),
        (r".*\.(query|key)", ["q", "k"]),
        ("all-linear", list(BERT_SUFFIXES)),
    ],
)
def test_suffixes_and_expressions(targets, roles):
    assert [t.module for t in select("bert", targets)] == bert(*roles)


def test_a_suffix_begins_at_a_dot():
    with pytest.raises(ValueError, match="'uery' matches no"):
        select("bert", ["uery"])


def test_an_expression_means_the_whole_name():
    assert [t.module for t in select("bert", r"bert\.encoder\.layer\.1\..*key")] == bert("k")[1:]
    with pytest.raises(ValueError, match="matches no"):
        select("bert", "query")


@pytest.mark.parametrize("model", list(zoo.TARGETS))
def test_all_linear_leaves_pooler_and_head_alone(model):
    names = [t.module for t in select(model, "all-linear")]
    per_block = {"bert": 6, "gpt2": 4, "llama": 7}[model]
    assert len(names) == 2 * per_block
    assert not any(
        word in name for name in names for word in ("pooler", "classifier", "score", "lm_head")
    )


@pytest.mark.parametrize(
    ("model", "entry"),
    [
        ("bert", "pooler.dense"),
        ("bert", "classifier"),
        ("gpt2", "score"),
        ("llama", "score"),
        ("bert", "word_embeddings"),
    ],
)
def test_poolers_heads_and_embeddings_cannot_be_chosen(model, entry):
    for targets in ([entry], f".*{entry}"):
        with pytest.raises(ValueError, match="matches no linear layer"):
            select(model, targets)


@pytest.mark.parametrize(
    "targets", [["q", "nope"], "nope", ["nope"], [""], "", ["all-linear", "nope"]]
)
def test_what_matches_nothing_is_refused_with_the_candidates(targets):
    with pytest.raises(ValueError, match=r"adapter\.targets") as error:
        select("bert", targets)
    for word in (
        "q, k, v, o, fc1, fc2",
        "attention.self.query",
        "intermediate.dense",
        "all-linear",
    ):
        assert word in str(error.value)
    assert "pooler" not in str(error.value)


def test_without_roles_the_suffixes_are_listed():
    with pytest.raises(ValueError, match=r"'q' matches no .*attention\.self\.query"):
        select("bert", ["q"], {})


@pytest.mark.parametrize("targets", [[], ()])
def test_no_targets_are_refused_by_name(targets):
    with pytest.raises(ValueError, match=r"adapter\.targets"):
        inject(zoo.build("bert"), LoRA(targets=targets))


def test_an_invalid_expression_is_refused():
    with pytest.raises(
        ValueError, match=r"adapter\.targets='\(query' is not a valid regular expression"
    ):
        select("bert", "(query")


def test_row_blocks():
    targets = select("gpt2", ["v", "q"], BLOCKS)
    expected = [
        Target(f"transformer.h.{i}.attn.c_attn", r, (b, 3))
        for i in (0, 1)
        for r, b in (("q", 0), ("v", 2))
    ]
    assert targets == expected
    assert all(FAMILIES["gpt2"][role] == BLOCKS[role] for role in BLOCKS)


def test_a_whole_module_replaces_its_blocks():
    whole = [Target(f"transformer.h.{i}.attn.c_attn") for i in (0, 1)]
    for targets in (["q", "c_attn"], ["c_attn", "q", "v"], ["attn.c_attn", "v"]):
        assert select("gpt2", targets, BLOCKS) == whole
    mixed = select("gpt2", ["q", "mlp.c_fc"], BLOCKS)
    assert [t.label for t in mixed] == ["q", "", "q", ""]


def test_gpt2_roles_tell_the_two_projections_apart():
    assert [t.module for t in select("gpt2", ["o"])] == [
        f"transformer.h.{i}.attn.c_proj" for i in (0, 1)
    ]
    assert [t.module for t in select("gpt2", ["fc2"])] == [
        f"transformer.h.{i}.mlp.c_proj" for i in (0, 1)
    ]


def test_every_role_of_llama():
    for role in ("q", "k", "v", "o"):
        assert [t.module for t in select("llama", [role])] == [
            f"model.layers.{i}.self_attn.{role}_proj" for i in (0, 1)
        ]
    for role in ("gate", "up", "down"):
        assert [t.module for t in select("llama", [role])] == [
            f"model.layers.{i}.mlp.{role}_proj" for i in (0, 1)
        ]


def test_rows_that_do_not_split_are_refused(monkeypatch):
    monkeypatch.setitem(FAMILIES, "gpt2", {"q": Role(r"attn\.c_attn", (0, 5))})
    with pytest.raises(ValueError, match="96 rows, which do not split into 5"):
        inject(zoo.build("gpt2"), LoRA(targets=["q"]))
