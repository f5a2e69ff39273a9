"""Fixtures shared by the adapter tests."""

from types import SimpleNamespace

import adapter_zoo as zoo
import pytest

from rlora.adapters import inject


@pytest.fixture
def adapt():
    """Function: inject a method of the table into a fresh tiny model, trained parameters moved."""

    def build(model="bert", method="lora", *, seed=0, moved=True, **changes):
        net = zoo.build(model)
        plain = zoo.make(method, **({"targets": zoo.TARGETS[model]} | changes))
        adapters = inject(net, plain, seed=seed, head=zoo.HEADS[model])
        if moved:
            zoo.perturb(adapters.adapter_parameters())
        return SimpleNamespace(model=net, method=plain, adapters=adapters)

    return build
