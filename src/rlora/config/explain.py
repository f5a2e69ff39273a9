"""Errors of the command line in one sentence, with the names that the chosen options have."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import (
    CompactHydraException,
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlora.config.build import constructor_options
from rlora.config.flatten import flatten

SEARCH_PATH = "hydra.searchpath"
CONFIG_DIR = ("--config-dir", "-cd")


@dataclass(frozen=True)
class Composition:
    """What the group options of a command line compose, without its single keys.

    Args:
        config: Plain, not resolved.
        choices: Group to option.
        swept: Groups with several options.
        folders: Folders of config files.
    """

    config: dict[str, Any]
    choices: dict[str, str] = field(default_factory=dict)
    swept: frozenset[str] = frozenset()
    folders: tuple[Path, ...] = ()

    @property
    def keys(self) -> list[str]:
        """All dotted keys that a user may set."""
        return [key for key in flatten(self.config) if not key.endswith("_target_")]


def is_config_error(error: BaseException) -> bool:
    """Return whether Hydra or OmegaConf raised an error."""
    return isinstance(error, CompactHydraException | OmegaConfBaseException)


def without_null_groups(arguments: Sequence[str], conf: Path) -> list[str]:
    """Return arguments with `~group` for `group=null` and `group=None`, if null is its default.

    Hydra takes no null for a group. W&B's agents write null as None.
    """
    entries = yaml.safe_load((conf / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    empty = {
        group
        for entry in entries
        if isinstance(entry, dict)
        for group, option in entry.items()
        if option is None
    }
    return [
        f"~{group}" if group in empty and option.lower() in ("null", "none") else argument
        for argument in arguments
        for group, _, option in [argument.partition("=")]
    ]


def register_help() -> None:
    """Register the resolver `${group_options:}`, with which the help lists the groups."""
    OmegaConf.register_new_resolver("group_options", _group_options, replace=True)


def _group_options(*, _root_: DictConfig) -> str:
    """Return one line per group with its options; Hydra's own list has the shared files too."""
    options: dict[str, set[str]] = {}
    for source in _root_.hydra.runtime.config_sources:
        folder = Path(source.path)
        for file in folder.glob("*/**/*.yaml") if source.schema == "file" else ():
            options.setdefault(str(file.parent.relative_to(folder)), set()).add(file.stem)
    return "\n".join(
        f"{group}: {', '.join(sorted(_public(names)))}"
        for group, names in sorted(options.items())
        if group.partition("/")[0] != "hydra"
    )


def compose_groups(arguments: Sequence[str], conf: Path) -> Composition:
    """Compose the group options of a command line; of several options of a group, the first.

    Options that do not compose are left out, as they may be the error.

    Args:
        arguments: The command line, with flags.
        conf: Folder of train.yaml.
    """
    overrides = _parsed(arguments)
    folders = (conf, *_extra_folders(arguments, overrides))
    groups, swept = {}, set()
    for override in overrides:
        group = override.key_or_group
        if override.is_delete() or not any((folder / group).is_dir() for folder in folders):
            continue
        options = [str(override.value())]
        if override.is_choice_sweep():
            swept.add(group)
            options = list(override.sweep_string_iterator())
        if any((folder / group / f"{options[0]}.yaml").is_file() for folder in folders):
            groups[group] = options[0]
    path = ",".join(f"'file://{folder.absolute()}'" for folder in folders[1:])
    chosen = [f"{SEARCH_PATH}=[{path}]", *(f"{g}={o}" for g, o in groups.items())]
    with initialize_config_dir(str(conf), version_base="1.3"):
        try:
            config = compose("train", chosen, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException):  # the options do not fit each other
            config = compose("train", return_hydra_config=True)
    choices = {g: str(o) for g, o in config.hydra.runtime.choices.items() if o is not None}
    # an experiment may sweep groups too
    swept |= {key for key in config.hydra.sweeper.get("params") or {} if (conf / key).is_dir()}
    plain: Any = OmegaConf.to_container(config, resolve=False)
    plain.pop("hydra")
    return Composition(plain, choices, frozenset(swept), folders)


