"""predict.py: predictions of a trained run, row by row."""

import csv
import io
import json
import subprocess
import sys

import pytest
import torch

from rlora.evaluation.inputs import read_rows
from rlora.runs.load import load_run
from rlora.runs.predict_cli import main

WORDS = ["good", "terrible", "so and so"]


@pytest.fixture(scope="module")
def trained(tiny_run, tmp_path_factory):
    """Folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    tiny_run("adapter=rlora", "optimizer.lr=0.05", folder=folder)
    return folder


@pytest.fixture(scope="module")
def posterior(tiny_run, tmp_path_factory):
    """The same with a posterior over what is trained."""
    folder = tmp_path_factory.mktemp("posterior")
    tiny_run("adapter=lora", "regularizer=pac_bayes", "regularizer.sigma_head=0.1", folder=folder)
    return folder


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return path


def answers(folder, *arguments):
    out = folder / "answers.jsonl"
    assert main([*arguments, f"output={out}"]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_answers_are_those_of_the_model(trained, file, tmp_path):
    predictions = answers(tmp_path, f"run={trained}", f"input={file}", "batch_size=2")
    run = load_run(trained)
    batch = run.backbone.processor(WORDS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = run.backbone.model(
            **{k: batch[k] for k in ("input_ids", "attention_mask")}
        ).logits.softmax(-1)
    assert [answer["text"] for answer in predictions] == WORDS
    for answer, probabilities in zip(predictions, expected.tolist(), strict=True):
        assert list(answer["probabilities"].values()) == pytest.approx(probabilities, abs=1e-5)
        assert answer["prediction"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert "spread" not in answer


def test_json_lines_and_csv_are_read_and_csv_is_written(trained, file, tmp_path):
    plain = answers(tmp_path, f"run={trained}/adapter", f"input={file}")
    lines, table, out = tmp_path / "words.jsonl", tmp_path / "words.csv", tmp_path / "out.csv"
    lines.write_text(
        "".join(json.dumps({"id": n, "text": word}) + "\n" for n, word in enumerate(WORDS))
    )
    table.write_text("id,text\n" + "".join(f'{n},"{word}"\n' for n, word in enumerate(WORDS)))
    for each in (lines, table):
        assert answers(tmp_path, f"run={trained}", f"input={each}") == plain
    assert main([f"run={trained}", f"input={table}", f"output={out}"]) == 0
    rows = list(csv.DictReader(out.open()))
    assert [row["prediction"] for row in rows] == [answer["prediction"] for answer in plain]
    assert float(rows[0]["probabilities.positive"]) == pytest.approx(
        plain[0]["probabilities"]["positive"]
    )


def test_draws_of_a_posterior_have_a_mean_and_a_spread(posterior, file, tmp_path):
    mean = answers(tmp_path, f"run={posterior}", f"input={file}", "draws=0")
    assert "spread" not in mean[0]
    samples = answers(tmp_path, f"run={posterior}", f"input={file}", "draws=8")
    again = answers(tmp_path, f"run={posterior}", f"input={file}", "draws=8", "batch_size=1")
    for one, same, other in zip(samples, again, mean, strict=True):
        assert one["spread"] == pytest.approx(same["spread"], abs=1e-5)
        assert 0 < one["spread"]["positive"] < 0.5
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert one["probabilities"] != other["probabilities"]


@pytest.mark.cli
def test_standard_input_is_answered_as_it_comes(trained, root):
    command = [sys.executable, "predict.py", f"run={trained}", "input=-", "batch_size=1"]
    process = subprocess.Popen(
        command, cwd=root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    for word in WORDS:  # the prediction comes before the next row is written
        process.stdin.write(word + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["text"] == word
    process.stdin.close()
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run={run}"], "input= is missing"),
        (["run=nowhere", "input={file}"], "run=nowhere is invalid: expected a run folder"),
        (["run={run}", "input=nowhere.txt"], "input=nowhere.txt is not a file"),
        (
            ["run={run}", "input={file}", "drawz=3"],
            "drawz is unknown: the keys are run, input, output, format,",
        ),
        (
            ["run={run}", "input={file}", "draws=some"],
            "draws=some is invalid: expected a whole number",
        ),
        (
            ["run={run}", "input={file}", "batch_size=0"],
            "batch_size=0 is invalid: expected at least 1",
        ),
        (
            ["run={run}", "input={file}", "format=xml"],
            "format=xml is invalid: expected one of text, jsonl, csv",
        ),
        (
            ["run={run}", "input={file}", "device=tpux"],
            "device=tpux is invalid: expected auto, cpu or cuda",
        ),
        (["run={run}", "input={file}", "format=jsonl"], "line 1 is not JSON"),
        (["run={run}", "input={file}", "format=csv"], "has no column text: it has good"),
    ],
)
def test_invalid_arguments_give_one_sentence_and_no_file(
    trained, file, tmp_path, capsys, arguments, message
):
    out = tmp_path / "out.jsonl"
    assert (
        main(
            [argument.format(run=trained, file=file) for argument in arguments] + [f"output={out}"]
        )
        == 1
    )
    assert message in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["words.txt"]


def test_rows_of_two_fields():
    fields = ("premise", "hypothesis")
    assert list(read_rows(io.StringIO("a\tb\n\nc\td\n"), "text", fields, "in")) == [
        ("a", "b"),
        ("c", "d"),
    ]
    for text, form, message in [
        ("a\n", "text", "in, line 1: 1 fields, expected premise, hypothesis with tabs"),
        ('{"premise": "a"}\n', "jsonl", "in, line 1 has no text under hypothesis: it has premise"),
        ("[1]\n", "jsonl", "in, line 1 is not an object with the keys premise, hypothesis"),
        ("premise\na\n", "csv", "in has no column hypothesis: it has premise"),
    ]:
        with pytest.raises(ValueError, match=message):
            list(read_rows(io.StringIO(text), form, fields, "in"))


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(capsys, flag):
    assert main([flag]) == 0
    text = capsys.readouterr().out
    for key in ("run=", "input=", "output=", "format=", "batch_size=", "draws=", "device="):
        assert f"\n  {key} " in text
