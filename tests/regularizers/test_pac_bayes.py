"""The PAC-Bayes regularizer: objectives, gradients, stages and errors."""

import math

import pytest
import torch
from torch import nn

from rlora.regularizers import bounds
from rlora.regularizers.base import Step
from rlora.regularizers.none import NoRegularizer
from rlora.regularizers.pac_bayes import BOUNDED, UNBOUNDED, PACBayes

N = 50
STEP = Step(seed=1)


def prepared(net=None, **options):
    torch.manual_seed(0)
    net = net or nn.ModuleDict({"head": nn.Linear(3, 2)})
    regularizer = PACBayes(**options)
    regularizer.prepare(net, {"adapter": {}, "head": dict(net["head"].named_parameters())}, N)
    with torch.no_grad():
        for index, parameter in enumerate(net.parameters()):
            parameter.add_(0.01 * (index + 1))
    return regularizer


LOSS, RISK = torch.tensor(0.9, requires_grad=True), torch.tensor(0.2, requires_grad=True)


def value(regularizer, step=STEP):
    return regularizer.objective(step, LOSS, lambda: RISK)


def test_objectives_are_the_formulas():
    regularizer = prepared()
    divergence = regularizer.posterior.kl().item()
    c = (divergence + math.log(2 * math.sqrt(N) / 0.025)) / N
    r = 0.2
    assert divergence > 0
    assert value(regularizer).item() == pytest.approx(
        (math.sqrt(r + c / 2) + math.sqrt(c / 2)) ** 2, rel=1e-6
    )
    assert value(prepared(objective="mcallester")).item() == pytest.approx(
        r + math.sqrt(c / 2), rel=1e-6
    )
    assert value(prepared(objective="lambda")).item() == pytest.approx(r / 0.5 + c / 0.5, rel=1e-6)
    assert value(prepared(objective="kl")).item() == pytest.approx(
        bounds.klinv(r, c).item(), rel=1e-6
    )
    assert value(prepared(objective="elbo", beta=0.3)).item() == pytest.approx(
        0.9 + 0.3 * divergence / N, rel=1e-6
    )
    cost = divergence + math.log(1 / 0.025)
    fixed = value(prepared(objective="pac_tuning", gamma=0.1, moment=2.0)).item()
    assert fixed == pytest.approx(0.9 + cost / (0.1 * N) + 0.1 * 4, rel=1e-6)
    best = value(prepared(objective="pac_tuning", moment=2.0)).item()
    assert best == pytest.approx(0.9 + 2 * 2.0 * math.sqrt(cost / N), rel=1e-6)
    assert best < fixed