def _parsed(arguments: Sequence[str]) -> list[Override]:
    parser, parsed = OverridesParser.create(), list[Override]()
    for argument in arguments:
        try:
            parsed += parser.parse_overrides([argument])
        except HydraException:  # a flag, or the error
            continue
    return parsed


def _extra_folders(arguments: Sequence[str], overrides: Sequence[Override]) -> list[Path]:
    """Return the folders that --config-dir and hydra.searchpath add."""
    folders = [
        given or following
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=True)
        for flag, _, given in [argument.partition("=")]
        if flag in CONFIG_DIR
    ]
    for override in overrides:
        value = override.value()
        if override.key_or_group == SEARCH_PATH and isinstance(value, list):
            folders += [str(each).removeprefix("file://") for each in value]
    return [Path(folder) for folder in folders if Path(folder).is_dir()]


def explain_config_error(error: Exception, composition: Composition) -> str:
    """Return one sentence for an error of the config system, with the closest valid names.

    Args:
        error: An error of Hydra or OmegaConf.
        composition: What the groups of the command line compose.
    """
    text = " ".join(str(error).split())
    if (
        isinstance(error, MissingConfigException)
        and error.options is not None
        and error.missing_cfg_file
    ):
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name} is unknown: {_suggest(name, _public(error.options))}"
    match = re.search(r"Could not override '([^']+)'", text)
    if match and isinstance(error, ConfigCompositionException):
        return _explain_key(match[1], composition)
    if isinstance(error, OverrideParseException):
        return f"{text}: quote values with special characters, as in 'key=\"a b\"'"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return f"{text}: {' '.join(str(error.__cause__).split())}"
    return text


def _public(options: Iterable[str]) -> list[str]:
    """Return options without the files that others share, whose names start with `_`."""
    return [option for option in options if not option.startswith("_")]


def _explain_key(key: str, composition: Composition) -> str:
    """Return one sentence on a key that the composed config lacks."""
    section, _, name = key.partition(".")
    elsewhere = _other_options(section, name, composition)
    if elsewhere and section in composition.swept:
        return (
            f"{key} is not a key of every {section} of this sweep: with {section}=a,b only keys "
            f"that all of them have can be set; set {key} in its YAML file or recipe, or run that "
            f"{section} separately"
        )
    node = composition.config.get(section)
    if section not in composition.choices or not isinstance(node, dict):
        close = _suggest(key, composition.keys)
        return f"{key} is not a key of the config: {close} (+{key}=... adds a new one)"
    chosen = f"{section}={composition.choices[section]}"
    options, open_ended = _constructor(node)
    if name in options or (open_ended and not elsewhere):
        return f"{key} is not set by {chosen}: add it as +{key}=..."
    if elsewhere:
        own = [option for option in node if not option.startswith("_")]
        has = f"its options are {', '.join(own)}" if own else "it has no options"
        return f"{key} is not a key of {chosen}: {has}"
    new = f" (+{key}=... adds a new one)" if "." in name or not options else ""
    return f"{key} is not a key of {chosen}: {_suggest(key, composition.keys)}{new}"


def _constructor(node: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the options of a node's constructor, as `constructor_options` does; none without."""
    if "_target_" not in node:
        return {}, False
    try:
        return constructor_options(get_object(node["_target_"]))
    except (ImportError, ValueError):  # an optional package is missing, or no signature is known
        return {}, False


def _other_options(group: str, name: str, composition: Composition) -> list[str]:
    """Return the options of a group whose files have a key."""
    found = []
    files = [file for folder in composition.folders for file in (folder / group).glob("*.yaml")]
    for file in sorted(files) if name else []:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        # files with the header `@package _global_` name their group
        flat = flatten(content) | flatten(content.get(group) or {})
        if any(key == name or key.startswith(f"{name}.") for key in flat):
            found.append(file.stem)
    return found


def _suggest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    last = name.rpartition(".")[2]
    close += [key for key in known if key.rpartition(".")[2] == last and key not in close][:3]
    if close:
        *others, final = close
        names = f"{', '.join(others)} or {final}" if others else final
        return f"did you mean {names}?"
    return f"choose one of {', '.join(sorted(known)[:40])}"
