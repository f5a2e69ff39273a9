"""The benchmarks run, write what they say and keep what they should; no test looks at a time."""

import gc
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import benchmarks.__main__ as cli
from benchmarks.report import markdown
from benchmarks.results import differing_facts, new_document, document_to_update, write_document
from benchmarks.settings import Settings

ROOT = Path(__file__).parents[2]
OURS = ["lora", "rlora", "nola", "vera", "randlora"]
COMPARED = [
    "limit",
    *OURS,
    "randlora (kept)",
    "peft lora",
    "peft vera",
    "peft randlora",
    "nola (redraw)",
]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Folder of a quick measurement of everything, made once by the real command line."""
    folder = tmp_path_factory.mktemp("bench")
    words = ["--quick", "--threads", "1", "--out", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def sections(quick):
    return json.loads((quick / "cpu.json").read_text())["sections"]


def check_times(facts, rounds):
    times = facts["rounds_s"]
    assert len(times) == rounds
    assert all(math.isfinite(seconds) and seconds > 0 for seconds in times)
    assert facts["median_s"] == statistics.median(times)


def test_every_section_tells_how_it_was_measured(quick, sections):
    document = json.loads((quick / "cpu.json").read_text())
    assert (document["format"], document["device"], document["quick"]) == (1, "cpu", True)
    assert list(sections) == list(cli.PARTS)
    for section in sections.values():
        assert section["status"] == "ok"
        assert section["command"] == "python -m benchmarks --quick --threads 1"
        assert {"started", "seconds", "settings", "result"} <= set(section)
        environment = section["environment"]
        assert environment["threads"] == 1
        assert environment["versions"]["torch"] == torch.__version__
        assert isinstance(environment["keep_freed_memory"], bool)


def test_steps_compare_the_same_number_of_trained_parameters(sections):
    for label, found in sections["steps"]["result"].items():
        variants = found["variants"]
        assert list(variants) == COMPARED
        for facts in variants.values():
            check_times(facts, 2)
            assert (
                0 < facts["saved_bytes"] <= facts["held_bytes"] + 1024
            )  # the batch, which was there before
            assert facts["held_bytes"] <= facts["peak_bytes"]
            assert (facts["floor"] == 1) == (facts["flops"] == variants["limit"]["flops"])
        for ours, other in (
            ("lora", "peft lora"),
            ("vera", "peft vera"),
            ("nola", "nola (redraw)"),
        ):
            assert variants[ours]["trained"] == variants[other]["trained"], label
        head = variants["limit"]["trained"]
        assert head == 32 * 32 + 32 + 32 * 2 + 2 + 32  # the head, and the bias of a LayerNorm
        assert variants["nola"]["trained"] == head + found["layers"] * 2 * 4
    assert [found["layers"] for found in sections["steps"]["result"].values()] == [2, 6]


def test_the_other_parts_are_complete(sections):
    files = sections["files"]["result"]
    assert {*OURS, "peft lora", "peft vera", "peft vera, projection saved"} <= set(files)
    assert files["peft vera"]["bytes"] < files["peft vera, projection saved"]["bytes"]
    assert all(facts["bytes"] >= 4 * facts["parameters"] for facts in files.values())
    growth = sections["growth"]["result"]
    assert {sweep: list(found["points"]) for sweep, found in growth.items()} == {
        "tokens": ["8", "16"],
        "rank": ["1", "16"],
        "num_bases": ["2", "4"],
        "width": ["16", "32"],
    }
    for facts in growth["tokens"]["points"]["8"].values():
        check_times(facts, 2)
    orders = sections["hadamard"]["result"]["float32"]["orders"]
    assert [list(order) for order in orders.values()] == [["copy", "fwht", "dense"]] * 2 + [
        ["copy", "fwht"]
    ]
    assert set(sections["inject"]["result"]) == set(COMPARED) - {"limit"}


def test_decoding_writes_the_same_texts_both_ways(sections):
    found = sections["decoding"]["result"]
    assert found["prompts"] < found["rows"]
    assert found["equal"] == found["sample"] > 0
    for facts in found["ways"].values():
        check_times(facts, 2)
        assert facts["tokens_per_s"] > 0
    batches, single = found["ways"].values()
    assert single["seconds"] == pytest.approx(single["median_s"] * found["rows"] / found["sample"])
    assert batches["seconds"] == batches["median_s"]


def test_large_models_run_with_every_adapter(sections):
    result = sections["large"]["result"]
    assert list(result) == [model.name for model in Settings().large.models]
    for found in result.values():
        assert list(found["variants"]) == COMPARED
        for facts in found["variants"].values():
            check_times(facts, 2)
            assert facts["tokens_per_s"] == pytest.approx(found["tokens"] / facts["median_s"])


def test_page_and_plot(quick):
    page = (quick / "cpu.md").read_text()
    assert "python -m benchmarks --device cpu --quick" in page
    for text in (page, (quick / "cpu.json").read_text()):
        assert str(ROOT) not in text
        assert str(quick) not in text
    plot = (quick / "cpu.png").read_bytes()
    assert plot.startswith(b"\x89PNG")
    assert len(plot) < 200_000


@pytest.fixture
def in_process(monkeypatch):
    """The command line in this process, without what it does to the whole process."""
    monkeypatch.setattr(cli.machine, "keep_freed_memory", lambda: False)
    monkeypatch.setattr(cli, "_quieten", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    return cli.main


def test_only_replaces_one_section_and_a_failure_keeps_the_others(
    quick, in_process, monkeypatch, tmp_path, sections
):
    for file in quick.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def fail(*_):
        raise RuntimeError("as the test wants it")

    monkeypatch.setitem(cli.PARTS, "growth", fail)
    assert in_process(["--quick", "--only", "hadamard,growth", "--out", str(tmp_path)]) == 1
    after = json.loads((tmp_path / "cpu.json").read_text())["sections"]
    assert list(after) == list(sections)
    assert [name for name in after if after[name] != sections[name]] == ["growth", "hadamard"]
    assert after["growth"]["status"] == "failed"
    assert after["growth"]["error"] == "RuntimeError: as the test wants it"
    assert after["hadamard"]["status"] == "ok"
    page = (tmp_path / "cpu.md").read_text()
    assert "as the test wants it" in page
    assert "not measured under the same conditions" in page  # the allocator's setting differs


@pytest.mark.parametrize(
    "words",
    [
        ["--only", "speed"],
        ["--only", "large"],
        ["--device", "tpu"],
        ["--rounds", "0"],
        ["--threads", "-1"],
    ],
)
def test_wrong_words_are_refused(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.arguments(words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_devices_and_settings_are_not_mixed(tmp_path):
    path = tmp_path / "cpu.json"
    here = {"device": "one chip", "threads": 2}
    assert document_to_update(path, "cpu", False, here) == new_document("cpu", False)
    section = {"environment": here}
    write_document(new_document("cpu", False) | {"sections": {"steps": section}}, path)
    assert document_to_update(path, "cpu", False, here)["sections"] == {"steps": section}
    with pytest.raises(ValueError, match="full measurements of cpu"):
        document_to_update(path, "cpu", True, here)
    with pytest.raises(ValueError, match="measured on one chip, this is another"):
        document_to_update(path, "cpu", False, {"device": "another"})
    path.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        document_to_update(path, "cpu", False, here)


def test_the_same_command_without_only_begins_anew(in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "PARTS", {"hadamard": cli.PARTS["hadamard"]})
    section = {"environment": {"device": "another chip"}}
    write_document(
        new_document("cpu", False) | {"sections": {"steps": section}}, tmp_path / "cpu.json"
    )
    assert in_process(["--quick", "--only", "hadamard", "--out", str(tmp_path)]) == 2
    assert in_process(["--quick", "--out", str(tmp_path)]) == 0
    assert list(json.loads((tmp_path / "cpu.json").read_text())["sections"]) == ["hadamard"]


def test_conditions_that_differ_are_told():
    facts = {"device": "chip", "load_average": 0.1}
    other = facts | {"load_average": 0.2}
    assert differing_facts({"a": {"environment": facts}, "b": {"environment": other}}) == {}
    other["threads"] = 1
    assert differing_facts({"a": {"environment": facts}, "b": {"environment": other}}) == {
        "threads": {"a": None, "b": 1}
    }


def test_an_empty_page_can_be_written():
    assert markdown(new_document("cpu", False), "cpu").startswith("# Speed and size on cpu\n")
