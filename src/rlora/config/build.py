"""Configs: building objects from them, showing them, flattening them, and saying what is wrong with them."""

import difflib
import inspect
import re
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    CompactHydraException,
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.tree import Tree

from rlora.config.flatten import flatten
from rlora.config.job import Job


def build(node: Any, *args: Any, **runtime: Any) -> Any:
    """Build the object a config node names by `_target_`: the one place that instantiates.

    Runtime objects go straight to the constructor, untouched by the config system.

    Args:
        node: A mapping with `_target_`; nested ones are built too and containers become plain.
        *args: Positional runtime arguments.
        **runtime: Facts known only at run time, such as the number of labels.

    Raises:
        ValueError: the constructor does not take the node's options.
    """
    parameters = inspect.signature(get_object(node["_target_"])).parameters
    takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [key for key in node if not str(key).startswith("_") and key not in parameters]
    if unknown and not takes_any:
        allowed = ", ".join(name for name in parameters if name not in runtime)
        raise ValueError(
            f"{node['_target_']} has no option {', '.join(map(str, unknown))}: it takes {allowed}"
        )
    factory = instantiate(node, _partial_=True, _convert_="all")
    try:
        inspect.signature(factory).bind(*args, **runtime)
    except TypeError as error:
        raise ValueError(f"{node['_target_']} lacks an option: {error}") from None
    return factory(*args, **runtime)


def to_plain(config: Any) -> Any:
    """A config as plain dicts, lists and values, resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def print_config(config: dict[str, Any], console: Console, choices: dict[str, str]) -> None:
    """Print the composed config as a tree, each group with the option chosen."""
    tree = Tree("[bold]config")
    for key, value in config.items():
        title = f"[bold]{key}[/] = {choices[key]}" if key in choices else f"[bold]{key}[/]"
        if isinstance(value, dict) and value:
            branch = tree.add(title)
            for name, leaf in flatten(value).items():
                branch.add(f"{name}: {leaf}")
        else:
            tree.add(f"{title}: {value}")
    console.print(tree)


def explain_config_error(error: Exception, keys: list[str], swept: set[str]) -> str:
    """One sentence for an error of the config system, with the nearest valid names.

    Args:
        error: What Hydra or OmegaConf raised.
        keys: All keys of the config, for suggestions.
        swept: The groups that the command line sweeps over several options.
    """
    text = " ".join(str(error).split())
    if (
        isinstance(error, MissingConfigException)
        and error.options is not None
        and error.missing_cfg_file
    ):
        group, _, name = error.missing_cfg_file.partition("/")
        return f"{group}={name} is unknown: {_nearest(name, list(error.options))}"
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown and unknown[1].partition(".")[0] in swept:
        group = unknown[1].partition(".")[0]
        return (
            f"{unknown[1]} is not a key of every {group} swept here: only keys that all of them have can be set beside "
            f"{group}=a,b; set this one in its own YAML or recipe, or sweep that {group} alone"
        )
    if unknown and isinstance(error, ConfigCompositionException):
        hint = f"{_nearest(unknown[1], keys)} (+{unknown[1]}=... adds a new one)"
        return f"{unknown[1]} is not a key of the config: {hint}"
    if isinstance(error, OverrideParseException):
        return f"{text}: quote words that hold special characters, as in 'key=\"a b\"'"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return f"{text}: {' '.join(str(error.__cause__).split())}"
    return text


def is_config_error(error: BaseException) -> bool:
    """Whether the config system raised it."""
    return isinstance(error, CompactHydraException | OmegaConfBaseException)


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    last = word.rpartition(".")[2]
    close += [key for key in known if key.rpartition(".")[2] == last and key not in close][:3]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"choose one of {', '.join(sorted(known)[:40])}"


def config_keys(config: DictConfig) -> list[str]:
    """All dotted keys of a config."""
    return list(flatten(OmegaConf.to_container(config, resolve=False)))


def hydra_job() -> Job:
    """The job Hydra is running now."""
    hydra = HydraConfig.get()
    choices = {
        str(group): str(option)
        for group, option in hydra.runtime.choices.items()
        if option is not None
    }
    choices = {group: option for group, option in choices.items() if not group.startswith("hydra/")}
    multirun = hydra.mode == RunMode.MULTIRUN
    return Job(Path(hydra.runtime.output_dir), choices, list(hydra.overrides.task), multirun)
