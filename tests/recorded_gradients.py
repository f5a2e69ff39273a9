"""Gradients of the optimizer steps of a run, as training computes them, before clipping.

As a script it is one of several processes: recorded_gradients.py FOLDER FILE OVERRIDE...
"""

import sys
from pathlib import Path

import torch

from rlora.data.batch import num_targets
from rlora.training.module import FineTuning

# without dropout, whose noise depends on the micro-batch; without a step, so that all steps of an
# epoch have gradients at the same parameters
STILL = ("optimizer.lr=0", "optimizer.head_lr=0", "trainer.max_epochs=1", "callbacks=progress")
NO_DROPOUT = {
    "tiny_encoder": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "tiny_decoder": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
}


def still(model):
    """Return the overrides of a run without dropout and without steps."""
    dropout = [f"+model.config.{key}=0.0" for key in NO_DROPOUT[model]]
    return (*STILL, f"model={model}", *dropout)


def recorded(parts):
    """Train, and return the targets of this process and the gradient of every step."""
    steps, targets = [], []
    train, complete = FineTuning.training_step, FineTuning.on_before_optimizer_step

    def training_step(self, batch, batch_idx):
        targets.append(num_targets(batch))
        return train(self, batch, batch_idx)

    def on_before_optimizer_step(self, optimizer):
        complete(self, optimizer)
        gradients = [p.grad.flatten() for p in self.parameters() if p.grad is not None]
        steps.append((sum(targets), torch.cat(gradients).clone()))
        targets.clear()

    FineTuning.training_step = training_step
    FineTuning.on_before_optimizer_step = on_before_optimizer_step
    try:
        parts.trainer.fit(parts.module)
    finally:
        FineTuning.training_step = train
        FineTuning.on_before_optimizer_step = complete
    return steps


def main():
    """Assemble a run of these overrides, and save what it records."""
    from rich.console import Console

    import composition
    from rlora.config.job import Job
    from rlora.runs.assemble import assemble
    from rlora.runs.plan import resolve

    folder, file, *overrides = sys.argv[1:]
    composed = composition.compose(*overrides, folder=folder)
    plan = resolve(composed.config, Job(Path(folder), composed.choices, overrides))
    torch.set_num_threads(1)
    parts = assemble(plan, Console(quiet=True))
    steps = recorded(parts)
    if parts.trainer.is_global_zero:
        torch.save(steps, file)


if __name__ == "__main__":
    main()
