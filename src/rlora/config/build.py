"""Plain values and objects from config nodes, and the config on the console."""

import inspect
import types
from pathlib import Path
from typing import Any, Union, Unpack, get_args, get_origin, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from rich.console import Console
from rich.tree import Tree

from rlora.config.flatten import flatten
from rlora.config.job import Job

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def build(node: Any, *args: Any, **runtime: Any) -> Any:
    """Build the object that a config node names by `_target_`; nothing else instantiates.

    Args:
        node: A mapping with `_target_`. Nested nodes are built too, and containers become plain.
        *args: Positional arguments that are known only at run time.
        **runtime: Keyword arguments of the same sort, such as the number of labels.

    Raises:
        ValueError: the constructor does not take the node's options, or lacks one.
    """
    target = _target(node["_target_"])
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


def _target(name: str) -> Any:
    """Return the class or function at a dotted name.

    Raises:
        ValueError: It cannot be imported.
    """
    try:
        return get_object(name)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(
            f"_target_={name} is invalid: expected a class or function that can be imported: "
            f"{reason}"
        ) from error


def constructor_options(target: Any) -> tuple[dict[str, Any], bool]:
    """Return a constructor's parameters with their types, and whether it takes other keywords too.

    `**options: Unpack[SomeTypedDict]` counts as the keys of that class, so that the signature
    remains the schema where several constructors share options. A type that is not given, or that
    cannot be read, is `Any`.
    """
    types_of, open_ended = dict[str, Any](), False
    hints = _hints(target.__init__ if inspect.isclass(target) else target)
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind == parameter.VAR_POSITIONAL:
            continue
        if parameter.kind != parameter.VAR_KEYWORD:
            types_of[name] = hints.get(name, Any)
        elif get_origin(parameter.annotation) is Unpack:
            types_of |= get_type_hints(get_args(parameter.annotation)[0])
        else:
            open_ended = True
    return types_of, open_ended


def _hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names that only type checkers import
        return {}


def to_plain(config: Any) -> Any:
    """Return a config as plain dicts, lists and values, resolved, with the word None as null.

    Python and W&B's agents write null as None, which YAML and Hydra read as a text. `None` is null
    wherever the option's type allows null or is unknown. The other spellings, such as `none`, are
    null where the option cannot be a text: `bias=none` is an option of PEFT's.
    """
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=True)
    # the keys of train.yaml itself have no constructor; none of them has a value "none"
    top = {key: int | None for key, value in config.items() if not isinstance(value, dict)}
    return _with_nulls(config, top)


def _with_nulls(node: dict[str, Any], types_of: dict[str, Any]) -> dict[str, Any]:
    """Return a node with nulls; the types of the options of `_target_` are looked up on need."""
    result = dict[str, Any]()
    for key, value in node.items():
        if isinstance(value, dict):
            value = _with_nulls(value, {})
        elif isinstance(value, str) and value.lower() == "none":
            types_of = types_of or _option_types(node)
            value = None if _is_null(value, types_of.get(key, Any)) else value
        result[key] = value
    return result


def _option_types(node: dict[str, Any]) -> dict[str, Any]:
    try:
        return constructor_options(get_object(node["_target_"]))[0]
    except (KeyError, ImportError, ValueError):  # no target, or one that `build` refuses
        return {}


def _is_null(word: str, kind: Any) -> bool:
    if kind is Any:
        return word == "None"
    options = _alternatives(kind)
    allows_text = str in options or any(isinstance(each, str) for each in get_args(kind))
    return type(None) in options and (word == "None" or not allows_text)


def check_types(config: dict[str, Any], prefix: str = "") -> None:
    """Check that options which are numbers or booleans have such values.

    Only constructors of rlora are looked at: others check their arguments themselves.

    Args:
        config: Plain and resolved.
        prefix: Dotted key of the config, with a dot at its end.

    Raises:
        ValueError: a value has another type.
    """
    ours = str(config.get("_target_", "")).startswith("rlora.")
    types_of = _option_types(config) if ours else {}
    for key, value in config.items():
        if isinstance(value, dict):
            check_types(value, f"{prefix}{key}.")
            continue
        options = _alternatives(types_of.get(key, Any))
        if not set(options) <= set(TYPE_NAMES) or any(_fits(value, each) for each in options):
            continue
        allowed = " or ".join(TYPE_NAMES[each] for each in options)
        shown = "null" if value is None else repr(value)
        raise ValueError(f"{prefix}{key}={shown} is invalid: expected {allowed}")


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union; of another type, itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float if kind is float else kind)


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


def hydra_job() -> Job:
    """Return the job that Hydra is running."""
    hydra = HydraConfig.get()
    choices = {
        str(group): str(option)
        for group, option in hydra.runtime.choices.items()
        if option is not None and not str(group).startswith("hydra/")
    }
    multirun = hydra.mode == RunMode.MULTIRUN
    return Job(
        Path(hydra.runtime.output_dir),
        choices,
        list(hydra.overrides.task),
        multirun,
        search=multirun and is_search(hydra.sweeper),
    )


def is_search(sweeper: Any) -> bool:
    """Return whether a sweeper of Hydra is a search, which learns from the scores of its runs."""
    return "n_trials" in (sweeper or {})  # Optuna's
