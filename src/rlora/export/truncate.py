"""Truncation of updates to a low rank, and its cost: the energy kept, and scores on the test split.

`--rank` uses it to write an update of full rank as a LoRA.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlora.adapters import Adapter
from rlora.config.build import build
from rlora.runs.load import TrainedRun


@dataclass(frozen=True)
class TruncatedUpdate:
    """A truncated update, dW ~ B A.

    Attributes:
        b: B (out, r), float32.
        a: A (r, in), float32.
        energy_kept: Share of |dW|_F^2 that B A keeps; 1 for dW = 0. By the theorem of Eckart and
            Young, no matrix of rank r keeps more.
    """

    b: Tensor
    a: Tensor
    energy_kept: float


@torch.no_grad()
def truncate_update(update: Adapter, rank: int) -> TruncatedUpdate:
    """Truncate dW = U S V^T to its largest singular values.

    B = U_r sqrt(S_r),  A = sqrt(S_r) V_r^T, computed in float64.

    Args:
        update: The update of one layer.
        rank: r; at most min(out, in) singular values exist.
    """
    u, s, v = torch.linalg.svd(update.delta().double(), full_matrices=False)
    energy, root = s.square(), s[:rank].sqrt()
    kept = float(energy[:rank].sum() / energy.sum()) if energy.any() else 1.0
    return TruncatedUpdate((u[:, :rank] * root).float(), (root[:, None] * v[:rank]).float(), kept)


def total_energy_kept(
    truncated: Mapping[str, TruncatedUpdate], updates: Mapping[str, Adapter]
) -> float:
    """Return the share of the sum of all |dW|_F^2 that truncation keeps."""
    energies = {name: float(updates[name].delta().detach().square().sum()) for name in truncated}
    total = sum(energies.values())
    kept = sum(truncated[name].energy_kept * energy for name, energy in energies.items())
    return kept / total if total else 1.0


def truncate_all(run: TrainedRun, rank: int, *, evaluate: bool) -> list[str]:
    """Truncate all updates of a run in place, and return sentences on what is kept and lost.

    Args:
        run: The run; its updates change.
        rank: Rank of the truncated updates.
        evaluate: Score the run before and after.

    Raises:
        ValueError: The adapter has no updates.
    """
    updates = dict(run.adapters.adapters)
    if not updates:
        raise ValueError(
            f"--rank {rank} is invalid: this adapter has no low-rank update; use --format merged"
        )
    truncated = {name: truncate_update(update, rank) for name, update in updates.items()}
    percent = 100 * total_energy_kept(truncated, updates)
    notes = [f"Truncated to rank {rank}: {percent:.2f} % of the squared norm of dW is kept."]
    before = _scores(run) if evaluate else {}
    for name, update in updates.items():
        _replace(update, truncated[name])
    after = _scores(run) if evaluate else {}
    notes += [f"{name}: {before[name]:.4f} before, {after[name]:.4f} after." for name in before]
    return notes


def _replace(update: Adapter, truncated: TruncatedUpdate) -> None:
    """Make an update return its truncated factors, which contain the scale already."""
    update.scale = 1.0
    update.factors = lambda: (truncated.b, truncated.a)  # type: ignore[method-assign]
    update.delta = lambda: truncated.b @ truncated.a  # type: ignore[method-assign]


@torch.no_grad()
def _scores(run: TrainedRun) -> dict[str, float]:
    """Return the metrics of the task on test, or on validation if test is scored by generation."""
    task = build(run.config["task"])
    task.setup(
        run.backbone.processor,
        seed=run.config["seed"],
        cache_dir=Path(run.config["paths"]["cache"]),
    )
    loaders = task.test_loaders() or task.validation_loaders()
    scores: dict[str, float] = {}
    with run.adapters.merged():
        for name, loader in loaders.items():
            metrics = task.new_metrics().clone(prefix=f"{name}/")
            for batch in loader:
                outputs = run.backbone.model(**batch["inputs"])
                metrics.update(task.decode(outputs), batch["labels"])
            scores |= {key: float(value) for key, value in metrics.compute().items()}
    return scores
