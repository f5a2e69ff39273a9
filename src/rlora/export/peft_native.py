"""What PEFT's own layers have trained, as PEFT writes it."""

from typing import Any

from torch import Tensor

from rlora.adapters.peft.files import BANK
from rlora.adapters.peft.method import NAME, SHARED, PeftSet
from rlora.export.peft_lora import PREFIX, TASK_TYPES, head_modules

BANKS = {
    "VERA": ("vera_A", "vera_B"),
    "RANDLORA": ("randlora_A", "randlora_B"),
}  # frozen, and shared by layers

# Types that a round trip through PEFT has shown to come back whole; others may draw anew what no file of theirs holds.
SHOWN = ("LORA", "VERA", "RANDLORA", "FOURIERFT", "IA3", "OFT", "LOHA", "C3A", "VBLORA")


def peft_native(
    adapters: PeftSet, *, kind: str, base: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and tensors of an adapter that PEFT itself has put in.

    Args:
        adapters: What was trained.
        kind: The head: "classification", "regression" or "text".
        base: Name or path of the backbone.

    Raises:
        ValueError: a type of which it is not known that its files hold all of it.
    """
    made: Any = adapters.model.peft_config[NAME]  # type: ignore[index]
    if made.peft_type.value not in SHOWN:
        raise ValueError(
            f"whether PEFT's files hold all of {made.peft_type.value} was not shown: use --format merged, or one of "
            f"{', '.join(SHOWN)}"
        )
    modules, heads = head_modules(adapters)
    config = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in made.to_dict().items()
    }
    config |= {
        "task_type": TASK_TYPES[kind],
        "base_model_name_or_path": base,
        "inference_mode": True,
    }
    if modules:
        config["modules_to_save"] = modules
    tensors = {
        _key(name): parameter.detach().contiguous() for name, parameter in adapters.trained.items()
    }
    for attribute in BANKS.get(str(config["peft_type"]).rpartition(".")[2], ()):
        config["save_projection"] = True
        holder = next(module for module in adapters.model.modules() if hasattr(module, attribute))
        tensors[f"{BANK}{attribute}"] = getattr(holder, attribute)[NAME].detach().contiguous()
    return config, {**tensors, **heads}


def _key(name: str) -> str:
    shared = f"{SHARED}."
    return f"{BANK}{name.removeprefix(shared)}" if name.startswith(shared) else f"{PREFIX}.{name}"
