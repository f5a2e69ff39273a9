"""The cached composition of tests/composition.py equals the composition of Hydra."""

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

from composition import CONF, choices_of, resolved

OVERRIDES = [
    (),
    ("seed=3", "optimizer.lr=1e-3", "task.path='/a b'"),
    ("adapter=lora", "adapter.rank=2", "task=rte", "adapter.targets=[q,k]"),
    ("task=e2e", "+model.extra={a: 1}", "~model.dtype", "regularizer=pac_bayes"),
    ("experiment=few_shot", "trainer.max_steps=7", "logger=wandb", "~recipe"),
    ("hydra.job.num=4", "seed=1", "model=tiny_encoder"),
]
MISTAKES = [
    ("adaptr=lora",),
    ("adapter=lorra",),
    ("optimizer.lrr=1",),
    ("+seed=1",),
    ("~optimizer.lrr",),
    ("seed=1,2",),
    ("adapter=lora,nola",),
    ("model@x=minilm",),
]


def composed_by_hydra(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose(
            "train",
            overrides=["paths.run='unused'", *overrides, "~local"],
            return_hydra_config=True,
        )


@pytest.mark.parametrize("overrides", OVERRIDES)
def test_it_equals_the_composition_of_hydra(compose, overrides):
    expected = composed_by_hydra(*overrides)
    node = OmegaConf.masked_copy(expected, "hydra")
    with open_dict(expected):
        expected.pop("hydra")
    config = compose(*overrides)
    assert config.config == resolved(expected, node)
    assert config.choices == choices_of(node)


@pytest.mark.parametrize("overrides", MISTAKES)
def test_it_raises_what_hydra_raises(compose, overrides):
    with pytest.raises(HydraException) as expected:
        composed_by_hydra(*overrides)
    with pytest.raises(type(expected.value)) as raised:
        compose(*overrides)
    assert str(raised.value) == str(expected.value)


def test_a_changed_config_leaves_the_next_one_alone(compose):
    compose().config["optimizer"]["lr"] = -1
    assert compose().config["optimizer"]["lr"] > 0
