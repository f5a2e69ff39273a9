"""The model card of an export: what was trained, its scores, and code that loads it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlora.runs.load import TrainedRun

MERGED = """from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")"""
PEFT = """from peft import PeftModel
from transformers import {auto}, AutoTokenizer

base = {auto}.from_pretrained({arguments})
model = PeftModel.from_pretrained(base, "{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")"""


def model_card(run: TrainedRun, name: str, form: str, notes: Sequence[str]) -> str:
    """Return the card as Markdown, with the front matter that the Hugging Face hub reads.

    Args:
        run: The exported run.
        name: Name of the folder, or of the repository on the hub.
        form: "merged" or "peft".
        notes: Sentences on what the export changed.
    """
    choices = run.config["choices"]
    lines = [
        *_front_matter(run, form),
        f"# {choices.get('adapter')} on {choices.get('task')} ({choices.get('model')})",
        "",
        _training_sentence(run),
        "",
        *(f"{note}\n" for note in notes),
        *_loading(run, name, form),
        "",
        *_score_table(run),
    ]
    return "\n".join(lines)


def base_name(run: TrainedRun) -> str | None:
    """Return what loads the backbone elsewhere: its hub id, or its folder; None for random ones."""
    path = run.config["model"].get("path")
    return run.backbone.hub or (None if path is None else str(path))


def label_names(run: TrainedRun) -> list[str]:
    """Return the names of the task's labels in the order of the head; empty without classes."""
    names = run.config["task"].get("labels") if run.kind == "classification" else None
    return [str(name) for name in names or []]


def _on_the_hub(base: str | None) -> bool:
    return base is not None and not Path(base).expanduser().is_dir()


def _front_matter(run: TrainedRun, form: str) -> list[str]:
    choices, base = run.config["choices"], base_name(run)
    tags = dict.fromkeys(["rlora", str(choices.get("adapter")), str(choices.get("task"))])
    return [
        "---",
        *([f"base_model: {base}"] if _on_the_hub(base) else []),
        f"library_name: {'peft' if form == 'peft' else 'transformers'}",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
        "",
    ]


def _training_sentence(run: TrainedRun) -> str:
    report, config = run.adapters.report(), run.config
    section = config["adapter"]
    # of a directory of PEFT, its options that are set
    shown = {key: value for key, value in (section.get("saved") or {}).items() if value} or section
    options = ", ".join(f"{key}={value}" for key, value in shown.items() if key != "_target_")
    return (
        f"Trained with rlora: `{config['choices'].get('adapter')}` ({options}), "
        f"seed {config['seed']}, on {run.backbone.source}. Trainable parameters: "
        f"{report.adapter:,} in the adapter ({report.percent:.3g} % of the backbone) "
        f"and {report.head:,} in the head. Fingerprint of the backbone's weights "
        f"(`rlora.ops.fingerprint`): `{run.backbone.fingerprint}`."
    )


def _loading(run: TrainedRun, name: str, form: str) -> list[str]:
    """Return the code that loads the export, or why no code can."""
    base = base_name(run)
    if form == "peft" and base is None:
        return [
            f"The backbone ({run.backbone.source}) has random weights that nothing but rlora "
            "builds: load the run with rlora, or export it with `--format merged`."
        ]
    auto = "AutoModelForCausalLM" if run.kind == "text" else "AutoModelForSequenceClassification"
    code = PEFT if form == "peft" else MERGED
    return [
        "```python",
        code.format(auto=auto, name=name, arguments=", ".join(_arguments(run, base))),
        "```",
    ]


def _arguments(run: TrainedRun, base: str | None) -> list[str]:
    """Return the arguments that load the backbone as the run did."""
    config: Any = run.backbone.model.config
    arguments = [f'"{base}"']
    if base == run.config["model"].get("path") and _on_the_hub(base):
        arguments += [f'revision="{run.config["model"].get("revision") or "main"}"']
    if run.kind != "text":
        # a decoder classifies the last token before the padding
        arguments += [f"num_labels={config.num_labels}", f"pad_token_id={config.pad_token_id}"]
    if names := label_names(run):
        arguments += [
            f"id2label={dict(enumerate(names))}",
            f"label2id={ {name: i for i, name in enumerate(names)} }",
        ]
    return arguments


def _score_table(run: TrainedRun) -> list[str]:
    """Return the scores of the run as Markdown, without losses; empty without a run record."""
    if run.record is None:
        return []
    rows = [
        f"| {name} | {score:.4f} |"
        for name, score in run.record.scores.items()
        if not name.endswith("/loss")
    ]
    return ["| metric | score |", "|---|--:|", *rows, ""]
