"""Part "reports": time to read synthetic run records and to build their tables and page."""

import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.settings import ReportSettings
from benchmarks.timing import Say, compare, take_turns
from rlora.records.record import Environment, Parameters, Run, RunRecord, Training, write_record
from rlora.reports import page, render
from rlora.reports.load import RunLoader
from rlora.reports.report import ReportSpec, make_report

TASKS, ADAPTERS = 5, 10
CONFIG_KEYS = 120  # number of values in a real config


def measure(settings: ReportSettings, device: torch.device, say: Say) -> dict[str, Any]:
    """Time each step of a report.

    Returns:
        {"steps": {name: times, ratios to reading the folders}, "bytes": size of all records}.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "runs"
        lines = Path(scratch) / "records.jsonl"
        say(f"writing {settings.runs} records")
        records = [_record(number) for number in range(settings.runs)]
        size = sum(
            write_record(record, folder / str(number)).stat().st_size
            for number, record in enumerate(records)
        )
        lines.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
        loaded = RunLoader().load([lines])
        report = make_report(loaded, ReportSpec())

        def whole() -> str:
            report = make_report(RunLoader().load([folder]), ReportSpec())
            return render.markdown(report.tables) + page.html(report)

        steps: dict[str, Callable[[], object]] = {
            "read folders of runs": lambda: RunLoader().load([folder]),
            "read a study's file": lambda: RunLoader().load([lines]),
            "means, differences, ranks": lambda: make_report(loaded, ReportSpec()),
            "the page": lambda: page.html(report),
            "all of it, from folders": whole,
        }
        prepared = {name: (lambda step=step: step) for name, step in steps.items()}
        times = take_turns(prepared, settings.rounds, device, say=say)
    return {"steps": compare(times, "read folders of runs"), "bytes": size}


def _record(number: int) -> RunRecord:
    task, rest = number % TASKS, number // TASKS
    adapter, seed = rest % ADAPTERS, rest // ADAPTERS
    draw = random.Random(number)
    score = 0.5 + 0.02 * adapter + draw.gauss(0, 0.01)
    history = [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "train/loss": draw.random(),
            "validation/accuracy": score - 0.2 / (epoch + 1),
        }
        for epoch in range(10)
    ]
    return RunRecord(
        run=Run(
            f"task{task}",
            "minilm",
            f"adapter{adapter}",
            "none",
            seed,
            f"runs/{number}",
            "2026-01-01",
            60.0,
            [],
            True,
            config_hash=str(number),
        ),
        parameters=Parameters(1000 * (adapter + 1), 770, 22_713_216, 0.1),
        scores={"validation/accuracy": score, "test/accuracy": score - 0.01},
        monitor="validation/accuracy",
        training=Training(10, 100, 50.0 + draw.random(), 100.0, 2000.0, 9, history),
        environment=Environment(
            "", "", "cpu", "32-true", 2, 900.0, None, "0" * 40, False, {"rlora": "0"}
        ),
        data={"rows": {"train": 512, "test": 872}},
        backbone={"source": "", "fingerprint": "0" * 64},
        adapter_file_bytes=40_000,
        config={
            f"section{i % 10}": {f"key{j}": j for j in range(CONFIG_KEYS // 10)} for i in range(10)
        },
    )
