"""The command line: tables in every format, published rows, and errors for invalid arguments."""

import pytest

from rlora.reports.__main__ import main

CELLS = "| lora | 73,728 | 81.0 ± 1.0 | 62.3 ± 2.1 | 71.7 | 1.50 |"


def lines_of(file):
    return file.read_text().splitlines()


def test_scores_differences_and_costs_as_markdown(study_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    main([str(study_folder), "--markdown", str(tmp_path / "table.md"), "--baseline", "lora"])
    lines = lines_of(tmp_path / "table.md")
    assert [line for line in lines if line.startswith("##")] == [
        "## Scores on the test split",
        "## Paired differences by adapter",
        "## Parameters, time and memory",
    ]
    names = "adapter | trainable parameters (adapter) | mrpc (accuracy) | rte (accuracy)"
    assert f"| {names} | mean | rank |" in lines
    assert CELLS in lines
    assert "Mean ± sd in percent; n = 3 seeds." in lines
    assert "| mrpc | head − lora | 3 | -10.0 | [-12.5, -7.5] | 0.003 | **0.013** |" in lines
    output = capsys.readouterr().out
    assert "Scores on the test split" in output
    assert "81.0 ± 1.0" in output


def test_every_cell_has_its_n_if_the_numbers_of_runs_differ(study_folder, tmp_path):
    (study_folder / "0" / "results.json").unlink()
    main([str(study_folder), "--markdown", str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    assert "| head | 0 | 71.0 ± 1.0 (3) | 56.5 ± 0.7 (2) | 63.7 | 3.00 |" in text
    assert "Incomplete: adapter=head, task=rte: 2 of 3 runs." in text


def test_single_runs_are_scores_without_a_spread(study_folder, tmp_path):
    main([str(study_folder), "--where", "seed=1", "--markdown", str(tmp_path / "table.md")])
    lines = lines_of(tmp_path / "table.md")
    assert "| lora | 73,728 | 80.0 | 60.0 | 70.0 | 1.50 |" in lines
    assert "Score in percent; n = 1 seed." in lines
    assert not any("Paired differences by" in line for line in lines)
    assert any("no paired differences: they need two seeds or more" in line for line in lines)


def test_runs_that_share_a_seed_are_counted_as_runs(study_folder, tmp_path):
    arguments = ["--columns", "model", "--pairs", "task,seed"]
    main([str(study_folder), *arguments, "--markdown", str(tmp_path / "table.md")])
    assert "Mean ± sd in percent; n = 6 runs (task, seed)." in lines_of(tmp_path / "table.md")


def test_a_wide_table_is_compact_in_a_narrow_terminal(study_folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "50")
    main([str(study_folder)])
    lines = capsys.readouterr().out.splitlines()
    assert any("81.0±1.0" in line for line in lines)
    monkeypatch.setenv("COLUMNS", "100")
    main([str(study_folder)])
    assert "81.0 ± 1.0" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [50, 60, 80])
def test_no_word_breaks_and_no_column_is_lost_in_a_narrow_terminal(
    columns, study_folder, monkeypatch, capsys
):
    """Headers once read "randlor / a" and "param / s"."""
    monkeypatch.setenv("COLUMNS", str(columns))
    main([str(study_folder)])
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= columns
    words = set(output.split())
    assert {"trainable", "parameters", "(adapter)", "(head)", "(accuracy)", "examples/s"} <= words
    assert {"peak,", "MiB", "(Holm)", "rlora", "rank"} <= words


def test_a_file_gets_whole_tables(study_folder, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    main([str(study_folder)])
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("adapter") and line.endswith("examples/s  train, s  peak, MiB")
        for line in lines
    )


def test_intervals_follow_means_on_request(study_folder, tmp_path):
    arguments = [
        str(study_folder),
        "--where",
        "task=rte",
        "--spread",
        "interval",
        "--markdown",
        str(tmp_path / "table.md"),
    ]
    main(arguments)
    assert "| lora | 73,728 | 62.3 [57.2, 67.5] | 2.00 |" in lines_of(tmp_path / "table.md")
    main([*arguments, "--interval", "bootstrap"])
    (note,) = [line for line in lines_of(tmp_path / "table.md") if line.startswith("Mean [")]
    assert note.startswith("Mean [bootstrap (BCa) 95 % interval] in percent")


def test_skipped_runs_have_a_table(study_folder, tmp_path):
    (study_folder / "0" / "results.json").write_text("nonsense")
    main([str(study_folder), "--markdown", str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    assert "## Skipped runs: 1" in text
    assert "cannot be read as a run record" in text


def test_latex_uses_booktabs_and_escapes_special_characters(study_folder, tmp_path):
    main([str(study_folder), "--latex", str(tmp_path / "table.tex"), "--where", "task=rte"])
    text = (tmp_path / "table.tex").read_text()
    assert (
        text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{table}") == 3
    )
    assert r"LoRA & 73,728 & 62.3 $\pm$ 2.1 & 2.00 \\" in text
    assert r"\textbf{64.0 $\pm$ 2.0}" in text
    assert r"adapter & \shortstack[r]{trainable\\parameters\\(adapter)} & " in text
    assert r"\shortstack[r]{RTE\\(accuracy)}" in text
    assert r"RTE & RLoRA $-$ LoRA & 3 & " in text
    for name in ("scores", "differences", "costs"):
        assert rf"\label{{tab:{name}}}" in text
    assert r"\caption{Scores on the test split.}" in text
    assert "head only" in text


def test_latex_has_a_dash_where_there_is_no_test(make_record, write_runs, tmp_path):
    records = [
        make_record(adapter=adapter, seed=seed, score=score)
        for adapter, score in (("lora", 0.6), ("lora_xs", 0.6), ("my_adapter", 0.6))
        for seed in (1, 2)
    ]
    main([str(write_runs(records)), "--latex", str(tmp_path / "table.tex")])
    text = (tmp_path / "table.tex").read_text()
    assert r"RTE & LoRA-XS $-$ LoRA & 2 & +0.0 & -- & -- & -- \\" in text
    assert r"my\_adapter" in text
    assert " &  & " not in text.partition("tab:differences")[2].partition(r"\bottomrule")[0]


def test_published_rows_do_not_change_the_measured_ones(study_folder, tmp_path):
    main(
        [str(study_folder), "--published", "roberta_base", "--markdown", str(tmp_path / "table.md")]
    )
    lines = lines_of(tmp_path / "table.md")
    assert "| LoRA, roberta_base [1] | 0.3M | 89.7 | 86.6 |  |  |" in [
        line.replace("[2]", "[1]") for line in lines
    ]
    assert any(
        "published, not measured here: Hu et al., ICLR 2022, table 2" in line for line in lines
    )
    assert CELLS in lines  # bold cells and ranks are the same as without them


def test_a_run_that_did_not_train_has_no_speed(make_record, write_runs, tmp_path):
    record = make_record()
    record.run.trained, record.adapter_file_bytes = False, None
    main([str(write_runs([record])), "--markdown", str(tmp_path / "table.md")])
    assert "| lora | 1 | 73,728 | 66 | 0.48 | – | – | – | 10 |" in lines_of(tmp_path / "table.md")


def test_certificates_are_shown_with_dev_errors(make_record, write_runs, tmp_path):
    certified = make_record()
    certified.certificate = {
        "bound": 0.155, "by_group": {"bound": 0.18}, "risk": 0.14, "kl": 12.5, "rows": 31146,
        "baseline": {"bound": 0.145}, "test": {"test": {"mean": 0.156}},
    }  # fmt: skip
    main(
        [
            str(write_runs([certified, make_record(seed=2)])),
            "--markdown",
            str(tmp_path / "table.md"),
        ]
    )
    assert (
        "| rte | lora | 1 | 0.1550 | 0.1800 | 0.1400 | 12.5 | 31,146 | 0.1450 | 0.1560 |"
        in lines_of(tmp_path / "table.md")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["{empty}"], "holds no run"),
        (["{runs}", "--rows", "task,adpter"], "no run has the key adpter"),
        (["{runs}", "--where", "adapter"], "--where adapter is invalid: expected key=value"),
        (
            ["{runs}", "--compare", "seed"],
            "--compare seed is invalid: expected a key of --rows or --columns",
        ),
        (
            ["{runs}", "--published", "gpt7"],
            "--published gpt7 is invalid: expected one of",
        ),
        (
            [
                "{runs}",
                "--published",
                "roberta_base",
                "--rows",
                "task,adapter",
                "--columns",
                "seed",
            ],
            "--published needs adapters in rows",
        ),
    ],
)
def test_an_invalid_argument_ends_in_one_sentence(arguments, message, study_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    folders = {"empty": tmp_path / "empty", "runs": study_folder}
    with pytest.raises(SystemExit, match=message):
        main([argument.format(**folders) for argument in arguments])
    assert not (tmp_path / "table.md").exists()
