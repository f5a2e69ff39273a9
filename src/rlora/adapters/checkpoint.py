"""An adapter on disk: safetensors files and a readable manifest.

What the seed regenerates is not saved; the manifest holds its digest.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from rlora.adapters.adapter_set import AdapterSet
from rlora.adapters.base import Adapter
from rlora.adapters.declared import derived_tensors
from rlora.adapters.method import Method
from rlora.adapters.structure import roots_of, structure_digest, trained_tensors
from rlora.io.atomic import write_folder_atomically
from rlora.io.safetensors import parse_tensors, read_bytes, read_tensors
from rlora.ops.fingerprint import fingerprint_if_known

FORMAT = 2
MANIFEST = "adapter.json"
ADAPTER_FILE, HEAD_FILE = "adapter.safetensors", "head.safetensors"
OTHER_HEAD = "; the head belongs to another task or model: use the one it was trained with"


def describe_method(method: Method) -> dict[str, Any]:
    """Return a method's name and options as plain values."""
    options: dict[str, Any] = asdict(method) if is_dataclass(method) else {}
    return {"name": type(method).__name__, **options}


def free_options(method: Method) -> set[str]:
    """Return the options that do not change what saved tensors mean, as their fields declare."""
    if not is_dataclass(method):
        return set()
    return {f.name for f in fields(method) if not f.metadata.get("affects_weights", True)}


def weight_options(method: Method) -> dict[str, Any]:
    """Return the options that saved tensors depend on, in the form that json gives back."""
    described: dict[str, Any] = json.loads(json.dumps(describe_method(method)))
    return {key: value for key, value in described.items() if key not in free_options(method)}


def save(
    adapters: AdapterSet,
    directory: Path | str,
    *,
    backbone: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
    other_files: Mapping[str, bytes] | None = None,
) -> int:
    """Write an adapter directory, whole or not at all; an older one is replaced.

    Trained and derived tensors are written in float32, adapter and head in a file each.

    Args:
        adapters: What to save.
        directory: The directory to write.
        backbone: "source" and "fingerprint" of the backbone it was trained on; by default those of
            `adapters`.
        extra: Further plain values for the manifest, such as the config.
        other_files: Further files by name, such as a regularizer's state.

    Returns:
        Size of the adapter's tensor file in bytes, without the head's.
    """
    report = adapters.report()
    derived = adapters.derived_tensors()
    tensors = {
        ADAPTER_FILE: dump_tensors(_to_float32(adapters.saved_tensors())),
        HEAD_FILE: dump_tensors(_to_float32(adapters.head_parameters())),
    }
    manifest = {
        "format": FORMAT,
        "method": describe_method(adapters.method),
        "seed": adapters.seed,
        "random_structure": adapters.digest,
        "backbone": dict(backbone or {"source": "", "fingerprint": adapters.fingerprint}),
        "parameters": {"adapter": report.adapter, "head": report.head, "backbone": report.backbone},
        "derived": {name: list(tensor.shape) for name, tensor in derived.items()},
        "sites": {
            name: [a.site.out_features, a.site.in_features] for name, a in adapters.adapters.items()
        },
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in tensors.items()},
        "rlora": version("rlora"),
        **(extra or {}),
    }
    content = (json.dumps(manifest, indent=2) + "\n").encode()
    with write_folder_atomically(Path(directory)) as folder:
        for name, data in {**tensors, **(other_files or {}), MANIFEST: content}.items():
            (folder / name).write_bytes(data)
    return len(tensors[ADAPTER_FILE])


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest of an adapter directory.

    Raises:
        ValueError: not an adapter directory, or of another format.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{directory} is not an adapter directory: it has no {MANIFEST}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    version_found = manifest.get("format") if isinstance(manifest, dict) else None
    if version_found == 1 and not isinstance(version_found, bool):
        raise ValueError(
            f"{path} has format 1 and was saved by rlora 0.1, which this version cannot load: "
            "train the adapter again, or use it with rlora 0.1"
        )
    if version_found != FORMAT:
        raise ValueError(f"{path} is not of format {FORMAT}, the one that this version reads")
    if wrong := [
        key for key in ("method", "backbone", "sha256") if not isinstance(manifest.get(key), dict)
    ]:
        raise ValueError(f"{path} is damaged: {', '.join(wrong)} must be a mapping")
    return dict(manifest)


