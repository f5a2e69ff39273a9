"""Composition of train.yaml for tests, with Hydra run once per set of group choices.

Hydra takes about 0.2 s to compose the groups and 1 ms to apply the values of the command line. The
tests compose thousands of configs from a few hundred sets of group choices. So each set is composed
once, without values, and cached as a pickle. Hydra's own function then applies the values, which is
the last step of its composition. tests/conf/test_composition.py compares the two.
"""

import functools
import pickle
from pathlib import Path
from types import SimpleNamespace

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from rlora.runs import folder_names

folder_names.register()
CONF = Path(__file__).resolve().parents[1] / "conf"


@functools.lru_cache(maxsize=4096)
def parsed(override):
    """Return Hydra's reading of one override; parsing is slow and most overrides repeat."""
    (result,) = OverridesParser.create().parse_overrides([override])
    return result


@functools.lru_cache(maxsize=1024)
def chooses_group(override):
    """Return whether an override may change which files are composed."""
    key = parsed(override).key_or_group
    hydra = key == "hydra" or key.startswith(("hydra.", "hydra/"))
    return hydra or (CONF / key).is_dir() or parsed(override).is_sweep_override()


@functools.lru_cache(maxsize=1024)
def composed(overrides):
    """Compose with Hydra; return the pickled config without its `hydra` node, and that node."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        # ~local: a developer's own conf/local must not change the tests
        config = hydra_compose("train", overrides=[*overrides, "~local"], return_hydra_config=True)
    node = OmegaConf.masked_copy(config, "hydra")
    with open_dict(config):
        config.pop("hydra")
    return pickle.dumps(config), node


def resolved(config, node):
    """Return the config as plain values; `node` serves the interpolations `${hydra:...}`."""
    hydra = HydraConfig.instance()
    hydra.cfg = node
    try:
        return OmegaConf.to_container(config, resolve=True)
    finally:
        hydra.cfg = None


def choices_of(node):
    """Return the option chosen of every group."""
    chosen = node.hydra.runtime.choices.items()
    return {
        str(group): str(option)
        for group, option in chosen
        if option is not None and not group.startswith("hydra/")
    }


def compose(*overrides, folder="unused"):
    """Compose train.yaml as the command line does.

    Args:
        *overrides: Hydra overrides, in the syntax of the command line.
        folder: Run folder, which Hydra would choose.
    """
    groups = tuple(override for override in overrides if chooses_group(override))
    values = [parsed(override) for override in overrides if override not in groups]
    pickled, node = composed(groups)
    config = pickle.loads(pickled)
    run_folder = parsed(f"paths.run='{folder}'")
    ConfigLoaderImpl._apply_overrides_to_config([run_folder, *values], config)
    return SimpleNamespace(config=resolved(config, node), choices=choices_of(node))
