"""What "all-linear" reaches: every linear layer of the blocks, without the gates of experts.

A gate decides which expert a token goes to. It has one output, or one per expert, so that no update
of a usual rank fits it. Experts stored as one tensor of three dimensions are no linear layers.
"""

import logging
import re
from collections.abc import Sequence

from torch import nn

from rlora.ops.linear_layers import linear_shape

log = logging.getLogger(__name__)

WORTH_A_WARNING = 0.01  # share of the model's parameters that no linear layer holds


def without_gates(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return the linear layers that "all-linear" adapts, and log what it leaves out.

    Args:
        model: The backbone, not yet adapted.
        names: The linear layers of its blocks.
    """
    gates = [name for name in names if _is_gate(model, name)]
    if gates:
        log.warning("all-linear leaves out the gates %s", _patterns(gates))
    left_out = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1
        and any(part.isdigit() for part in name.split("."))
        and name.rpartition(".")[0] not in names
    }
    share = sum(left_out.values()) / max(1, sum(p.numel() for p in model.parameters()))
    if share >= WORTH_A_WARNING:
        log.warning(
            "all-linear leaves out %.0f %% of the model's parameters, which are in no linear "
            "layer: %s",
            100 * share,
            _patterns(left_out),
        )
    return [name for name in names if name not in gates]


def _is_gate(model: nn.Module, name: str) -> bool:
    outputs = linear_shape(model.get_submodule(name))[0]
    return outputs == 1 or outputs in _numbers_of_experts(
        model.get_submodule(name.rpartition(".")[0])
    )


def _numbers_of_experts(block: nn.Module) -> set[int]:
    """Return the lengths of a block's lists of modules, and of its tensors of matrices."""
    children = list(block.children())
    lists = {len(child) for child in children if isinstance(child, nn.ModuleList)}
    tensors = {
        len(parameter)
        for child in children
        for leaf, parameter in child.named_parameters(recurse=False)
        if parameter.dim() == 3 and leaf != "weight"  # that of a convolution
    }
    return lists | tensors


def _patterns(names: Sequence[str] | dict[str, int]) -> str:
    """Return names without repetition over numbered blocks."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in names))
