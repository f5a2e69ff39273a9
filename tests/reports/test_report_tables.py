"""From records to a table: each run once, settings apart, pairs together, and wrong words told."""

from dataclasses import replace

import pytest

from rlora import studies
from rlora.records import write_record
from rlora.reports.__main__ import main
from rlora.reports.comparison import compare
from rlora.reports.tidy import load

SCORES = {  # (adapter, regularizer, sample): test accuracy
    ("lora", "none", 1): 0.60,
    ("lora", "none", 2): 0.70,
    ("lora", "pac_bayes", 1): 0.64,
    ("lora", "pac_bayes", 2): 0.72,
    ("head", "none", 1): 0.50,
}
WORDS = ["--rows", "task,adapter", "--compare", "regularizer=none,pac_bayes", "--pairs", "task.sample_seed"]


@pytest.fixture
def study(record, tmp_path):
    """A study's file and a folder of runs, of the same five runs."""
    for number, ((adapter, regularizer, sample), score) in enumerate(SCORES.items()):
        run = replace(
            record.run, adapter=adapter, regularizer=regularizer, directory=f"runs/{number}", identity=f"{number}"
        )
        config = {**record.config, "task": {"sample_seed": sample}}
        made = replace(record, run=run, config=config, scores={"test/accuracy": score})
        write_record(made, tmp_path / "runs" / str(number))
        studies.append(made, tmp_path / "study" / studies.RECORDS)
    return tmp_path


def test_means_differences_and_their_pairs(study, capsys):
    main([str(study / "runs"), *WORDS, "--markdown", str(study / "table.md")])
    text = (study / "table.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    titles = ["none: mean ± sd (n)", "pac_bayes: mean ± sd (n)", "pac_bayes − none [95 %] (pairs)"]
    assert lines[0] == ["task", "adapter", *titles]
    assert lines[2] == ["lexicon", "head", "50.0 (1)", "", ""]
    assert lines[3] == ["lexicon", "lora", "65.0 ± 7.1 (2)", "68.0 ± 5.7 (2)", "+3.0 [-9.7, +15.7] (2)"]
    assert len(lines) == 4
    assert "lexicon" in capsys.readouterr().out


def test_runs_are_chosen_and_a_key_that_some_lack_is_left_empty(study, record, tmp_path):
    alone = replace(record, run=replace(record.run, identity="x"), config={**record.config, "beta": 3})
    write_record(replace(alone, scores={"test/accuracy": 0.5}), study / "runs" / "x")
    words = ["--rows", "adapter,beta", "--where", "adapter=rlora", "--markdown", str(tmp_path / "table.md")]
    main([str(study / "runs"), *words])
    assert (tmp_path / "table.md").read_text().splitlines()[2:] == ["| rlora | 3 | 50.0 (1) |"]
    words[1:4] = ["adapter,beta", "--where", "regularizer=none"]
    main([str(study / "runs"), *words, "--pairs", "task.sample_seed"])
    assert "| head |  |" in (tmp_path / "table.md").read_text()


def test_a_run_counts_once_wherever_it_is_found(study):
    everywhere = load([study / "runs", study / "study" / studies.RECORDS, study])
    assert len(everywhere) == len(SCORES)
    assert {run.score for run in everywhere} == set(SCORES.values())


def test_runs_that_nothing_tells_apart_are_refused(study):
    runs = load([study / "runs"])
    with pytest.raises(ValueError, match=r"several runs have task=lexicon, adapter=lora and seed=0: name the keys"):
        compare(runs, keys=["task"], key="adapter", pairs=["seed"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["{empty}"], "holds no record of a finished run"),
        (["{runs}", "--rows", "task,adpter"], "no run has the key adpter"),
        (["{runs}", "--where", "adapter=nola"], "none of 5 runs has adapter=nola"),
        (["{runs}", "--where", "adapter"], "--where adapter: conditions are key=value"),
    ],
)
def test_wrong_words_end_in_a_sentence(words, told, study, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"empty": tmp_path / "empty", "runs": study / "runs"}
    with pytest.raises(SystemExit, match=told):
        main([word.format(**places) for word in words])


def test_a_run_without_a_test_score_is_refused(record, tmp_path):
    write_record(replace(record, scores={"validation/accuracy": 0.5}), tmp_path)
    with pytest.raises(SystemExit, match="was not scored on this split"):
        main([str(tmp_path)])
    main([str(tmp_path), "--split", "validation"])
