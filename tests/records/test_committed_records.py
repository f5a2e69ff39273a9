"""The committed records: each can be read, and the documented command composes its config."""

import pytest

from rlora.config.allowlist import check_targets
from rlora.config.config_hash import config_hash
from rlora.records.record import STUDY_FILE
from rlora.records.study_file import read_study

STUDIES = {
    "compare_adapters": 90,
    "compare_adapters_tuning": 87,
    "e2e_mini": 11,
    "e2e_mini_tuning": 16,
    "few_shot": 400,
    "few_shot_tuning": 355,
    "pac_bayes": 4,
}


@pytest.fixture(scope="module")
def committed(root):
    """The committed records by study."""
    files = sorted((root / "docs" / "results").rglob(STUDY_FILE))
    return {file.parent.name: read_study(file) for file in files}


def test_every_committed_record_is_read(committed):
    assert {study: len(records) for study, records in committed.items()} == STUDIES


@pytest.mark.parametrize("study", STUDIES)
def test_a_committed_record_has_the_hash_of_its_config(committed, study):
    for record in committed[study]:
        assert config_hash(record.config, ".") == record.run.config_hash
    hashes = {record.run.config_hash for record in committed[study]}
    assert len(hashes) == len(committed[study])


@pytest.mark.parametrize("study", STUDIES)
def test_a_committed_config_builds_only_what_conf_names(committed, study):
    for record in committed[study]:
        check_targets(record.config, record.run.directory)


@pytest.mark.parametrize(
    ("study", "overrides"),
    [
        ("compare_adapters", "task=rte adapter=lora seed=1"),
        ("compare_adapters", "task=cola adapter=nola seed=3"),
        ("few_shot", "task=sst2 adapter=rlora task.shots=16 task.sample_seed=13 regularizer=none"),
        (
            "few_shot",
            "task=lexicon adapter=lora task.sample_seed=42 regularizer=pac_bayes_tempered",
        ),
        ("e2e_mini", "adapter=rlora seed=1"),
    ],
)
def test_the_command_of_a_study_composes_its_committed_config(committed, compose, study, overrides):
    """Else the documented command would train other runs than the published ones."""
    composed = compose(f"experiment={study}", *overrides.split(), folder="/anywhere").config
    wanted = config_hash(composed, "/anywhere")
    assert [record for record in committed[study] if record.run.config_hash == wanted]