def load(
    adapters: AdapterSet,
    directory: Path | str,
    *,
    fingerprint: str | None = None,
    head: bool = True,
) -> None:
    """Fill an injected model from an adapter directory; on any refusal the model is unchanged.

    Args:
        adapters: The same method, options and seed, injected into the same backbone.
        directory: As `save` wrote it.
        fingerprint: Of the backbone in use; None: the one that `inject` computed.
        head: Whether to load the head too.

    Raises:
        ValueError: truncated or damaged file, another backbone, another random structure, other
            names or shapes.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    mark = adapters.fingerprint if fingerprint is None else fingerprint
    if manifest["backbone"].get("fingerprint") != mark:
        _refuse_other_head(directory, adapters.head_parameters())
    _refuse_mismatch(manifest, adapters.method, adapters.digest, adapters.seed, directory, mark)
    pairs = _matched(directory / ADAPTER_FILE, manifest["sha256"], adapters.saved_tensors())
    if head:
        pairs += _matched(directory / HEAD_FILE, manifest["sha256"], adapters.head_parameters())
    _fill(pairs)


def load_updates(
    updates: Mapping[str, Adapter],
    model: nn.Module,
    method: Method,
    directory: Path,
    *,
    fingerprint: str,
    seed: int,
) -> dict[str, Tensor]:
    """Fill updates that are not in a model yet, and return the saved tensors of their head.

    Args:
        updates: By the name of their site.
        model: The model, unchanged and without wrappers.
        method: What built the updates.
        directory: As `save` wrote it.
        fingerprint: Of the backbone in use, without the head that it is used with by default.
        seed: Of the updates' random structure.

    Raises:
        ValueError: see `load`.
    """
    manifest = read_manifest(directory)
    names = list(read_tensors(directory / HEAD_FILE))
    if manifest["backbone"].get("fingerprint") != fingerprint:
        # a fingerprint leaves the head out, and this adapter may have another one
        fingerprint = fingerprint_if_known(model, names) or fingerprint
    _refuse_mismatch(manifest, method, structure_digest(updates), seed, directory, fingerprint)
    tensors = {**trained_tensors(updates, None), **derived_tensors(roots_of(updates, None))}
    pairs = _matched(directory / ADAPTER_FILE, manifest["sha256"], tensors)
    parameters = dict(model.named_parameters())
    head = {
        name: torch.empty_like(parameters[name], device="cpu", dtype=torch.float32)
        for name in names
        if name in parameters
    }
    _fill(pairs + _matched(directory / HEAD_FILE, manifest["sha256"], head))
    return head


def _refuse_mismatch(
    manifest: Mapping[str, Any],
    method: Method,
    digest: str,
    seed: int,
    directory: Path,
    fingerprint: str,
) -> None:
    """Refuse a manifest of another backbone, other options or another random structure.

    Raises:
        ValueError: the first of these that differs.
    """
    trained_on = manifest["backbone"]
    if trained_on.get("fingerprint") != fingerprint:
        raise ValueError(
            f"{directory} was trained on another backbone ({trained_on.get('source')}, fingerprint "
            f"{str(trained_on.get('fingerprint'))[:12]}, not {fingerprint[:12]}): load that one "
            "with model="
        )
    saved, current = dict(manifest["method"]), weight_options(method)
    keys = (saved.keys() | current.keys()) - free_options(method)
    if differing := sorted(key for key in keys if saved.get(key) != current.get(key)):
        changes = ", ".join(
            f"{key}: saved {saved.get(key)!r}, now {current.get(key)!r}" for key in differing
        )
        raise ValueError(
            f"{directory} was trained with other options of its method ({changes}): use the saved "
            "ones"
        )
    if manifest.get("random_structure") != digest:
        raise ValueError(
            f"{directory} has another random structure than the one regenerated (seed "
            f"{manifest.get('seed')} saved, {seed} now): use its seed and targets"
        )


def _refuse_other_head(directory: Path, head: Mapping[str, Tensor]) -> None:
    """Refuse an adapter whose head has other parameters, which its fingerprint leaves out.

    Raises:
        ValueError: it does.
    """
    saved = sorted(read_tensors(directory / HEAD_FILE))
    if saved != sorted(head):
        raise ValueError(
            f"{directory} was trained with another head ({', '.join(saved) or 'none'}; here "
            f"{', '.join(sorted(head)) or 'none'}), or on another backbone: use the same head and "
            "backbone"
        )


def _to_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in tensors.items()
    }


def _fill(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Copy saved tensors into the model's; called once all of them are known to fit."""
    with torch.no_grad():
        for target, tensor in pairs:
            target.copy_(tensor)


def _matched(
    path: Path, digests: Mapping[str, str], targets: Mapping[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Pair each tensor of the model with its tensor in the file, all of them or none.

    Raises:
        ValueError: the file is damaged, or not the one that the manifest describes, or does not fit
            the model.
    """
    content = read_bytes(path)
    tensors = parse_tensors(content, path)
    if hashlib.sha256(content).hexdigest() != digests.get(path.name):
        raise ValueError(
            f"{path} is not the file its {MANIFEST} was written with: save or copy both again"
        )
    if set(tensors) != set(targets):
        missing, unknown = sorted(set(targets) - set(tensors)), sorted(set(tensors) - set(targets))
        raise ValueError(
            f"{path} does not fit: it lacks {missing[:3]} and has unknown {unknown[:3]}"
            f"{OTHER_HEAD if path.name == HEAD_FILE else ''}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != targets[name].shape:
            raise ValueError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the model needs "
                f"{tuple(targets[name].shape)}{OTHER_HEAD if path.name == HEAD_FILE else ''}"
            )
    return [(targets[name], tensors[name]) for name in sorted(tensors)]
