"""The model card of an export: what was trained, its scores, and code that loads it."""

from collections.abc import Sequence

from rlora.runs.load import TrainedRun

LOADING_CODE = {
    "merged": """from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")""",
    "peft": """from peft import PeftModel
from transformers import {auto}

model = PeftModel.from_pretrained({auto}.from_pretrained("{base}"{labels}), "{name}")""",
}


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
        "```python",
        _loading_code(run, name, form),
        "```",
        "",
        *_score_table(run),
    ]
    return "\n".join(lines)


def base_name(run: TrainedRun) -> str:
    """Return the name that loads the backbone elsewhere: its hub name or its path."""
    model = run.config["model"]
    return str(model.get("path") or model.get("name") or run.backbone.source)


def _front_matter(run: TrainedRun, form: str) -> list[str]:
    choices = run.config["choices"]
    return [
        "---",
        f"base_model: {base_name(run)}",
        f"library_name: {'peft' if form == 'peft' else 'transformers'}",
        "tags:",
        "- rlora",
        f"- {choices.get('adapter')}",
        f"- {choices.get('task')}",
        "---",
        "",
    ]


def _training_sentence(run: TrainedRun) -> str:
    report, config = run.adapters.report(), run.config
    options = ", ".join(
        f"{key}={value}" for key, value in config["adapter"].items() if key != "_target_"
    )
    return (
        f"Trained with rlora: `{config['choices'].get('adapter')}` ({options}), "
        f"seed {config['seed']}, on {run.backbone.source}. Trainable parameters: "
        f"{report.adapter:,} in the adapter ({report.percent:.3g} % of the backbone) "
        f"and {report.head:,} in the head."
    )


def _loading_code(run: TrainedRun, name: str, form: str) -> str:
    if run.kind == "text":
        auto, labels = "AutoModelForCausalLM", ""
    else:
        auto = "AutoModelForSequenceClassification"
        num_labels = run.backbone.model.config.num_labels  # type: ignore[union-attr]
        labels = f", num_labels={num_labels}"
    return LOADING_CODE[form].format(auto=auto, name=name, base=base_name(run), labels=labels)


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
