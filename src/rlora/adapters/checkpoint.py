"""An adapter on disk: safetensors of what trained, nothing that the seed brings back, and a readable card."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as dump_tensors
from torch import Tensor

from rlora.adapters.adapter_set import AdapterSet, structure_digest
from rlora.adapters.base import Adapter, Method
from rlora.io.atomic import write_folder_atomically
from rlora.io.safetensors import parse_tensors, read_bytes

FORMAT = 1
MANIFEST, ADAPTER_FILE, HEAD_FILE = "adapter.json", "adapter.safetensors", "head.safetensors"
# dropout, keep_delta and path act in training only; the names of the tensors say what was adapted
FREE = {"dropout", "keep_delta", "path", "targets"}


def describe_method(method: Method) -> dict[str, Any]:
    """A method and its options as plain values."""
    options: dict[str, Any] = asdict(method) if is_dataclass(method) else {}
    return {"name": type(method).__name__, **options}


def weight_options(method: Method) -> dict[str, Any]:
    """The options that saved tensors depend on, as they come back from json."""
    described: dict[str, Any] = json.loads(json.dumps(describe_method(method)))
    return {key: value for key, value in described.items() if key not in FREE}


def save(
    adapters: AdapterSet,
    directory: Path | str,
    *,
    backbone: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> int:
    """Write an adapter directory, whole or not at all; an older one is replaced.

    Args:
        adapters: What to save: the trained tensors in float32, adapter and head in a file each.
        directory: Where to.
        backbone: "source" and "fingerprint" of what it was trained on; by default the adapters' own.
        extra: Further plain values for the card, such as the config.
        beside: Further files by name, such as a regularizer's state.

    Returns:
        Size of the adapter's tensor file in bytes, the head apart.
    """
    report = adapters.report()
    tensors = {
        ADAPTER_FILE: dump_tensors(_plain(adapters.adapter_parameters())),
        HEAD_FILE: dump_tensors(_plain(adapters.head_parameters())),
    }
    card = {
        "format": FORMAT,
        "method": describe_method(adapters.method),
        "seed": adapters.seed,
        "random_structure": adapters.digest,
        "backbone": dict(backbone or {"source": "", "fingerprint": adapters.fingerprint}),
        "parameters": {"adapter": report.adapter, "head": report.head, "backbone": report.backbone},
        "sites": {
            name: [a.site.out_features, a.site.in_features] for name, a in adapters.adapters.items()
        },
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in tensors.items()},
        "rlora": version("rlora"),
        **(extra or {}),
    }
    manifest = (json.dumps(card, indent=2) + "\n").encode()
    with write_folder_atomically(Path(directory)) as folder:
        for name, content in {**tensors, **(beside or {}), MANIFEST: manifest}.items():
            (folder / name).write_bytes(content)
    return len(tensors[ADAPTER_FILE])


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the card of an adapter directory.

    Raises:
        ValueError: not an adapter directory, or of another format.
    """
    try:
        card = json.loads((directory / MANIFEST).read_text())
    except FileNotFoundError:
        raise ValueError(f"{directory} is not an adapter directory: it has no {MANIFEST}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{directory / MANIFEST} cannot be read: {error}") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ValueError(
            f"{directory / MANIFEST} is not of format {FORMAT}, the one this version reads"
        )
    if wrong := [
        key for key in ("method", "backbone", "sha256") if not isinstance(card.get(key), dict)
    ]:
        raise ValueError(
            f"{directory / MANIFEST} is damaged: {', '.join(wrong)} should be a mapping"
        )
    return card


