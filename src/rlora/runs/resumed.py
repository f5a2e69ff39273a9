"""What may change when a run resumes: its end, its machine and its display; all else is refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlora.config.flatten import flatten
from rlora.runs.resume import TRAINING_SECTIONS, SavedRun

# Keys of `trainer` that describe the machine: a resumed run takes them from the present config.
MACHINE_KEYS = {"accelerator", "devices", "num_nodes", "strategy", "default_root_dir"}
# Keys, with all below them, that may change: they affect no step before the checkpoint, and the
# steps after it as docs/concepts.md says.
CHANGEABLE = (
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
    *(f"trainer.{key}" for key in sorted(MACHINE_KEYS)),
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.profiler",
    "task.eval_batch_size",
    "task.num_workers",
    "task.decoding",
    "task.path",  # the data may have moved; its content is compared
    "model.path",  # so may the model; its fingerprint is compared
    "model.gradient_checkpointing",
)
# Groups whose options set keys of many sections.
BUNDLES = ("experiment", "recipe", "hparams", "debug")
ABSENT = object()


def check_overrides(
    config: Mapping[str, Any],
    choices: Mapping[str, str],
    saved: SavedRun,
    overrides: Sequence[str],
) -> None:
    """Check that a resumed run can honor every argument of the command line.

    Equal values are allowed, and so is a group whose option the saved run names: the keys that the
    saved run changed in it stay changed.

    Args:
        config: Composed, plain and resolved.
        choices: Group to option, as composed.
        saved: The run to resume.
        overrides: The `key=value` arguments of the command line.

    Raises:
        ValueError: An argument would change what the run was trained with.
    """
    for override in overrides:
        name, _, _ = override.lstrip("+~").partition("=")
        section, *path = name.partition("@")[0].split(".")
        change = None
        if section in BUNDLES and not path:
            old = saved.config.get("choices", {}).get(section)
            if choices.get(section) != old:
                change = f"{section}={old or 'null'}"
        elif section in TRAINING_SECTIONS and section in saved.config:
            if not path and isinstance(saved.config[section], dict):
                change = _changed_group(section, override, config, choices, saved)
            else:
                change = _changed_key([section, *path], override, config, saved)
        if change is not None:
            raise ValueError(
                f"{override} is invalid with ckpt_path={saved.path}: a resumed run keeps its "
                f"options, here {change}; it may change trainer.max_epochs, max_steps and "
                "max_time, the machine, evaluation and display (docs/concepts.md); to start a new "
                f"run from its adapter, set ckpt_path={saved.folder / 'adapter'}"
            )


def _changed_key(
    path: Sequence[str], override: str, config: Mapping[str, Any], saved: SavedRun
) -> str | None:
    """Return the saved value that an argument would change, as `key=value`."""
    key = ".".join(path)
    old = _at(saved.config, path)
    new = ABSENT if override.startswith("~") else _at(config, path)
    return None if _equal(old, new) or _may_change(key) else _shown(key, old)


def _changed_group(
    section: str,
    override: str,
    config: Mapping[str, Any],
    choices: Mapping[str, str],
    saved: SavedRun,
) -> str | None:
    """Return the first saved value that another option of a group would change."""
    option = saved.config["choices"].get(section)
    if override.startswith("~") or "{" in override:
        return f"{section}={option}"
    if choices.get(section) == option:
        return None
    old, new = flatten(saved.config[section]), flatten(config.get(section) or {})
    for key in dict.fromkeys([*old, *new]):
        values = (old.get(key, ABSENT), new.get(key, ABSENT))
        if not _equal(*values) and not _may_change(f"{section}.{key}"):
            return _shown(f"{section}.{key}", values[0])
    return None


def _at(tree: Any, path: Sequence[str]) -> Any:
    for part in path:
        if not isinstance(tree, Mapping) or part not in tree:
            return ABSENT
        tree = tree[part]
    return tree


def _equal(old: Any, new: Any) -> bool:
    """Return whether two values are the same; a key without a value equals null."""
    if isinstance(old, str) and isinstance(new, str):  # a run saves its paths as absolute ones
        return old == new or Path(old) == Path(new).expanduser().absolute()
    return (None if old is ABSENT else old) == (None if new is ABSENT else new)


def _may_change(key: str) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in CHANGEABLE)


def _shown(key: str, value: Any) -> str:
    return f"{key}={'null' if value is None or value is ABSENT else value}"