@pytest.mark.parametrize("objective", [*BOUNDED, *UNBOUNDED])
def test_every_objective_has_gradients_for_means_and_deviations(objective):
    net = nn.ModuleDict({"head": nn.Linear(3, 2)})
    regularizer = prepared(net, objective=objective)
    with regularizer.perturbed(STEP):
        outputs = net["head"](torch.ones(4, 3))
        loss = outputs.square().mean()
        regularizer.objective(STEP, loss, lambda: loss.clamp(0, 1)).backward()
    for parameter in (*net.parameters(), *regularizer.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    assert regularizer.needs_bounded_loss == (objective in BOUNDED)
    (group,) = regularizer.parameter_groups()
    assert {id(p) for p in group["params"]} == {id(p) for p in regularizer.parameters()}
    assert group["lr"] == 0.01


def test_gradients_of_deviations_match_finite_differences():
    net = nn.ModuleDict({"head": nn.Linear(3, 2)}).double()
    regularizer = prepared(net).double()

    def step():
        with regularizer.perturbed(STEP):
            loss = net["head"](torch.ones(4, 3).double()).square().mean()
            return regularizer.objective(STEP, loss, lambda: loss / (1 + loss))

    step().backward()
    rho, h = regularizer.posterior.rho["head"], 1e-4
    for index in (0, 3, 7):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                rho[index] += sign * h
                ends.append(step().item())
                rho[index] -= sign * h
        assert rho.grad[index].item() == pytest.approx(
            (ends[0] - ends[1]) / (2 * h), rel=1e-4, abs=1e-9
        )


def test_accumulated_gradients_equal_those_of_the_whole_batch():
    """Two half batches under the same noise, each with weight 1/2, sum to the whole batch."""
    grads = []
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    for parts in (1, 2):
        torch.manual_seed(0)
        net = nn.ModuleDict({"head": nn.Linear(3, 2)})
        regularizer = prepared(net, objective="elbo")
        for part in x.chunk(parts):
            with regularizer.perturbed(STEP):
                loss = net["head"](part).square().mean()
                (regularizer.objective(STEP, loss, lambda: RISK) / parts).backward()
        grads.append([p.grad for p in (*net.parameters(), *regularizer.parameters())])
    torch.testing.assert_close(grads[0], grads[1])


def test_ranks_share_the_noise_per_step_but_not_per_example():
    net = nn.ModuleDict({"head": nn.Linear(3, 2)})
    x = torch.ones(2, 3)
    for noise, same in (("per_step", True), ("per_example", False)):
        regularizer = prepared(net, noise=noise)
        outputs = []
        for rank in (0, 1):
            with torch.no_grad(), regularizer.perturbed(Step(seed=5, rank=rank, examples=2)):
                outputs.append(net["head"](x))
        assert torch.equal(*outputs) == same


def test_without_noise_the_model_sees_the_means():
    net = nn.ModuleDict({"head": nn.Linear(3, 2)})
    regularizer = prepared(net, noise="none")
    weight = net["head"].weight
    with regularizer.perturbed(STEP):
        assert net["head"].weight is weight
    assert value(regularizer).item() > 0.2


def test_pac_tuning_freezes_sigma_in_its_second_stage():
    regularizer = prepared(objective="pac_tuning", first_stage=0.25)
    early, late = Step(seed=1, progress=0.2), Step(seed=1, progress=0.25)
    assert list(regularizer.frozen(early)) == []
    assert list(regularizer.frozen(late)) == list(regularizer.posterior.rho.values())
    assert value(regularizer, late).item() == pytest.approx(0.9)
    value(regularizer, late).backward()
    assert regularizer.posterior.rho["head"].grad.abs().sum() == 0  # in the graph, as DDP asks for


def test_a_learned_prior_lowers_the_rate_of_the_means():
    assert prepared().mean_rate == 1.0
    assert prepared(prior="split").mean_rate == 0.02
    assert prepared(prior="split", mean_rate=0.5).mean_rate == 0.5


def test_a_loaded_state_is_equal():
    regularizer, other = prepared(), prepared()
    with torch.no_grad():
        regularizer.posterior.rho["head"].add_(1.0)
    other.load_state_dict(regularizer.state_dict())
    assert torch.equal(other.posterior.kl(), regularizer.posterior.kl())
    assert set(regularizer.metrics()) >= {"sigma_head"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": "x"},
            r"regularizer\.objective=x is invalid: expected one of mcallester, quadratic",
        ),
        ({"noise": "x"}, r"regularizer\.noise=x is invalid"),
        ({"delta": 0.0}, r"regularizer\.delta=0\.0 is invalid: expected a probability of failure"),
        ({"delta": 1}, r"regularizer\.delta=1 is invalid"),
        ({"lr": 0}, r"regularizer\.lr=0 is invalid: expected a finite number above 0"),
        ({"mean_rate": 0.0}, r"regularizer\.mean_rate=0\.0 is invalid"),
        ({"beta": math.nan}, r"regularizer\.beta=nan"),
        ({"gamma": -1.0}, r"regularizer\.gamma=-1\.0"),
        ({"moment": 0}, r"regularizer\.moment=0"),
        ({"first_stage": 1.0}, r"regularizer\.first_stage=1\.0"),
        ({"sigma_head": 1e-20}, r"regularizer\.sigma_head=1e-20 is invalid"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        prepared(**options)


def test_no_examples_or_no_trainable_parameters_are_refused():
    net = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="number of training examples=0"):
        PACBayes().prepare(net, {"head": dict(net.named_parameters())}, 0)
    with pytest.raises(ValueError, match="expected trainable parameters"):
        PACBayes().prepare(net, {"adapter": {}, "head": {}}, 5)


def test_none_changes_nothing():
    regularizer, loss = NoRegularizer(), torch.tensor(1.0)
    regularizer.prepare(nn.Linear(1, 1), {}, 1)
    assert regularizer.objective(STEP, loss, lambda: 1 / 0) is loss
    assert not list(regularizer.parameters())
    assert regularizer.parameter_groups() == []
    assert list(regularizer.frozen(STEP)) == []
    assert regularizer.metrics() == {}
    assert regularizer.state_dict() == {}