def load(
    adapters: AdapterSet,
    directory: Path | str,
    *,
    fingerprint: str | None = None,
    head: bool = True,
) -> None:
    """Fill an injected model from an adapter directory; on any refusal the model is left as it was.

    Args:
        adapters: The same method, options and seed, injected into the same backbone.
        directory: As `save` wrote it.
        fingerprint: Of the backbone at hand; None: what `inject` took.
        head: Whether to load the head too.

    Raises:
        ValueError: truncated or foreign file, another backbone, another random structure, other names or shapes.
    """
    directory = Path(directory)
    card = read_manifest(directory)
    mark = adapters.fingerprint if fingerprint is None else fingerprint
    _refuse_foreign(card, adapters.method, adapters.digest, adapters.seed, directory, mark)
    pairs = _matched(directory / ADAPTER_FILE, card["sha256"], adapters.adapter_parameters())
    if head:
        pairs += _matched(directory / HEAD_FILE, card["sha256"], adapters.head_parameters())
    with torch.no_grad():
        for parameter, tensor in pairs:
            parameter.copy_(tensor)


def load_updates(
    updates: Mapping[str, Adapter],
    model: Mapping[str, Tensor],
    method: Method,
    directory: Path,
    *,
    fingerprint: str,
    seed: int,
) -> dict[str, Tensor]:
    """Fill updates that are in no model yet, and give the tensors of the head that trained with them.

    Args:
        updates: By the name of their site.
        model: The model's own parameters by name, for the head's shapes.
        method: What made the updates.
        directory: As `save` wrote it.
        fingerprint: Of the backbone at hand.
        seed: Of the updates' random structure.

    Raises:
        ValueError: as `load`.
    """
    card = read_manifest(directory)
    _refuse_foreign(card, method, structure_digest(updates.values()), seed, directory, fingerprint)
    parameters = {
        f"{site}.{name}": p
        for site, update in updates.items()
        for name, p in update.named_parameters()
    }
    pairs = _matched(directory / ADAPTER_FILE, card["sha256"], parameters)
    content = read_bytes(directory / HEAD_FILE)
    names = parse_tensors(content, directory / HEAD_FILE)
    head = {
        name: torch.empty_like(model[name], device="cpu", dtype=torch.float32)
        for name in names
        if name in model
    }
    pairs += _matched(directory / HEAD_FILE, card["sha256"], head)
    with torch.no_grad():
        for parameter, tensor in pairs:
            parameter.copy_(tensor)
    return head


def _refuse_foreign(
    card: Mapping[str, Any],
    method: Method,
    digest: str,
    seed: int,
    directory: Path,
    fingerprint: str,
) -> None:
    trained_on = card["backbone"]
    if trained_on.get("fingerprint") != fingerprint:
        raise ValueError(
            f"{directory} was trained on another backbone ({trained_on.get('source')}, fingerprint "
            f"{str(trained_on.get('fingerprint'))[:12]}; here {fingerprint[:12]}): load that one with model="
        )
    saved, here = dict(card["method"]), weight_options(method)
    other = sorted(
        key for key in (saved.keys() | here.keys()) - FREE if saved.get(key) != here.get(key)
    )
    if other:
        changes = ", ".join(
            f"{key}: saved {saved.get(key)!r}, here {here.get(key)!r}" for key in other
        )
        raise ValueError(
            f"{directory} was trained with other options of its method ({changes}): use the saved ones"
        )
    if card.get("random_structure") != digest:
        raise ValueError(
            f"{directory} has another random structure than the one regenerated here (seed {card.get('seed')} there, "
            f"{seed} here): use its seed and targets"
        )


def _plain(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in parameters.items()
    }


def _matched(
    path: Path, digests: Mapping[str, str], parameters: Mapping[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Pair each parameter with its tensor in the file, all of them or none."""
    content = read_bytes(path)
    tensors = parse_tensors(content, path)
    if hashlib.sha256(content).hexdigest() != digests.get(path.name):
        raise ValueError(
            f"{path} is not the file its {MANIFEST} was written with: save or copy both again"
        )
    if set(tensors) != set(parameters):
        missing, foreign = (
            sorted(set(parameters) - set(tensors)),
            sorted(set(tensors) - set(parameters)),
        )
        raise ValueError(
            f"{path} does not fit: it lacks {missing[:3]} and holds unknown {foreign[:3]}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape:
            raise ValueError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the model needs {tuple(parameters[name].shape)}"
            )
    return [(parameters[name], tensors[name]) for name in sorted(tensors)]
