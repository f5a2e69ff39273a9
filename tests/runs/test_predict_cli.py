"""predict.py: predictions of a trained run, row by row."""

import csv
import json
import os
import subprocess
import sys
import threading

import pytest
import torch

from rlora.evaluation.inputs import read_rows
from rlora.evaluation.predict import Predictor
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
    tabs, array = tmp_path / "words.tsv", tmp_path / "words.json"
    tabs.write_text("id\ttext\n" + "".join(f"{n}\t{word}\n" for n, word in enumerate(WORDS)))
    array.write_text(json.dumps([{"id": n, "text": word} for n, word in enumerate(WORDS)]))
    for each, kind in ((lines, int), (array, int), (table, str), (tabs, str)):
        expected = [{"id": kind(n), **answer} for n, answer in enumerate(plain)]
        found = answers(tmp_path, f"run={trained}", f"input={each}")
        assert found == expected
        assert list(found[0]) == ["id", "text", "prediction", "probabilities"]
    assert main([f"run={trained}", f"input={table}", f"output={out}"]) == 0
    rows = list(csv.DictReader(out.open()))
    assert [row["prediction"] for row in rows] == [answer["prediction"] for answer in plain]
    assert [row["id"] for row in rows] == ["0", "1", "2"]
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
            "format=xml is invalid: expected one of text, tsv, csv, jsonl, json",
        ),
        (
            ["run={run}", "input={file}", "device=tpux"],
            "device=tpux is invalid: expected auto, cpu or cuda",
        ),
        (["run={run}", "input={file}", "device=meta"], "device=meta is invalid"),
        (["run={run}", "input={file}", "device=cuda:99"], "device=cuda:99 does not exist on this"),
        (["run={run}", "input={file}", "format=jsonl"], "line 1 is not valid JSON"),
        (["run={run}", "input={file}", "format=csv"], "line 2 has no text under text: it has good"),
        (["run={run}", "input={file}", "run=other"], "a key is given twice"),
        (["run={run}", "input={file}", "draws=4"], "draws=4 has no effect, because the run has no"),
        (["run={run}", "input=/dev/null", "format=csv"], "/dev/null is empty"),
        (["run={run}", "input=/dev/null", "format=text"], "/dev/null has no rows"),
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


def test_an_interrupted_prediction_leaves_no_file(trained, file, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "answer", interrupt)
    assert main([f"run={trained}", f"input={file}", f"output={tmp_path}/out.csv"]) == 130
    assert capsys.readouterr().err.startswith("interrupted: ")
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


def test_labels_are_kept_and_scored(trained, tmp_path, capsys):
    file = tmp_path / "rows.csv"
    file.write_text("\ufefftext,label\r\ngood,positive\r\nbad,\r\nawful,negative\r\n\r\n")
    predictions = answers(tmp_path, f"run={trained}", f"input={file}")
    right = [row["prediction"] == row["label"] for row in predictions if row["label"]]
    message = f"scores of 2 labeled rows: accuracy {sum(right) / 2:.4f}"
    assert capsys.readouterr().err.strip() == message
    file.write_text("Text, LABEL\ngood,positive\nbad,  \n")
    assert [[*row][:2] for row in answers(tmp_path, f"run={trained}", f"input={file}")] == [
        ["Text", " LABEL"]
    ] * 2
    assert "scores of 1 labeled rows: accuracy" in capsys.readouterr().err
    file.write_text("text,label\ngood,positive\nbad,sad\n")
    answers(tmp_path, f"run={trained}", f"input={file}")
    assert f"no scores: {file}, line 3: label 'sad', expected one of" in capsys.readouterr().err


