"""The plan of a run: the config with all changes by `ckpt_path` and a prior, checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlora.config.allowlist import check_targets
from rlora.config.build import build, check_types
from rlora.config.flatten import move_paths
from rlora.config.job import Job, check_job
from rlora.evaluation import prior_run
from rlora.records.identity import Identity
from rlora.records.status import original_path
from rlora.records.study import check_policy
from rlora.regularizers.certificate import CertificateOptions
from rlora.runs.identity import identify
from rlora.runs.resume import EVALUATION_SECTIONS, TRAINING_SECTIONS, SavedRun, find_saved
from rlora.runs.resumed import MACHINE_KEYS, check_overrides


@dataclass(frozen=True)
class RunPlan:
    """What a run does.

    Args:
        config: Plain and resolved, as the run uses it.
        choices: Group to option, as the run is named by it.
        identity: What determines its result. Its config hash is that of the config as composed,
            before `ckpt_path` or a prior changed it.
        certificate: Options of the certificate.
        saved: The saved run that `ckpt_path` names.
    """

    config: dict[str, Any]
    choices: dict[str, str]
    identity: Identity
    certificate: CertificateOptions
    saved: SavedRun | None = None


def resolve(config: dict[str, Any], job: Job) -> RunPlan:
    """Return the plan of a run: the one place that rewrites a composed config.

    The sections that `ckpt_path` restores come first, then the task's part for a learned prior,
    then the checks. Reads the saved run and the bytes of all input files; writes nothing and loads
    no model.

    Args:
        config: Composed, plain and resolved.
        job: Folder, choices and overrides of the run.

    Raises:
        ValueError: `ckpt_path` names no saved run, settings cannot work together, or the task's
            data is missing.
    """
    composed, choices = config, job.choices
    saved = None
    if config["ckpt_path"] is not None:
        saved = find_saved(config["ckpt_path"], resume=config["train"])
        config, choices = restore_sections(
            config,
            job.choices,
            saved,
            job.overrides,
            resume=config["train"] and saved.checkpoint is not None,
        )
    check_types(config)
    config = _with_original_folders(with_start_files(config))
    if config["train"] or config["certify"]:
        config = prior_run.with_part(config)
    check_job(config, job)
    check_policy(config)
    certificate = CertificateOptions(**config["certificate"])  # before a prior is learned for it
    identity = identify(composed, config, saved, str(job.directory))
    return RunPlan(config, choices, identity, certificate, saved)


def with_start_files(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config that needs neither the start directory's config nor the present folder.

    Raises:
        ValueError: the adapter's start directory cannot be read.
    """
    adapter, model = config["adapter"], config["model"]
    if adapter.get("path") is not None:
        adapter = {**adapter, **build(adapter).portable_options()}
    folder = Path(model.get("path") or "").expanduser()
    if model.get("path") and folder.is_dir():  # else it is the id of a model on the hub
        model = {**model, "path": str(folder.absolute())}
    return {**config, "adapter": adapter, "model": model}


def _with_original_folders(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with a run's folder wherever an option names the folder of a skipped run.

    Raises:
        ValueError: The run itself is gone.
    """
    result = dict(config)
    for section, name in (("regularizer", "prior"), ("certificate", "baseline")):
        value = (config.get(section) or {}).get(name)
        if not isinstance(value, str):
            continue
        path = Path(value).expanduser()
        original = original_path(path, f"{section}.{name}")
        if original != path:
            result[section] = {**config[section], name: str(original)}
    return result


def restore_sections(
    config: dict[str, Any],
    choices: dict[str, str],
    saved: SavedRun,
    overrides: Sequence[str],
    *,
    resume: bool,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the config with the saved run's sections, changed by the command line.

    For an evaluation, a group on the command line (`task=rte`) is taken as composed, and a single
    key (`task.batch_size=8`) changes the saved section. A resumed run accepts only what
    `check_overrides` allows, and restores its callbacks too. Everything else in these sections is
    as it was saved. The arguments are left unchanged.

    Args:
        config: Composed, plain and resolved.
        choices: Group to option, as composed.
        saved: What `ckpt_path` names.
        overrides: The `key=value` arguments of the command line.
        resume: Whether training resumes, which restores its settings too.

    Returns:
        The config and the choices.

    Raises:
        ValueError: An argument would change what the run to resume was trained with.
    """
    keys = {override.lstrip("+~").partition("=")[0] for override in overrides}
    if resume:
        check_overrides(config, choices, saved, overrides)
        saved = _with_moved_callbacks(saved, config)
        keys -= set(TRAINING_SECTIONS)  # the check found the saved options in them
    merged, named = dict(config), dict(choices)
    for section in (*TRAINING_SECTIONS, "callbacks") if resume else EVALUATION_SECTIONS:
        if section not in saved.config or section in keys:
            continue
        merged[section] = _restored(section, config, saved.config[section], overrides)
        if section in saved.config.get("choices", {}):
            named[section] = saved.config["choices"][section]
    return merged, named


def _with_moved_callbacks(saved: SavedRun, config: dict[str, Any]) -> SavedRun:
    """Return a saved run whose callbacks write to the folder of the resumed run.

    Raises:
        ValueError: A callback is none of this project.
    """
    if not saved.config.get("callbacks"):
        return saved
    folders = (saved.config["paths"]["run"], config["paths"]["run"])
    callbacks = move_paths(saved.config["callbacks"], *map(str, folders))
    check_targets(callbacks, str(saved.path))
    return replace(saved, config={**saved.config, "callbacks": callbacks})


def _restored(section: str, config: dict[str, Any], saved: Any, overrides: Sequence[str]) -> Any:
    """Return one saved section, changed by the keys that the command line sets or removes (`~`)."""
    if not isinstance(saved, dict):
        return saved
    result = dict(saved)
    if section == "trainer":
        result = {key: value for key, value in result.items() if key not in MACHINE_KEYS}
        result |= {key: value for key, value in config[section].items() if key in MACHINE_KEYS}
    for override in overrides:
        head, *path = override.lstrip("+~").partition("=")[0].split(".")
        if head != section or not path:
            continue
        if override.startswith("~"):
            _remove(result, path)
        else:
            _set(result, path, _get(config[section], path))
    return result


def _get(tree: Any, path: Sequence[str]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _remove(tree: dict[str, Any], path: Sequence[str]) -> None:
    """Remove a nested value where there is one; the saved config is left unchanged."""
    for part in path[:-1]:
        if not isinstance(tree.get(part), dict):
            return
        tree[part] = dict(tree[part])
        tree = tree[part]
    tree.pop(path[-1], None)


def _set(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a nested value; copy the dicts on the way, so that the saved config is unchanged."""
    for part in path[:-1]:
        tree[part] = dict(tree.get(part) or {})
        tree = tree[part]
    tree[path[-1]] = value
