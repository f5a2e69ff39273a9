"""The PAC-Bayes regularizer: its objectives written out, its gradients, its stages and its refusals."""

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


def made(net=None, **options):
    torch.manual_seed(0)
    net = net or nn.ModuleDict({"head": nn.Linear(3, 2)})
    own = PACBayes(**options)
    own.prepare(net, {"adapter": {}, "head": dict(net["head"].named_parameters())}, N)
    with torch.no_grad():
        for index, parameter in enumerate(net.parameters()):
            parameter.add_(0.01 * (index + 1))
    return own


LOSS, RISK = torch.tensor(0.9, requires_grad=True), torch.tensor(0.2, requires_grad=True)


def value(own, step=STEP):
    return own.objective(step, LOSS, lambda: RISK)


def test_objectives_are_the_formulas():
    own = made()
    divergence = own.posterior.kl().item()
    c = (divergence + math.log(2 * math.sqrt(N) / 0.025)) / N
    r = 0.2
    assert divergence > 0
    assert value(own).item() == pytest.approx(
        (math.sqrt(r + c / 2) + math.sqrt(c / 2)) ** 2, rel=1e-6
    )
    assert value(made(objective="mcallester")).item() == pytest.approx(
        r + math.sqrt(c / 2), rel=1e-6
    )
    assert value(made(objective="lambda")).item() == pytest.approx(r / 0.5 + c / 0.5, rel=1e-6)
    assert value(made(objective="kl")).item() == pytest.approx(bounds.klinv(r, c).item(), rel=1e-6)
    assert value(made(objective="elbo", beta=0.3)).item() == pytest.approx(
        0.9 + 0.3 * divergence / N, rel=1e-6
    )
    cost = divergence + math.log(1 / 0.025)
    found = value(made(objective="pac_tuning", gamma=0.1, moment=2.0)).item()
    assert found == pytest.approx(0.9 + cost / (0.1 * N) + 0.1 * 4, rel=1e-6)
    best = value(made(objective="pac_tuning", moment=2.0)).item()
    assert best == pytest.approx(0.9 + 2 * 2.0 * math.sqrt(cost / N), rel=1e-6)
    assert best < found


@pytest.mark.parametrize("objective", [*BOUNDED, *UNBOUNDED])
def test_every_objective_trains_means_and_deviations(objective):
    net = nn.ModuleDict({"head": nn.Linear(3, 2)})
    own = made(net, objective=objective)
    with own.perturbed(STEP):
        outputs = net["head"](torch.ones(4, 3))
        loss = outputs.square().mean()
        own.objective(STEP, loss, lambda: loss.clamp(0, 1)).backward()
    for parameter in (*net.parameters(), *own.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    assert own.needs_bounded_loss == (objective in BOUNDED)
    (group,) = own.parameter_groups()
    assert {id(p) for p in group["params"]} == {id(p) for p in own.parameters()}
    assert group["lr"] == 0.01


def test_gradients_of_deviations_are_those_of_finite_differences():
    net = nn.ModuleDict({"head": nn.Linear(3, 2)}).double()
    own = made(net).double()

    def step():
        with own.perturbed(STEP):
            loss = net["head"](torch.ones(4, 3).double()).square().mean()
            return own.objective(STEP, loss, lambda: loss / (1 + loss))

    step().backward()
    rho, h = own.posterior.rho["head"], 1e-4
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


def test_accumulated_gradients_are_those_of_the_whole_batch():
    """Two halves under the step's noise, each with half the weight, add up to the batch under the same noise."""
    grads = []
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    for parts in (1, 2):
        torch.manual_seed(0)
        net = nn.ModuleDict({"head": nn.Linear(3, 2)})
        own = made(net, objective="elbo")
        for part in x.chunk(parts):
            with own.perturbed(STEP):
                loss = net["head"](part).square().mean()
                (own.objective(STEP, loss, lambda: RISK) / parts).backward()
        grads.append([p.grad for p in (*net.parameters(), *own.parameters())])
    torch.testing.assert_close(grads[0], grads[1])


def test_ranks_share_the_noise_of_a_step_but_not_that_of_examples():
    net = nn.ModuleDict({"head": nn.Linear(3, 2)})
    x = torch.ones(2, 3)
    for noise, same in (("per_step", True), ("per_example", False)):
        own = made(net, noise=noise)
        seen = []
        for rank in (0, 1):
            with torch.no_grad(), own.perturbed(Step(seed=5, rank=rank, examples=2)):
                seen.append(net["head"](x))
        assert torch.equal(*seen) == same


def test_without_noise_the_means_are_seen():
    net = nn.ModuleDict({"head": nn.Linear(3, 2)})
    own = made(net, noise="none")
    weight = net["head"].weight
    with own.perturbed(STEP):
        assert net["head"].weight is weight
    assert value(own).item() > 0.2


def test_pac_tuning_keeps_what_it_learned_in_its_second_stage():
    own = made(objective="pac_tuning", first_stage=0.25)
    early, late = Step(seed=1, progress=0.2), Step(seed=1, progress=0.25)
    assert list(own.frozen(early)) == []
    assert list(own.frozen(late)) == list(own.posterior.rho.values())
    assert value(own, late).item() == pytest.approx(0.9)
    value(own, late).backward()
    assert own.posterior.rho["head"].grad.abs().sum() == 0  # in the graph, as DDP asks for


def test_a_learned_prior_is_left_by_small_steps():
    assert made().mean_rate == 1.0
    assert made(prior="split").mean_rate == 0.02
    assert made(prior="split", mean_rate=0.5).mean_rate == 0.5


def test_its_state_travels():
    own, other = made(), made()
    with torch.no_grad():
        own.posterior.rho["head"].add_(1.0)
    other.load_state_dict(own.state_dict())
    assert torch.equal(other.posterior.kl(), own.posterior.kl())
    assert set(own.metrics()) >= {"sigma_head"}


@pytest.mark.parametrize(
    ("options", "told"),
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
def test_bad_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        made(**options)


def test_nothing_to_train_on_or_with_is_refused():
    net = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="number of training examples=0"):
        PACBayes().prepare(net, {"head": dict(net.named_parameters())}, 0)
    with pytest.raises(ValueError, match="expected trainable parameters"):
        PACBayes().prepare(net, {"adapter": {}, "head": {}}, 5)


def test_none_leaves_everything_alone():
    own, loss = NoRegularizer(), torch.tensor(1.0)
    own.prepare(nn.Linear(1, 1), {}, 1)
    assert own.objective(STEP, loss, lambda: 1 / 0) is loss
    assert not list(own.parameters())
    assert own.parameter_groups() == []
    assert list(own.frozen(STEP)) == []
    assert own.metrics() == {}
    assert own.state_dict() == {}
