"""Requirements on every regularizer of conf/regularizer, with every adapter of conf/adapter."""

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from rlora.config.build import build
from rlora.regularizers.base import Step
from rlora.regularizers.noise import supports_per_example
from rlora.regularizers.pac_bayes import NOISES, OBJECTIVES
from rlora.regularizers.posterior import GaussianPosterior
from rlora.runs.resume import load_regularizer, regularizer_files

CONF = Path(__file__).parents[2] / "conf"
ADAPTERS = sorted(file.stem for file in (CONF / "adapter").glob("*.yaml"))
CHOICES = {"objective": OBJECTIVES, "noise": NOISES}  # covered where a YAML has the option
SENTENCES, LABELS = ["good", "terrible news", "so and so"], torch.tensor([1, 0, 1])
EXAMPLES = 100
STEP = Step(seed=3, examples=len(SENTENCES))
LEARNED = {"kind": "learned", "part": "prior", "parts": {"prior": "a", "rest": "b"}, "scores": {}}


class Model:
    """An adapted model away from its start values, where no gradient is zero by construction."""

    def __init__(self, adapted, move, adapter):
        made = adapted("tiny_encoder", adapter)
        self.backbone, self.module = made.backbone, made.backbone.model
        adapters = made.adapters
        self.groups = {
            "adapter": adapters.adapter_parameters(),
            "head": adapters.head_parameters(),
        }
        self.parameters = self.groups["adapter"] | self.groups["head"]
        move(self.parameters)
        sigma0 = {"adapter": 0.1, "head": 0.1}
        self.supports_per_example = supports_per_example(
            GaussianPosterior(self.module, self.groups, sigma0)
        )
        self.batch = self.backbone.processor(SENTENCES, padding=True, return_tensors="pt")

    def logits(self):
        names = ("input_ids", "attention_mask")
        return self.module(**{name: self.batch[name] for name in names}).logits

    def values(self):
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def prepare(self, options, *, num_examples=EXAMPLES):
        """Return the regularizer, prepared on this model."""
        regularizer = build(options)
        regularizer.prepare(self.module, self.groups, num_examples)
        return regularizer

    def step(self, regularizer, step=STEP):
        """Run forward and backward as the training loop does; return the objective."""
        for parameter in (*self.parameters.values(), *regularizer.parameters()):
            parameter.grad = None
        with regularizer.perturbed(step):
            logits = self.logits()
            loss = F.cross_entropy(logits, LABELS)
            objective = regularizer.objective(step, loss, lambda: bounded_loss(logits))
            objective.backward()
        return objective.detach()


def bounded_loss(logits):
    return (1 - logits.softmax(-1)[range(len(LABELS)), LABELS]).mean()


@pytest.fixture(scope="module")
def model_of(adapted, move):
    """Function (adapter): the model of an adapter, built once; tests restore what they change."""
    models = {}

    def get(adapter):
        if adapter not in models:
            models[adapter] = Model(adapted, move, adapter)
        return models[adapter]

    return get


@pytest.fixture(scope="module")
def variants(regularizer_name, regularizer_options):
    """The options with every combination of the choices that they have."""
    if "defaults" in (CONF / "regularizer" / f"{regularizer_name}.yaml").read_text():
        return [
            regularizer_options
        ]  # the combinations of the YAML that it extends are those of its class
    keys = [key for key in CHOICES if key in regularizer_options]
    combinations = itertools.product(*(CHOICES[key] for key in keys))
    return [regularizer_options | dict(zip(keys, values, strict=True)) for values in combinations]


@pytest.fixture
def model(model_of):
    """A model on which every noise is possible."""
    model = model_of("rlora")
    values = model.values()
    yield model
    with torch.no_grad():
        for key, parameter in model.parameters.items():
            parameter.copy_(values[key])


def prepared(model, variants):
    """Yield every variant that the model supports, prepared; check how the others fail."""
    for variant in variants:
        if variant.get("noise") == "per_example" and not model.supports_per_example:
            with pytest.raises(ValueError, match=r"regularizer\.noise=per_example is invalid"):
                model.prepare(variant)
        else:
            yield model.prepare(variant)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_step_trains_every_adapter(adapter, variants, model_of):
    model = model_of(adapter)
    values, trained = model.values(), 0
    for regularizer in prepared(model, variants):
        objective = model.step(regularizer)
        assert objective.isfinite()
        assert objective.dtype == torch.float32
        for key, parameter in model.parameters.items():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert torch.equal(parameter, values[key]), f"{key} is not restored"
        for parameters in filter(None, model.groups.values()):
            assert any(parameter.grad.any() for parameter in parameters.values())
        inside = {id(parameter) for parameter in model.module.parameters()}
        assert all(id(parameter) in inside for parameter in model.parameters.values())
        trained += 1
    assert trained >= 1


def test_its_own_parameters_train_and_stay_apart_from_the_models(variants, model):
    for regularizer in prepared(model, variants):
        with torch.no_grad():  # at the start, KL has no gradient
            for parameter in regularizer.parameters():
                parameter.add_(0.3)
        model.step(regularizer)
        groups = regularizer.parameter_groups()
        listed = [parameter for group in groups for parameter in group["params"]]
        assert {id(p) for p in listed} == {id(p) for p in regularizer.parameters()}
        assert not {id(p) for p in listed} & {id(p) for p in model.module.parameters()}
        assert all(group["lr"] > 0 for group in groups)
        assert all(p.grad is not None and p.grad.any() for p in listed)