def test_columns_of_later_rows_are_columns_of_the_csv_file(trained, tmp_path, capsys):
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.csv"
    file.write_text(
        '{"text": "a\\rb"}\n{"text": "c", "meta": {"x": [1]}, "ok": true, "no": null}\n'
    )
    assert main([f"run={trained}", f"input={file}", f"output={out}"]) == 0
    first, second = csv.DictReader(out.open(newline=""))
    assert (first["text"], first["meta.x"], first["ok"]) == ("a\rb", "", "")
    assert (second["meta.x"], second["ok"], second["no"]) == ("[1]", "true", "")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "id,text\n" + "1,a\n" * 33 + "1,a,b\n", "line 35: 3 columns, expected 2"),
        ("rows.csv", 'text,id\n"a,1\nb,2\n', "lines 2 to 3: a quotation mark opens"),
        ("rows.csv", b"text\ncaf\xe9\n", "line 2: byte 4 of the line (0xe9) is not UTF-8"),
        ("rows.csv", "text,prediction\na,b\n", "line 2: its column 'prediction' has the name of"),
        ("rows.jsonl", '{"text": "a"}\n\n{"text": "\\ud800"}', "line 3: its text under text has a"),
        ("rows.jsonl", '{"text": 5}', "line 1 has no text under text: its text is 5"),
        ("rows.json", '[{"text": "a"}, 5]', "entry 2 is not an object with the keys text"),
        ("rows.json", '{"text": "a"}', "holds no list"),
        ("rows.json", '{"text": "a"}\n{"text": "b"}', "for an object per line set format=jsonl"),
        ("rows.tsv", "text\tid\na\n", "line 2: 1 columns, expected 2"),
        ("rows.txt", b"a\0b\n", "line 1: it has a NUL byte"),
    ],
)
def test_a_wrong_file_is_named_with_its_line_before_anything_is_predicted(
    trained, tmp_path, monkeypatch, capsys, name, content, message
):
    monkeypatch.setattr(Predictor, "answer", pytest.fail)
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main([f"run={trained}", f"input={path}", f"output={tmp_path}/out.csv"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}")
    assert message in error
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("{tmp}", "is a folder"),
        ("{tmp}/words.txt/out.csv", "words.txt is not a writable folder"),
        ("{tmp}/out.xyz", "expected a file that ends in .jsonl, .ndjson, .csv"),
        ("/dev/null", "expected a file that ends in"),
        ("{tmp}/pipe.csv", "is not a regular file"),
        ("{tmp}/copy.csv", "is the input"),
    ],
)
def test_a_wrong_output_is_named_before_the_run_is_loaded(file, capsys, output, message):
    os.mkfifo(file.parent / "pipe.csv")
    (file.parent / "copy.csv").symlink_to(file)
    output = output.format(tmp=file.parent)
    assert main(["run=nowhere", f"input={file}", f"output={output}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: output={output}")
    assert message in error


@pytest.mark.parametrize("form", ["text", "csv"])
def test_rows_of_a_pipe_are_not_read_twice(trained, tmp_path, form):
    pipe, out = tmp_path / "pipe.txt", tmp_path / "out.jsonl"
    os.mkfifo(pipe)
    text = "".join(f"{word}\n" for word in (["text", *WORDS] if form == "csv" else WORDS))
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    arguments = [f"run={trained}", f"input={pipe}", f"format={form}", f"output={out}"]
    assert main(arguments) == 0
    writer.join()
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == WORDS


def test_rows_of_two_fields():
    fields = ("premise", "hypothesis")
    (first, second) = read_rows([b"a\tb\n", b"\n", b"c\td\n"], "text", fields, "in")
    assert first == ("in, line 1", {"premise": "a", "hypothesis": "b"})
    assert second == ("in, line 3", {"premise": "c", "hypothesis": "d"})
    for line, form, message in [
        (b"a\n", "text", "in, line 1: 1 fields, expected premise, hypothesis with tabs"),
        (b"[1]\n", "jsonl", "in, line 1 is not an object with the keys premise, hypothesis"),
    ]:
        with pytest.raises(ValueError, match=message):
            list(read_rows([line], form, fields, "in"))


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(capsys, flag):
    assert main([flag]) == 0
    text = capsys.readouterr().out
    for key in ("run=", "input=", "output=", "format=", "batch_size=", "draws=", "device="):
        assert f"\n  {key} " in text
