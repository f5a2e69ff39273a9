"""The command line: tables in every form, published rows apart, and wrong words told."""

import pytest

from rlora.reports.__main__ import main

CELLS = "| lora | 73,728 | **81.0 ± 1.0** | 62.3 ± 2.1 | 71.7 | 1.50 |"


def lines_of(file):
    return file.read_text().splitlines()


def test_scores_differences_and_costs_as_markdown(study, tmp_path, capsys):
    main([str(study), "--markdown", str(tmp_path / "table.md"), "--baseline", "lora"])
    lines = lines_of(tmp_path / "table.md")
    assert [line for line in lines if line.startswith("##")] == [
        "## Scores on the test split",
        "## Differences between options of adapter",
        "## Parameters, time and memory",
    ]
    assert "| adapter | trained | mrpc | rte | mean | rank |" in lines
    assert CELLS in lines
    assert (
        "Mean ± standard deviation in percent; n = 3 runs (seed) in every cell; accuracy." in lines
    )
    assert "| mrpc | head − lora | 3 | -10.0 | [-12.5, -7.5] | 0.003 | **0.013** |" in lines
    shown = capsys.readouterr().out
    assert "Scores on the test split" in shown
    assert "81.0 ± 1.0" in shown


def test_n_stands_in_every_cell_where_cells_differ(study, tmp_path):
    (study / "0" / "results.json").unlink()
    main([str(study), "--markdown", str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    assert "| head | 0 | 71.0 ± 1.0 (3) | 56.5 ± 0.7 (2) | 63.7 | 3.00 |" in text
    assert "Incomplete: adapter=head, task=rte: 2 of 3 runs." in text


def test_intervals_stand_beside_means_on_request(study, tmp_path):
    words = [
        str(study),
        "--where",
        "task=rte",
        "--spread",
        "interval",
        "--markdown",
        str(tmp_path / "table.md"),
    ]
    main(words)
    assert "| lora | 73,728 | 62.3 [57.2, 67.5] | 2.00 |" in lines_of(tmp_path / "table.md")
    main([*words, "--interval", "bootstrap"])
    (told,) = [line for line in lines_of(tmp_path / "table.md") if line.startswith("Mean [")]
    assert told.startswith("Mean [bootstrap (BCa) 95 % interval] in percent")


def test_what_was_left_out_is_a_table_of_its_own(study, tmp_path):
    (study / "0" / "results.json").write_text("nonsense")
    main([str(study), "--markdown", str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    assert "## Left out: 1" in text
    assert "cannot be read as a run record" in text


def test_latex_is_booktabs_with_special_characters_escaped(study, tmp_path):
    main([str(study), "--latex", str(tmp_path / "table.tex"), "--where", "task=rte"])
    text = (tmp_path / "table.tex").read_text()
    assert (
        text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{table}") == 3
    )
    assert r"lora & 73,728 & 62.3 $\pm$ 2.1 & 2.00 \\" in text
    assert r"\% of backbone" in text
    assert r"\textbf{64.0 $\pm$ 2.0}" in text


def test_published_rows_stand_apart(study, tmp_path):
    main([str(study), "--published", "roberta_base", "--markdown", str(tmp_path / "table.md")])
    lines = lines_of(tmp_path / "table.md")
    assert "| LoRA, roberta_base [1] | 0.3M | 89.7 | 86.6 |  |  |" in [
        line.replace("[2]", "[1]") for line in lines
    ]
    assert any(
        "published, not measured here: Hu et al., ICLR 2022, table 2" in line for line in lines
    )
    assert CELLS in lines  # neither best nor rank took notice


def test_certificates_stand_beside_dev_errors(made, written, tmp_path):
    certified = made()
    certified.certificate = {
        "bound": 0.155, "by_group": {"bound": 0.18}, "risk": 0.14, "kl": 12.5, "rows": 31146,
        "rival": {"bound": 0.145}, "test": {"test": {"mean": 0.156}},
    }  # fmt: skip
    main([str(written([certified, made(seed=2)])), "--markdown", str(tmp_path / "table.md")])
    assert (
        "| rte | lora | 1 | 0.1550 | 0.1800 | 0.1400 | 12.5 | 31,146 | 0.1450 | 0.1560 |"
        in lines_of(tmp_path / "table.md")
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["{empty}"], "holds no run"),
        (["{runs}", "--rows", "task,adpter"], "no run has the key adpter"),
        (["{runs}", "--where", "adapter"], "--where adapter: conditions are key=value"),
        (
            ["{runs}", "--compare", "seed"],
            "--compare seed needs it among the keys of --rows or --columns",
        ),
        (
            ["{runs}", "--published", "gpt7"],
            "--published gpt7: no published scores of it here; there are some of",
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
def test_wrong_words_end_in_a_sentence(words, told, study, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"empty": tmp_path / "empty", "runs": study}
    with pytest.raises(SystemExit, match=told):
        main([word.format(**places) for word in words])
    assert not (tmp_path / "table.md").exists()