def test_an_interrupted_step_restores_the_parameters(variants, model):
    values = model.values()
    for regularizer in prepared(model, variants):
        with pytest.raises(RuntimeError, match="broken"), regularizer.perturbed(STEP):
            raise RuntimeError("broken")
        for key, parameter in model.parameters.items():
            assert torch.equal(parameter, values[key])
        hooks = [hook for module in model.module.modules() for hook in module._forward_hooks]
        assert not hooks


def test_noise_depends_on_the_step_alone(variants, model):
    for regularizer in prepared(model, variants):
        state = torch.get_rng_state()
        outputs = []
        for seed in (3, 3, 4):
            with torch.no_grad(), regularizer.perturbed(Step(seed, examples=len(SENTENCES))):
                outputs.append(model.logits())
        assert torch.equal(outputs[0], outputs[1])
        noisy = regularizer.is_posterior and regularizer.noise != "none"
        assert torch.equal(outputs[0], outputs[2]) is not noisy
        assert torch.equal(torch.get_rng_state(), state), "dropout would change"


def test_the_bounded_loss_is_used_only_as_declared(variants, model):
    for regularizer in prepared(model, variants):
        calls = []

        def bounded(calls=calls):
            calls.append(1)
            return torch.tensor(0.2)

        regularizer.objective(STEP, torch.tensor(0.9), bounded)
        assert bool(calls) is regularizer.needs_bounded_loss


def test_frozen_parameters_are_its_own_and_stay_in_the_graph(variants, model):
    for regularizer in prepared(model, variants):
        parameters = list(regularizer.parameters())
        for progress in (0.0, 0.49, 0.5, 1.0):
            step = Step(seed=3, progress=progress, examples=len(SENTENCES))
            for parameter in parameters:
                parameter.grad = None
            loss = torch.tensor(0.4, requires_grad=True)
            regularizer.objective(step, loss, lambda loss=loss: loss).backward()
            frozen = {id(parameter) for parameter in regularizer.frozen(step)}
            assert frozen <= {id(parameter) for parameter in parameters}
            # DDP needs a gradient for every parameter, frozen or not
            assert all(parameter.grad is not None for parameter in parameters)


def test_metrics_are_finite_scalars(variants, model):
    for regularizer in prepared(model, variants):
        model.step(regularizer)
        for key, value in regularizer.metrics().items():
            assert value.dim() == 0, key
            assert not value.requires_grad, key
            assert value.isfinite(), key


def test_its_state_can_be_loaded(variants, model):
    pairs = zip(prepared(model, variants), prepared(model, variants), strict=True)
    for regularizer, other in pairs:
        with torch.no_grad():
            for parameter in regularizer.parameters():
                parameter.add_(0.3)
        other.load_state_dict(regularizer.state_dict())
        assert torch.equal(model.step(other), model.step(regularizer))


def test_a_posterior_is_stored_with_the_adapter_and_nothing_else_is(
    regularizer_options, model, tmp_path
):
    regularizer, other = model.prepare(regularizer_options), model.prepare(regularizer_options)
    with torch.no_grad():
        for parameter in regularizer.parameters():
            parameter.add_(0.3)
    files = regularizer_files(regularizer)
    assert bool(files) is regularizer.is_posterior
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    manifest = {"format": 2, "prior_facts": LEARNED}
    if regularizer.is_posterior:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rlora.adapters.checkpoint.read_manifest", lambda folder: manifest)
            load_regularizer(other, tmp_path)
        assert other.prior_facts == LEARNED
    else:
        load_regularizer(other, tmp_path)
    state, loaded = regularizer.state_dict(), other.state_dict()
    assert all(torch.equal(state[key], loaded[key]) for key in state)


def test_is_posterior_agrees_with_what_it_offers(variants, model):
    for regularizer in prepared(model, variants):
        assert regularizer.prior_facts == {"kind": "start"}
        if not regularizer.is_posterior:
            assert not hasattr(regularizer, "posterior")
            continue
        posterior = regularizer.posterior
        assert isinstance(posterior, GaussianPosterior)
        covered = [member.parameter for group in posterior.members.values() for member in group]
        assert {id(p) for p in covered} == {id(p) for p in model.parameters.values()}
        assert posterior.kl().item() == pytest.approx(0, abs=1e-6)
        assert regularizer.state_dict()
        assert supports_per_example(posterior)


def test_recentering_makes_the_current_values_the_prior(variants, model, move):
    for regularizer in prepared(model, variants):
        move(model.parameters)
        values = model.values()
        regularizer.recenter(LEARNED)
        assert regularizer.prior_facts == LEARNED
        for key, parameter in model.parameters.items():
            assert torch.equal(parameter, values[key])
        if regularizer.is_posterior:
            posterior = regularizer.posterior
            assert posterior.kl().item() == pytest.approx(0, abs=1e-6)
            assert all(
                torch.equal(posterior.mean(g), posterior.mean0(g)) for g in posterior.members
            )
