"""Fixtures of the contract suites: adapted models built from the config alone."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rlora.adapters import inject
from rlora.config.build import build

CONF = Path(__file__).parents[2] / "conf"
REGULARIZERS = sorted(file.stem for file in (CONF / "regularizer").glob("*.yaml"))
SENTENCES = ["good", "terrible news", "so and so"]


@pytest.fixture(scope="session")
def bare(compose):
    """Function (model, *overrides): a backbone in evaluation mode, its config and its task."""

    def make(model, *overrides):
        config = compose(f"model={model}", "task=lexicon", *overrides).config
        task = build(config["task"])
        backbone = build(config["model"], **task.head(), seed=config["seed"])
        backbone.model.eval()
        return SimpleNamespace(config=config, task=task, backbone=backbone, net=backbone.model)

    return make


@pytest.fixture(scope="session")
def adapted(bare):
    """Function (model, adapter, *overrides, **changes): `bare` with an adapter injected."""

    def make(model, adapter, *overrides, structure_seed=None, **changes):
        made = bare(model, f"adapter={adapter}", *overrides)
        seed = made.config["seed"] if structure_seed is None else structure_seed
        made.adapters = inject(
            made.net,
            build(made.config["adapter"] | changes),
            seed=seed,
            head=made.backbone.head_parameters(made.task.trained_modules),
        )
        return made

    return make


@pytest.fixture(scope="session")
def logits():
    """Function (backbone): its logits of a few sentences."""

    def of(backbone):
        batch = backbone.processor(SENTENCES, padding=True, return_tensors="pt")
        with torch.no_grad():
            return backbone.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits

    return of


@pytest.fixture(scope="session")
def move():
    """Function (parameters): moves them off their start values, by as much every time."""

    def by(parameters, amount=0.1):
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.add_(amount * torch.randn(parameter.shape, generator=generator))

    return by


@pytest.fixture(scope="module", params=REGULARIZERS)
def regularizer_name(request):
    """Name of a YAML of conf/regularizer."""
    return request.param


@pytest.fixture(scope="module")
def regularizer_options(regularizer_name, compose):
    """Composed options of this regularizer."""
    return {**compose("task=lexicon", f"regularizer={regularizer_name}").config["regularizer"]}
