"""Folders of skipped runs lead to the run itself."""

from dataclasses import replace

import pytest

from rlora.records.record import write_record
from rlora.records.status import CONFIG, original_path, skipped_from


@pytest.fixture
def folders(record, tmp_path):
    """Folders of a run and of its skipped repetition."""
    run, skipped = tmp_path / "run", tmp_path / "skipped"
    run.mkdir()
    (run / CONFIG).write_text("{}")
    held = replace(record, run=replace(record.run, directory=str(run)))
    write_record(held, run)
    write_record(held, skipped)
    return run, skipped


def test_only_the_folder_of_a_skipped_run_names_another(folders, tmp_path):
    run, skipped = folders
    assert skipped_from(skipped) == run
    assert skipped_from(run) is None
    assert skipped_from(tmp_path / "nowhere") is None
    moved = run.rename(tmp_path / "moved")
    assert skipped_from(moved) is None


@pytest.mark.parametrize("part", [".", "adapter", "checkpoints/best.ckpt"])
def test_a_path_in_it_is_one_in_the_run(folders, part, caplog):
    run, skipped = folders
    assert original_path(skipped / part, "run") == run / part
    assert f"{skipped} is the folder of a skipped run: using {run}" in caplog.text
    caplog.clear()
    assert original_path(run / part, "run") == run / part
    assert not caplog.text


def test_a_run_that_is_gone(folders, record, tmp_path):
    run, skipped = folders
    run.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=rf"^run={skipped} is invalid: .* finished in {run}, "):
        original_path(skipped, "run")
    # a study's record has no full path
    write_record(replace(record, run=replace(record.run, directory="0-sst2")), skipped)
    with pytest.raises(ValueError, match="had finished in 0-sst2, which is no run folder here"):
        original_path(skipped / "adapter", "ckpt_path")
