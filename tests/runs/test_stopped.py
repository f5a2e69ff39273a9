"""What remains of a run that stopped: advice, and nothing of a run that was refused."""

import pytest

from rlora.config.job import Job
from rlora.runs.resume import LAST_CHECKPOINT
from rlora.runs.stopped import discard, how_to_resume

CONFIG = {"train": True, "ckpt_path": None, "skip_finished": "same_code"}


def advice(folder, *, multirun=False, **changes):
    return how_to_resume(Job(folder, {}, [], multirun), {**CONFIG, **changes})


def touch(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def test_a_run_with_a_checkpoint_is_resumed(tmp_path):
    assert advice(tmp_path) == "there is nothing to resume, as no epoch was finished"
    touch(tmp_path / LAST_CHECKPOINT)
    assert advice(tmp_path) == f"set ckpt_path={tmp_path} to resume"


def test_a_folder_with_special_characters_is_quoted(tmp_path):
    folder = tmp_path / "a=b, c"
    touch(folder / LAST_CHECKPOINT)
    assert advice(folder) == f"set 'ckpt_path=\"{folder}\"' to resume"


@pytest.mark.parametrize("changes", [{"train": False}, {"ckpt_path": "runs/1"}])
def test_an_evaluation_and_a_resumed_run_start_again(tmp_path, changes):
    assert advice(tmp_path, **changes) == "rerun the same command"


def test_a_learned_prior_is_reused(tmp_path):
    touch(tmp_path / "prior" / LAST_CHECKPOINT)
    assert advice(tmp_path) == "rerun the same command, as the prior had not finished"
    touch(tmp_path / "prior" / "results.json")
    expected = f"rerun the same command with hydra.run.dir={tmp_path} to reuse its prior"
    assert advice(tmp_path) == expected


def test_a_multirun_is_repeated(tmp_path):
    touch(tmp_path / LAST_CHECKPOINT)
    expected = "rerun the same command: runs that finished are skipped"
    assert advice(tmp_path, multirun=True) == expected
    assert "with skip_finished=same_code" in advice(tmp_path, multirun=True, skip_finished=False)


def test_a_refused_run_leaves_no_folder(tmp_path):
    folder = tmp_path / "runs" / "sst2-lora" / "1"
    touch(folder / ".hydra" / "config.yaml")
    touch(folder / "train.log")
    discard(folder, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_refused_run_removes_no_other_file(tmp_path):
    folder = tmp_path / "outputs" / "1"
    touch(folder / "train.log")
    touch(folder / "results.json")
    discard(folder, tmp_path / "outputs")
    assert (folder / "train.log").is_file()
    # a folder of the user's choice: what contains it stays
    touch(tmp_path / "mine" / "2" / "train.log")
    discard(tmp_path / "mine" / "2", tmp_path / "outputs")
    assert (tmp_path / "mine").is_dir()
    assert not (tmp_path / "mine" / "2").exists()
