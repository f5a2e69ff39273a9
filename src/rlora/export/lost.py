"""Updates cut to a low rank, and what that costs: energy, and scores on the test split."""

from pathlib import Path

import torch

from rlora.adapters import Adapter
from rlora.config.build import build
from rlora.export.svd import Cut, cut, energy_kept
from rlora.runs.load import Rebuilt


def cut_all(run: Rebuilt, rank: int, *, evaluate: bool) -> list[str]:
    """Cut every update in place; gives sentences on what is kept and lost.

    Raises:
        ValueError: there is no update to cut.
    """
    updates = dict(run.adapters.adapters)
    if not updates:
        raise ValueError(f"--rank {rank}: nothing was trained beside the backbone's own weights; use --format merged")
    cuts = {name: cut(update, rank) for name, update in updates.items()}
    told = [f"Cut to rank {rank}: {100 * energy_kept(cuts, updates):.2f} % of the updates' squared norm is kept."]
    before = _scores(run) if evaluate else {}
    for name, update in updates.items():
        _replace(update, cuts[name])
    after = _scores(run) if evaluate else {}
    return told + [f"{name}: {before[name]:.4f} before the cut, {after[name]:.4f} after it." for name in before]


def _replace(update: Adapter, by: Cut) -> None:
    """Let an update be what is left of it; its scale is in the factors."""
    update.scale = 1.0
    update.factors = lambda: (by.b, by.a)  # type: ignore[method-assign]
    update.delta = lambda: by.b @ by.a  # type: ignore[method-assign]


@torch.no_grad()
def _scores(run: Rebuilt) -> dict[str, float]:
    """The task's metrics on its test split, or on validation where that is of texts to be written."""
    task = build(run.config["task"])
    task.setup(run.backbone.tokenizer, seed=run.config["seed"], cache_dir=Path(run.config["paths"]["cache"]))
    loaders = task.test_loaders() or task.validation_loaders()
    found: dict[str, float] = {}
    with run.adapters.merged():
        for name, loader in loaders.items():
            metrics = task.new_metrics().clone(prefix=f"{name}/")
            for batch in loader:
                inputs = {k: v for k, v in batch.items() if k not in ("labels", "index", "tokens")}
                metrics.update(task.decode(run.backbone.net(**inputs)), batch["labels"])
            found |= {key: float(value) for key, value in metrics.compute().items()}
    return found
