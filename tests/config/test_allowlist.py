"""Saved configs: the format first, then what they may build."""

import pytest

from rlora.config.allowlist import check_saved_config, saved_config

LORA = {"_target_": "rlora.adapters.lora.LoRA", "rank": 4}


def check(config):
    return check_saved_config(config, "run/config.yaml", ["adapter"])


def test_a_saved_config_comes_back():
    config = saved_config({"adapter": LORA, "seed": 0}, {"adapter": "lora"})
    assert check(config) == config
    assert (config["choices"], config["seed"]) == ({"adapter": "lora"}, 0)


@pytest.mark.parametrize("config", [None, [], "x", {}, {"adapter": LORA}])
def test_a_file_without_a_run_config_is_refused(config):
    with pytest.raises(ValueError, match=r"run/config\.yaml holds no config of a run"):
        check(config)


@pytest.mark.parametrize("target", ["rlora.adapters.lora.LoRA", "rlora.optimization.adamw"])
def test_a_config_of_version_0_1_is_refused_by_its_format_not_by_its_targets(target):
    with pytest.raises(ValueError, match=r"^run/config\.yaml was written by rlora 0\.1") as error:
        check({"choices": {}, "adapter": {"_target_": target}})
    assert len(str(error.value).splitlines()) == 1
    assert "train the run again" in str(error.value)


def test_a_config_of_a_later_version_is_refused():
    with pytest.raises(ValueError, match="has config format 3: this version reads 2"):
        check(saved_config({}, {}) | {"format": 3})


def test_only_the_sections_that_are_built_are_checked():
    other = {"_target_": "os.system"}
    check(saved_config({"adapter": LORA, "logger": other}, {}))
    with pytest.raises(ValueError, match=r"builds os\.system, which no file in conf/ names"):
        check(saved_config({"adapter": {"inner": [other]}}, {}))
