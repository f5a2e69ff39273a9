"""Limits of training that would train nothing, or without end."""

import pytest

from rlora.config.job import check_trainer, how_to_rerun


@pytest.mark.parametrize(
    "trainer",
    [
        {"max_epochs": 1},
        {"max_epochs": None, "max_steps": 5},
        {"max_epochs": -1, "max_steps": 5},
        {"max_epochs": 3, "max_steps": -1, "check_val_every_n_epoch": None},
        {"max_epochs": 1, "limit_train_batches": 0.5, "val_check_interval": 1.0},
        {"max_epochs": 1, "limit_train_batches": None, "gradient_clip_val": None},
    ],
)
def test_valid_limits(trainer):
    check_trainer(trainer)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_epochs": 0}, "trainer.max_epochs=0 is invalid.* set train=false"),
        ({"max_epochs": -2}, "trainer.max_epochs=-2 is invalid"),
        ({"max_epochs": 1.5}, "trainer.max_epochs=1.5 is invalid"),
        ({"max_epochs": "two"}, "trainer.max_epochs=two is invalid"),
        ({"max_epochs": True}, "trainer.max_epochs=True is invalid"),
        ({"max_epochs": -1}, "trainer.max_epochs=-1 is invalid without trainer.max_steps"),
        ({"max_epochs": None}, "trainer.max_epochs=null is invalid without trainer.max_steps"),
        ({"max_steps": 0}, "trainer.max_steps=0 is invalid"),
        ({"max_steps": -5}, "trainer.max_steps=-5 is invalid"),
        ({"limit_train_batches": 0}, "trainer.limit_train_batches=0 is invalid"),
        ({"limit_train_batches": -0.5}, "trainer.limit_train_batches=-0.5 is invalid"),
        ({"val_check_interval": 0}, "trainer.val_check_interval=0 is invalid"),
        ({"check_val_every_n_epoch": 0}, "trainer.check_val_every_n_epoch=0 is invalid"),
        ({"accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches=0 is invalid"),
        ({"accumulate_grad_batches": None}, "trainer.accumulate_grad_batches=null is invalid"),
        ({"gradient_clip_val": -1}, "trainer.gradient_clip_val=-1 is invalid"),
    ],
)
def test_invalid_limits(values, message):
    with pytest.raises(ValueError, match=message):
        check_trainer({"max_epochs": 3, **values})


def test_the_advice_after_an_interrupted_multirun():
    assert how_to_rerun(skips=True) == "rerun the same command: runs that finished are skipped"
    assert "skip_finished=same_code" in how_to_rerun(skips=False)
