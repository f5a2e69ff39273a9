"""Objects from config nodes, the config on the console, and config errors in one sentence."""

import difflib
import inspect
import re
from pathlib import Path
from typing import Any, Unpack, get_args, get_origin, get_type_hints

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
    """Build the object that a config node names by `_target_`; nothing else instantiates.

    Args:
        node: A mapping with `_target_`. Nested nodes are built too, and containers become plain.
        *args: Positional arguments that are known only at run time.
        **runtime: Keyword arguments of the same sort, such as the number of labels.

    Raises:
        ValueError: the constructor does not take the node's options, or lacks one.
    """
    target = get_object(node["_target_"])
    options, open_ended = constructor_options(target)
    unknown = [key for key in node if not str(key).startswith("_") and key not in options]
    if unknown and not open_ended:
        allowed = ", ".join(name for name in options if name not in runtime)
        raise ValueError(
            f"{node['_target_']} has no option {', '.join(map(str, unknown))}: it takes {allowed}"
        )
    # Runtime objects go through a partial, as instantiate would rewrite them.
    factory = instantiate(node, _partial_=True, _convert_="all")
    try:
        inspect.signature(factory).bind(*args, **runtime)
    except TypeError as error:
        raise ValueError(f"{node['_target_']} lacks an option: {error}") from None
    return factory(*args, **runtime)


def constructor_options(target: Any) -> tuple[list[str], bool]:
    """Return the names of a constructor's parameters, and whether it takes any other keyword too.

    `**options: Unpack[SomeTypedDict]` counts as the keys of that class, so that the signature
    remains the schema where several constructors share options.
    """
    names, open_ended = list[str](), False
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind == parameter.VAR_POSITIONAL:
            continue
        if parameter.kind != parameter.VAR_KEYWORD:
            names.append(name)
        elif get_origin(parameter.annotation) is Unpack:
            names += get_type_hints(get_args(parameter.annotation)[0])
        else:
            open_ended = True
    return names, open_ended


def to_plain(config: Any) -> Any:
    """Return a config as plain dicts, lists and values, resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def print_config(config: dict[str, Any], console: Console, choices: dict[str, str]) -> None:
    """Print the composed config as a tree, with the chosen option of each group."""
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
    """Return one sentence for an error of the config system, with the closest valid names.

    Args:
        error: An error of Hydra or OmegaConf.
        keys: All keys of the config.
        swept: Config groups for which the command line gives several options.
    """
    text = " ".join(str(error).split())
    if (
        isinstance(error, MissingConfigException)
        and error.options is not None
        and error.missing_cfg_file
    ):
        group, _, name = error.missing_cfg_file.partition("/")
        return f"{group}={name} is unknown: {_suggest(name, list(error.options))}"
    match = re.search(r"Could not override '([^']+)'", text)
    key = match[1] if match else ""
    if key and (group := key.partition(".")[0]) in swept:
        return (
            f"{key} is not a key of every {group} of this sweep: with {group}=a,b only keys that "
            f"all of them have can be set; set {key} in its YAML file or recipe, or run that "
            f"{group} separately"
        )
    if key and isinstance(error, ConfigCompositionException):
        return (
            f"{key} is not a key of the config: {_suggest(key, keys)} (+{key}=... adds a new one)"
        )
    if isinstance(error, OverrideParseException):
        return f"{text}: quote values with special characters, as in 'key=\"a b\"'"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return f"{text}: {' '.join(str(error.__cause__).split())}"
    return text


def is_config_error(error: BaseException) -> bool:
    """Return whether Hydra or OmegaConf raised an error."""
    return isinstance(error, CompactHydraException | OmegaConfBaseException)


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    last = name.rpartition(".")[2]
    close += [key for key in known if key.rpartition(".")[2] == last and key not in close][:3]
    if close:
        *others, final = close
        names = f"{', '.join(others)} or {final}" if others else final
        return f"did you mean {names}?"
    return f"choose one of {', '.join(sorted(known)[:40])}"


def config_keys(config: DictConfig) -> list[str]:
    """Return all dotted keys of a config."""
    return list(flatten(OmegaConf.to_container(config, resolve=False)))


def hydra_job() -> Job:
    """Return the job that Hydra is running."""
    hydra = HydraConfig.get()
    choices = {
        str(group): str(option)
        for group, option in hydra.runtime.choices.items()
        if option is not None and not str(group).startswith("hydra/")
    }
    multirun = hydra.mode == RunMode.MULTIRUN
    return Job(Path(hydra.runtime.output_dir), choices, list(hydra.overrides.task), multirun)
