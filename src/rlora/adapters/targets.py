"""Selection of the linear layers that an adapter goes to."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from rlora.adapters.coverage import without_gates
from rlora.adapters.method import Targets
from rlora.ops.linear_layers import is_linear


@dataclass(frozen=True)
class Role:
    """One projection of a family's blocks, such as the query of the attention.

    Args:
        pattern: Regular expression that matches the end of the module's name.
        block: (index, count) if the projection is one of `count` equal row blocks of a fused one.
    """

    pattern: str
    block: tuple[int, int] | None = None


@dataclass(frozen=True)
class Target:
    """One module to adapt, or one row block of it with the block's label; None means all rows."""

    module: str
    label: str = ""
    block: tuple[int, int] | None = None


def block_linears(model: nn.Module) -> list[str]:
    """Return the names of the linear layers in the transformer blocks.

    Blocks are the elements of an nn.ModuleList. Poolers and heads are outside of the blocks, so
    that they are never adapted. The layers of nn.MultiheadAttention are left out: it reads their
    weights and never calls them, so that an update would have no effect.
    """

    def walk(module: nn.Module, prefix: str, inside: bool) -> Iterator[str]:
        inside = inside or isinstance(module, nn.ModuleList)
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if isinstance(module, nn.MultiheadAttention):
                continue
            if inside and is_linear(child):
                yield path
            else:
                yield from walk(child, f"{path}.", inside)

    return list(walk(model, "", False))


def find_targets(model: nn.Module, targets: Targets, roles: Mapping[str, Role]) -> list[Target]:
    """Resolve a target selection against a model.

    Args:
        model: The backbone, not yet adapted.
        targets: "all-linear" (without gates of experts, see `rlora.adapters.coverage`), a regular
            expression for the whole name, or a list of roles and name suffixes.
        roles: The family's roles; {} if it has none.

    Returns:
        Targets in the order of the model, without duplicates.

    Raises:
        ValueError: an entry matches nothing; the candidates are listed.
    """
    names = block_linears(model)
    if isinstance(targets, str):
        selected = (
            [Target(name) for name in without_gates(model, names)]
            if targets == "all-linear"
            else _by_expression(names, targets)
        )
        if not selected:
            raise ValueError(_no_match(targets, names, roles))
        return selected
    selected = []
    for entry in targets:
        matches = (
            _by_role(names, entry, roles[entry]) if entry in roles else _by_suffix(names, entry)
        )
        if not matches:
            raise ValueError(_no_match(entry, names, roles))
        selected += matches
    if not selected:
        raise ValueError(f"adapter.targets is empty: {_candidates(names, roles)}")
    # a module that is adapted as a whole gets no second update on a block of it
    whole = {target.module for target in selected if target.block is None}
    unique = [t for t in dict.fromkeys(selected) if t.block is None or t.module not in whole]
    order = {name: position for position, name in enumerate(names)}
    return sorted(unique, key=lambda t: (order[t.module], t.block or (0, 1)))


def _by_expression(names: Sequence[str], expression: str) -> list[Target]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ValueError(
            f"adapter.targets={expression!r} is not a valid regular expression: {error}"
        ) from None
    return [Target(name) for name in names if pattern.fullmatch(name)]


def _by_role(names: Sequence[str], label: str, role: Role) -> list[Target]:
    pattern = re.compile(rf"(?:.*\.)?(?:{role.pattern})")
    return [
        Target(name, label if role.block else "", role.block)
        for name in names
        if pattern.fullmatch(name)
    ]


def _by_suffix(names: Sequence[str], suffix: str) -> list[Target]:
    return [Target(name) for name in names if name == suffix or name.endswith(f".{suffix}")]


def _no_match(entry: str, names: Sequence[str], roles: Mapping[str, Role]) -> str:
    return (
        f"adapter.targets: {entry!r} matches no linear layer of the backbone's blocks; "
        f"{_candidates(names, roles)}"
    )


def _candidates(names: Sequence[str], roles: Mapping[str, Role]) -> str:
    present = [role for role in roles if _by_role(names, role, roles[role])]
    suffixes = dict.fromkeys(re.sub(r"^.*?\.\d+\.", "", name) for name in names)
    return (
        f"choose among the roles {', '.join(present) or '(none)'}, the suffixes "
        f"{', '.join(suffixes)}, or all-linear"
    )


# The names of the projections in each family of transformers, so that `targets: [q, v]` fits them
# all.


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
    "fc2": Role(r"\d+\.output\.dense"),  # the block's output, not the attention's
}
_DEBERTA = _BERT | _linears(
    q="attention.self.query_proj", k="attention.self.key_proj", v="attention.self.value_proj"
)
_GPT2 = {
    **{role: Role(r"attn\.c_attn", (index, 3)) for index, role in enumerate("qkv")},
    **_linears(o="attn.c_proj", fc1="mlp.c_fc", fc2="mlp.c_proj"),
}
_ATTENTION = _linears(
    q="self_attn.q_proj", k="self_attn.k_proj", v="self_attn.v_proj", o="self_attn.o_proj"
)
_LLAMA = _ATTENTION | _linears(gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj")

# keyed by the model_type of a transformers config
FAMILIES: dict[str, dict[str, Role]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "deberta-v2": _DEBERTA,  # also the type of DeBERTa v3 checkpoints
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    # the experts are no linear layers
    "mixtral": _ATTENTION,
    "qwen2_moe": _ATTENTION,
    "qwen3_moe": _ATTENTION,
}


def roles_of(model: nn.Module) -> dict[str, Role]:
    """Return the roles of a model's family; {} for other families, where targets are names only."""
    return FAMILIES.get(getattr(getattr(model, "config", None), "model_type", ""), {})
