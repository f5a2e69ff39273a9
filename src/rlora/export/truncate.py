"""Updates truncated to a few singular values, and what that costs: energy, and scores on the test split."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlora.adapters import Adapter
from rlora.config.build import build
from rlora.runs.load import TrainedRun


@dataclass(frozen=True)
class Cut:
    """A truncated update.

    Attributes:
        b: B (out, r).
        a: A (r, in), with dW ~ B A.
        kept: Share of |dW|^2 that B A has, by Eckart and Young the most of any rank r; 1 for dW = 0.
    """

    b: Tensor
    a: Tensor
    kept: float


@torch.no_grad()
def cut(update: Adapter, rank: int) -> Cut:
    """Truncate dW = U S V^T to its largest singular values: B = U_r sqrt(S_r), A = sqrt(S_r) V_r^T.

    Args:
        update: One layer's.
        rank: r, cut to min(out, in).
    """
    u, s, v = torch.linalg.svd(update.delta().double(), full_matrices=False)
    energy, root = s.square(), s[:rank].sqrt()
    kept = float(energy[:rank].sum() / energy.sum()) if energy.any() else 1.0
    return Cut((u[:, :rank] * root).float(), (root[:, None] * v[:rank]).float(), kept)


def energy_kept(cuts: Mapping[str, Cut], updates: Mapping[str, Adapter]) -> float:
    """Share of the sum of all |dW|^2 that is kept."""
    norms = {name: float(updates[name].delta().detach().square().sum()) for name in cuts}
    total = sum(norms.values())
    return sum(cuts[name].kept * norm for name, norm in norms.items()) / total if total else 1.0


def cut_all(run: TrainedRun, rank: int, *, evaluate: bool) -> list[str]:
    """Cut every update in place; gives sentences on what is kept and lost.

    Raises:
        ValueError: there is no update to cut.
    """
    updates = dict(run.adapters.adapters)
    if not updates:
        raise ValueError(
            f"--rank {rank}: nothing was trained beside the backbone's own weights; use --format merged"
        )
    cuts = {name: cut(update, rank) for name, update in updates.items()}
    told = [
        f"Cut to rank {rank}: {100 * energy_kept(cuts, updates):.2f} % of the updates' squared norm is kept."
    ]
    before = _scores(run) if evaluate else {}
    for name, update in updates.items():
        _replace(update, cuts[name])
    after = _scores(run) if evaluate else {}
    return told + [
        f"{name}: {before[name]:.4f} before the cut, {after[name]:.4f} after it." for name in before
    ]


def _replace(update: Adapter, by: Cut) -> None:
    """Let an update be what is left of it; its scale is in the factors."""
    update.scale = 1.0
    update.factors = lambda: (by.b, by.a)  # type: ignore[method-assign]
    update.delta = lambda: by.b @ by.a  # type: ignore[method-assign]


@torch.no_grad()
def _scores(run: TrainedRun) -> dict[str, float]:
    """The task's metrics on its test split, or on validation where that is of texts to be written."""
    task = build(run.config["task"])
    task.setup(
        run.backbone.processor,
        seed=run.config["seed"],
        cache_dir=Path(run.config["paths"]["cache"]),
    )
    loaders = task.test_loaders() or task.validation_loaders()
    found: dict[str, float] = {}
    with run.adapters.merged():
        for name, loader in loaders.items():
            metrics = task.new_metrics().clone(prefix=f"{name}/")
            for batch in loader:
                outputs = run.backbone.model(**batch["inputs"])
                metrics.update(task.decode(outputs), batch["labels"])
            found |= {key: float(value) for key, value in metrics.compute().items()}
    return found
