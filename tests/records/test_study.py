"""Finished runs are found and not repeated; the records of a study need no run folders."""

import json
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from rlora.config.allowlist import saved_config
from rlora.config.build import to_plain
from rlora.config.config_hash import config_hash, hashed_config
from rlora.records import study
from rlora.records.identity import Identity
from rlora.records.record import STUDY_FILE, read_record, write_record
from rlora.records.study_file import read_study
from rlora.runs import experiment, identity
from rlora.runs.plan import resolve

OVERRIDES = ("adapter=rlora", "adapter.rank=2", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def finished(tiny_run, tmp_path_factory):
    """Folder of a finished run of a study."""
    folder = tmp_path_factory.mktemp("outputs") / "runs" / "one"
    tiny_run(*OVERRIDES, *places(folder.parents[1]), "study=toy", folder=folder)
    return folder


def places(outputs):
    return f"paths.outputs='{outputs}'", f"paths.studies='{outputs.parent / 'studies'}'"


@pytest.fixture
def again(tiny_job, finished, monkeypatch):
    """Function (*overrides, folder, outputs): run as one job of a multirun.

    Returns the score and the folders of the experiments that ran.
    """
    ran = []
    monkeypatch.setattr(
        experiment,
        "run_plan",
        lambda plan, job, console: ran.append(job.directory) or read_record(finished),
    )

    def start(*overrides, folder, outputs=None):
        config, job = tiny_job(
            *OVERRIDES, *places(outputs or finished.parents[1]), *overrides, folder=folder
        )
        score = experiment.run(OmegaConf.create(config), replace(job, multirun=True))
        return score, ran

    return start


def test_a_finished_run_is_not_repeated_in_a_multirun(again, finished, tmp_path):
    score, ran = again(
        "study=toy", "logger=none", "trainer.enable_progress_bar=true", folder=tmp_path / "new"
    )
    assert not ran
    assert score == read_record(finished).scores["validation/accuracy"]
    assert read_record(tmp_path / "new") == read_record(finished)


@pytest.mark.parametrize(
    "override", ["seed=1", "optimizer.lr=0.5", "task.shots=2", "adapter.rank=4", "certify=true"]
)
def test_any_other_run_is_run(override, again, tmp_path):
    more = ["regularizer=pac_bayes"] if override == "certify=true" else []
    assert again(override, *more, folder=tmp_path / "new")[1] == [tmp_path / "new"]


def test_skip_finished_false_repeats_the_run(again, tmp_path):
    assert again("skip_finished=false", folder=tmp_path / "new")[1] == [tmp_path / "new"]


@pytest.mark.parametrize(("value", "word"), [("true", "True"), ("null", "null"), ("None", "null")])
def test_another_value_of_skip_finished_is_refused_before_the_run(tiny_job, tmp_path, value, word):
    config, job = tiny_job(f"skip_finished={value}", folder=tmp_path)
    with pytest.raises(ValueError, match=f"skip_finished={word} is invalid: expected same_code, s"):
        resolve(to_plain(config), job)


def test_a_skip_names_the_folder_of_the_run_and_not_of_an_earlier_skip(
    again, finished, tmp_path, caplog
):
    outputs = finished.parents[1]
    again(folder=outputs / "multiruns" / "0-skipped")
    with caplog.at_level("INFO"):
        again(folder=tmp_path / "new")
    assert f"({finished / 'results.json'};" in caplog.text


def test_a_skip_names_the_record_its_file_commit_and_machine(again, finished, tmp_path, caplog):
    with caplog.at_level("INFO"):
        again(folder=tmp_path / "new")
    environment = read_record(finished).environment
    commit = environment.git_commit[:10] if environment.git_commit else "no commit known"
    (message,) = [text for text in caplog.messages if text.startswith("skipped")]
    for part in (str(finished / "results.json"), commit, environment.host, "skip_finished=false"):
        assert part in message


@pytest.mark.parametrize("policy", ["same_code", "same_config"])
def test_changed_labels_repeat_the_run(again, finished, small_lexicon, tmp_path, policy, caplog):
    """The config names the file, not what it holds."""
    before = small_lexicon.read_text()
    try:
        word, mean, spread, ratings = before.split("\n", 1)[0].split("\t")
        flipped = "\t".join((word, mean, spread, str([-n for n in json.loads(ratings)])))
        small_lexicon.write_text("\n".join([flipped, *before.split("\n")[1:]]))
        with caplog.at_level("INFO"):
            ran = again(f"skip_finished={policy}", folder=tmp_path / "new")[1]
        assert ran == [tmp_path / "new"]
        assert "but data changed since then" in caplog.text
    finally:
        small_lexicon.write_text(before)
    assert again(f"skip_finished={policy}", folder=tmp_path / "newer")[1] == ran


def test_changed_code_repeats_the_run_unless_the_config_is_enough(
    again, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(identity, "code_digest", lambda config: "another")
    with caplog.at_level("INFO"):
        assert again(folder=tmp_path / "new")[1] == [tmp_path / "new"]
    assert "but code changed since then (skip_finished=same_config keeps its result)" in caplog.text
    assert again("skip_finished=same_config", folder=tmp_path / "newer")[1] == [tmp_path / "new"]


def test_a_record_without_digests_does_not_count(again, finished, tmp_path, caplog):
    old = read_record(finished)
    folder = tmp_path / "outputs" / "old"
    folder.mkdir(parents=True)
    write_record(replace(old, run=replace(old.run, inputs={}, code="")), folder)
    with caplog.at_level("INFO"):
        ran = again(folder=tmp_path / "new", outputs=tmp_path / "outputs")[1]
    assert ran == [tmp_path / "new"]
    assert "its record does not say which data and code it used" in caplog.text


def test_only_the_latest_of_several_executions_counts(again, finished, tmp_path):
    """Reports show the latest one, so that an earlier one must not stand for this run."""
    old = read_record(finished)
    outputs = tmp_path / "outputs"
    for name, started, data in (("a", "2024-01-01", old.run.inputs), ("b", "2025-01-01", {})):
        (outputs / name).mkdir(parents=True)
        write_record(
            replace(old, run=replace(old.run, inputs=data, started=started)), outputs / name
        )
    assert again(folder=tmp_path / "new", outputs=outputs)[1] == [tmp_path / "new"]


def test_a_study_is_resumed_without_its_outputs(again, finished, tmp_path):
    studies = finished.parents[2] / "studies"
    overrides = (f"paths.studies='{studies}'", "study=toy")
    assert again(*overrides, folder=tmp_path / "new", outputs=tmp_path / "empty")[1] == []
    assert again("study=other", folder=tmp_path / "newer", outputs=tmp_path / "empty")[1] == [
        tmp_path / "newer"
    ]


def test_a_run_that_finished_outside_the_study_joins_it(again, finished, tmp_path):
    overrides = (f"paths.studies='{tmp_path}'", "study=later")
    for folder in ("new", "newer"):
        assert again(*overrides, folder=tmp_path / folder)[1] == []
    assert read_study(tmp_path / "later" / STUDY_FILE) == [
        study.portable_record(read_record(finished))
    ]


def test_a_single_run_is_always_run(tiny_job, finished, tmp_path):
    config, job = tiny_job(*OVERRIDES, *places(finished.parents[1]), folder=tmp_path)
    wanted = Identity(read_record(finished).run.config_hash)
    assert study.finished_record(config, job, wanted) is None


def test_a_damaged_record_is_no_finished_run(finished, tmp_path):
    wanted = read_record(finished).run.config_hash
    assert study.latest_finished(wanted, finished.parents[1]).record == read_record(finished)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "results.json").write_text('{"run": ')
    assert study.latest_finished(wanted, tmp_path) is None


def test_the_records_of_a_study_name_no_machine(finished):
    file = finished.parents[2] / "studies" / "toy" / STUDY_FILE
    text = file.read_text()
    host = read_record(finished).environment.host
    assert f'"{host}"' not in text
    assert str(finished) not in text
    assert not [
        leaf
        for leaf in leaves(json.loads(text))
        if isinstance(leaf, str) and ("/tmp" in leaf or leaf.startswith("/"))
    ]
    (record,) = read_study(file)
    assert record.scores == read_record(finished).scores
    assert record.run.config_hash == read_record(finished).run.config_hash


def test_the_records_of_a_study_name_no_folder_of_a_checkpoint(finished):
    record = read_record(finished)
    evaluated = replace(record, run=replace(record.run, from_checkpoint="/home/me/runs/first"))
    assert study.portable_record(evaluated).run.from_checkpoint == "first"


def leaves(value):
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def test_an_execution_is_appended_once(finished, tmp_path):
    record, file = read_record(finished), tmp_path / "study" / STUDY_FILE
    study.append_record(record, file)
    study.append_record(record, file)
    later = replace(record, run=replace(record.run, started="2099-01-01T00:00:00+00:00"))
    study.append_record(later, file)
    assert [each.run.started for each in read_study(file)] == [
        record.run.started,
        later.run.started,
    ]


def test_a_new_option_that_is_not_used_does_not_change_the_hash():
    old = {"task": {"name": "rte", "layers": [1, None]}, "seed": 0}
    new = {"task": {"name": "rte", "layers": [1, None], "fresh": None}, "seed": 0, "more": None}
    assert config_hash(new, "run") == config_hash(old, "run")
    assert config_hash({**new, "task": {**new["task"], "fresh": 0}}, "run") != config_hash(
        old, "run"
    )


def test_the_hash_depends_on_the_config_not_on_the_folders(compose):
    here = compose("adapter=lora", folder="/here")
    there = compose(
        "adapter=lora",
        "paths.cache=/elsewhere",
        "logger=none",
        "print_config=false",
        folder="/there",
    )
    assert config_hash(here.config, "/here") == config_hash(there.config, "/there")
    assert config_hash(saved_config(here.config, {"adapter": "lora"}), "/here") == config_hash(
        here.config, "/here"
    )
    assert "/here" not in json.dumps(hashed_config(here.config, "/here"))
    other = compose("adapter=lora", "certificate.draws=5", folder="/here").config
    assert config_hash(other, "/here") == config_hash(here.config, "/here"), "nothing is certified"
