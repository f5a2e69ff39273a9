"""What each family of transformers calls the projections of its blocks, so that `targets: [q, v]` fits them all."""

from torch import nn

from rlora.adapters.targets import Role


def _linears(**names: str) -> dict[str, Role]:
    return {role: Role(name.replace(".", r"\.")) for role, name in names.items()}


_BERT = {
    **_linears(
        q="attention.self.query",
        k="attention.self.key",
        v="attention.self.value",
        o="attention.output.dense",
        fc1="intermediate.dense",
    ),
    "fc2": Role(r"\d+\.output\.dense"),  # the block's own output, not its attention's
}
_DEBERTA = _BERT | _linears(q="attention.self.query_proj", k="attention.self.key_proj", v="attention.self.value_proj")
_GPT2 = {
    **{role: Role(r"attn\.c_attn", (index, 3)) for index, role in enumerate("qkv")},
    **_linears(o="attn.c_proj", fc1="mlp.c_fc", fc2="mlp.c_proj"),
}
_LLAMA = _linears(
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.o_proj",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
)

# keyed by the model_type of a transformers config
FAMILIES: dict[str, dict[str, Role]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "deberta-v2": _DEBERTA,  # DeBERTa v3 checkpoints carry this type
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def roles_of(model: nn.Module) -> dict[str, Role]:
    """The roles of a model's family, {} where the family is not listed: then targets go by name."""
    return FAMILIES.get(getattr(getattr(model, "config", None), "model_type", ""), {})
