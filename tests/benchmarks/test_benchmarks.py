"""The benchmarks run and write complete results. No test depends on a measured time."""

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
from benchmarks import baseline, step_worker
from benchmarks.plots import png
from benchmarks.report import markdown
from benchmarks.results import differing_facts, document_to_update, new_document, write_document
from benchmarks.settings import Settings
from benchmarks.settings import quick as quick_settings

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
    """Folder with a quick measurement of all parts, made once by the real command line."""
    folder = tmp_path_factory.mktemp("bench")
    arguments = ["--quick", "--threads", "1", "--out", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
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


def test_every_section_has_its_settings_and_environment(quick, sections):
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


def test_steps_compare_the_same_number_of_trainable_parameters(sections):
    for label, selection in sections["steps"]["result"].items():
        variants = selection["variants"]
        assert list(variants) == COMPARED
        for facts in variants.values():
            check_times(facts, 2)
            # The batch is saved, but allocated before the step.
            assert 0 < facts["saved_bytes"] <= facts["held_bytes"] + 1024
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
        assert variants["nola"]["trained"] == head + selection["layers"] * 2 * 4
    assert [facts["layers"] for facts in sections["steps"]["result"].values()] == [2, 6]


def test_the_other_parts_are_complete(sections):
    files = sections["files"]["result"]
    assert {*OURS, "peft lora", "peft vera", "peft vera, projection saved"} <= set(files)
    assert files["peft vera"]["bytes"] < files["peft vera, projection saved"]["bytes"]
    assert all(facts["bytes"] >= 4 * facts["parameters"] for facts in files.values())
    growth = sections["growth"]["result"]
    assert {name: list(sweep["points"]) for name, sweep in growth.items()} == {
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


def test_decoding_generates_the_same_texts_both_ways(sections):
    result = sections["decoding"]["result"]
    assert result["prompts"] < result["rows"]
    assert result["equal"] == result["sample"] > 0
    for facts in result["ways"].values():
        check_times(facts, 2)
        assert facts["tokens_per_s"] > 0
    batches, single = result["ways"].values()
    scale = result["rows"] / result["sample"]
    assert single["seconds"] == pytest.approx(single["median_s"] * scale)
    assert batches["seconds"] == batches["median_s"]


def test_large_models_run_with_every_adapter(sections):
    result = sections["large"]["result"]
    assert list(result) == [model.name for model in Settings().large.models]
    for model in result.values():
        assert list(model["variants"]) == COMPARED
        for facts in model["variants"].values():
            check_times(facts, 2)
            assert facts["tokens_per_s"] == pytest.approx(model["tokens"] / facts["median_s"])


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
    """The command line in this process, without its effects on the whole process."""
    monkeypatch.setattr(cli.machine, "keep_freed_memory", lambda: False)
    monkeypatch.setattr(cli, "_quieten", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "collect", lambda: None)  # slow in a process with many modules
    return cli.main


def test_only_replaces_one_section_and_a_failure_keeps_the_others(
    quick, in_process, monkeypatch, tmp_path, sections
):
    for file in quick.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def fail(*_):
        raise RuntimeError("injected by the test")

    monkeypatch.setitem(cli.PARTS, "growth", fail)
    assert in_process(["--quick", "--only", "hadamard,growth", "--out", str(tmp_path)]) == 1
    after = json.loads((tmp_path / "cpu.json").read_text())["sections"]
    assert list(after) == list(sections)
    assert [name for name in after if after[name] != sections[name]] == ["growth", "hadamard"]
    assert after["growth"]["status"] == "failed"
    assert after["growth"]["error"] == "RuntimeError: injected by the test"
    assert after["hadamard"]["status"] == "ok"
    page = (tmp_path / "cpu.md").read_text()
    assert "injected by the test" in page
    assert "not measured under the same conditions" in page  # the setting of the allocator


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "speed"],
        ["--only", "large"],
        ["--device", "tpu"],
        ["--rounds", "0"],
        ["--threads", "-1"],
        ["--baseline", "no/such/checkout"],
        ["--only", "files", "--baseline", str(ROOT)],
    ],
)
def test_invalid_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.arguments(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_the_worker_times_every_adapter_of_the_comparison():
    requests = [json.dumps(["q, v", name]) for name in ("limit", "randlora (kept)", "rlora")]
    lines = [line for request in requests for line in (request, "null", "null")]
    seconds = list(step_worker.serve(lines, torch.device("cpu"), is_quick=True))
    assert len(seconds) == 9
    assert all(value > 0 for value in seconds)


def test_two_checkouts_take_turns():
    order = []

    def worker(name, seconds):
        return lambda request: order.append((name, request)) or seconds

    workers = {baseline.HERE: worker("here", 3.0), baseline.BASELINE: worker("baseline", 2.0)}
    rows = baseline.compare_checkouts(workers, quick_settings().steps, lambda text: None)
    adapters = ["limit", *OURS, "randlora (kept)"]
    assert [row["adapter"] for row in rows] == adapters * 2
    assert [row["layers"] for row in rows] == ["q, v"] * 7 + ["all linears"] * 7
    assert all(row["here"] == [3.0, 3.0] and row["baseline"] == [2.0, 2.0] for row in rows)
    assert order[:6] == [
        ("here", ("q, v", "limit")),
        ("baseline", ("q, v", "limit")),
        ("here", None),
        ("baseline", None),
        ("baseline", None),
        ("here", None),
    ]
    cells = [list(column.cells) for column in baseline.comparison_table(rows).columns]
    assert [column[0] for column in cells] == [
        "q, v", "limit", "2 s", "3 s", "1.50", "1.50-1.50",
    ]  # fmt: skip


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
    with pytest.raises(ValueError, match="is not valid JSON"):
        document_to_update(path, "cpu", False, here)


def test_a_run_without_only_replaces_the_document(in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "PARTS", {"hadamard": cli.PARTS["hadamard"]})
    monkeypatch.setattr(cli, "png", lambda *_: b"")  # slow, and tested above
    section = {"environment": {"device": "another chip"}}
    write_document(
        new_document("cpu", False) | {"sections": {"steps": section}}, tmp_path / "cpu.json"
    )
    assert in_process(["--quick", "--only", "hadamard", "--out", str(tmp_path)]) == 2
    assert in_process(["--quick", "--out", str(tmp_path)]) == 0
    assert list(json.loads((tmp_path / "cpu.json").read_text())["sections"]) == ["hadamard"]


def test_differing_facts():
    facts = {"device": "chip", "load_average": 0.1}
    other = facts | {"load_average": 0.2}
    assert differing_facts({"a": {"environment": facts}, "b": {"environment": other}}) == {}
    other["threads"] = 1
    assert differing_facts({"a": {"environment": facts}, "b": {"environment": other}}) == {
        "threads": {"a": None, "b": 1}
    }


def test_a_document_without_sections():
    assert png(new_document("cpu", False), "cpu").startswith(b"\x89PNG")
    assert markdown(new_document("cpu", False), "cpu").startswith("# Speed and size on cpu\n")
