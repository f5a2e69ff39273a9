"""The official GLUE files: sizes, splits, reference metrics, published few-shot samples."""

from collections import Counter

import numpy as np
import pytest
import torch

from rlora.data.splits import few_shot_rows, normalize

pytestmark = pytest.mark.data

SIZES = {  # train, dev, unlabeled test of the official release
    "cola": (8551, 1043, 1063),
    "sst2": (67349, 872, 1821),
    "mrpc": (3668, 408, 1725),
    "stsb": (5749, 1500, 1379),
    "rte": (2490, 277, 3000),
    "wnli": (635, 71, 146),
}
LABELS = {  # of train and dev, by class id
    "cola": ({0: 2528, 1: 6023}, {0: 322, 1: 721}),
    "sst2": ({0: 29780, 1: 37569}, {0: 428, 1: 444}),
    "mrpc": ({0: 1194, 1: 2474}, {0: 129, 1: 279}),
    "rte": ({0: 1249, 1: 1241}, {0: 146, 1: 131}),
    "wnli": ({0: 323, 1: 312}, {0: 40, 1: 31}),
}


@pytest.mark.parametrize("name", SIZES)
def test_official_counts(build_task, data_root, name):
    task = build_task(name)
    read = task.read()
    assert (len(read["train"]), len(read["test"]), len(task.read_unlabeled()["predict"])) == SIZES[
        name
    ]
    if name in LABELS:
        assert (Counter(read["train"].labels), Counter(read["test"].labels)) == LABELS[name]
    else:
        assert np.mean(read["train"].labels) == pytest.approx(2.701, abs=5e-4)
        assert np.mean(read["test"].labels) == pytest.approx(2.364, abs=5e-4)


@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "stsb", "rte", "wnli"])
def test_validation_shares_no_text_with_train(build_task, data_root, name):
    task = build_task(name)
    read = task.read()
    splits = task.split_plan().apply(read).splits
    texts = [
        {normalize(text) for row in splits[part].texts for text in row}
        for part in ("train", "validation")
    ]
    assert not texts[0] & texts[1]
    size = min(round(0.05 * len(read["train"])), 2000)
    assert len(splits["validation"]) == size
    assert len(splits["train"]) + size == len(read["train"])
    assert splits["test"] is read["test"]
    assert task.split_plan().apply(read).splits["validation"].digest == splits["validation"].digest


def test_qnli_dev_and_test(build_task, data_root, tmp_path):
    folder = data_root / "glue" / "QNLI"
    for name, source in {
        "train.tsv": "dev.tsv",
        "dev.tsv": "dev.tsv",
        "test.tsv": "test.tsv",
    }.items():
        (tmp_path / name).symlink_to(folder / source)
    task = build_task("qnli", path=str(tmp_path))
    assert Counter(task.read()["test"].labels) == {0: 2702, 1: 2761}
    assert len(task.read_unlabeled()["predict"]) == 5463


@pytest.mark.parametrize(
    ("name", "folder", "rows", "classes"),
    [("mnli", "MNLI", 48, 3), ("qnli", "QNLI", 32, 2), ("qqp", "QQP", 32, 2)],
)
@pytest.mark.parametrize("seed", [13, 21, 42, 87, 100])
def test_official_train_columns(build_task, data_root, tmp_path, name, folder, rows, classes, seed):
    source = data_root / "glue_partial" / "k-shot" / folder / f"16-{seed}"
    (tmp_path / "train.tsv").symlink_to(source / "train.tsv")
    for part in build_task(name).dev.values():
        dev = "dev_matched.tsv" if name == "mnli" else "dev.tsv"
        (tmp_path / part["file"]).symlink_to(source / dev)
    for examples in build_task(name, path=str(tmp_path)).read().values():
        assert len(examples) == rows
        assert Counter(examples.labels) == dict.fromkeys(range(classes), 16)
        assert all(len(row) == 2 and all(row) for row in examples.texts)


def lines_of(path, header):
    with path.open(encoding="utf-8", newline="\n") as file:
        return file.readlines()[header:]


def sampled(lines, label, seed):
    rows = few_shot_rows([line.rstrip("\n").split("\t")[label] for line in lines], 16, seed)
    return [[lines[row] for row in part] for part in rows]


def published(data_root, folder, seed, header):
    source = data_root / "glue_partial" / "k-shot" / folder / f"16-{seed}"
    return [lines_of(source / name, header) for name in ("train.tsv", "dev.tsv")]


@pytest.mark.parametrize(("folder", "label"), [("MRPC", 0), ("RTE", 3)])
@pytest.mark.parametrize("seed", [13, 21, 42, 87, 100])
def test_few_shot_equals_the_published_rows(data_root, folder, label, seed):
    lines = lines_of(data_root / "glue" / folder / "train.tsv", 1)
    assert sampled(lines, label, seed) == published(data_root, folder, seed, 1)


def test_few_shot_samples_of_cola_and_sst2(data_root):
    """CoLA agrees for seed 100, the first seed; SST-2 does not agree at all.

    The published generator shuffles the lines of a file without a header in place, so that each
    seed shuffles the result of the seed before it (100, 13, 21, 42, 87). In that order all five
    samples agree. The published SST-2 sample comes from another release (whole sentences): not all
    its rows are in GLUE's train.tsv.
    """
    original = lines_of(data_root / "glue" / "CoLA" / "train.tsv", 0)
    assert sampled(original, 1, 100) == published(data_root, "CoLA", 100, 0)
    assert sampled(original, 1, 13) != published(data_root, "CoLA", 13, 0)
    lines = list(original)
    for seed in (100, 13, 21, 42, 87):
        assert sampled(lines, 1, seed) == published(data_root, "CoLA", seed, 0)
        np.random.RandomState(seed).shuffle(lines)
    glue = {
        line.split("\t")[0].strip()
        for line in lines_of(data_root / "glue" / "SST-2" / "train.tsv", 1)
    }
    sample = [line.split("\t")[0].strip() for line in published(data_root, "SST-2", 13, 1)[0]]
    assert any(text not in glue for text in sample)


def test_the_task_samples_the_published_rows(build_task, data_root):
    task = build_task("rte", shots=16, sample_seed=42)
    texts = task.split_plan().apply(task.read()).splits["train"].texts
    lines = published(data_root, "RTE", 42, 1)[0]
    assert texts == [tuple(line.rstrip("\n").split("\t")[1:3]) for line in lines]


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb", "rte"])
def test_metrics_equal_reference_code(build_task, data_root, name):
    sklearn = pytest.importorskip("sklearn.metrics")
    stats = pytest.importorskip("scipy.stats")
    task = build_task(name)
    labels = np.asarray(task.read()["test"].labels)
    rng = np.random.default_rng(0)
    if name == "stsb":
        predicted = (labels + rng.normal(size=len(labels))).astype(np.float32)
    else:
        predicted = np.where(rng.random(len(labels)) < 0.3, 1 - labels, labels)
    metrics = task.new_metrics()
    for part in np.array_split(np.arange(len(labels)), 7):
        target = torch.tensor(labels[part], dtype=torch.float32 if name == "stsb" else torch.int64)
        metrics.update(torch.tensor(predicted[part]), target)
    reference = {
        "matthews": lambda: sklearn.matthews_corrcoef(labels, predicted),
        "accuracy": lambda: sklearn.accuracy_score(labels, predicted),
        "f1": lambda: sklearn.f1_score(labels, predicted),
        "pearson": lambda: stats.pearsonr(labels, predicted)[0],
        "spearman": lambda: stats.spearmanr(labels, predicted)[0],
    }
    for key, value in metrics.compute().items():
        assert float(value) == pytest.approx(reference[key](), abs=1e-5), key


@pytest.mark.parametrize(
    ("name", "file"), [("cola", "CoLA.tsv"), ("stsb", "STS-B.tsv"), ("mrpc", "MRPC.tsv")]
)
def test_loaders_and_submission(
    build_task, data_root, tokenizer, session_cache, tmp_path, name, file
):
    task = build_task(name)
    task.setup(tokenizer, seed=0, cache_dir=session_cache)
    loaders = {**task.validation_loaders(), **task.test_loaders(), **task.predict_loaders()}
    for key, loader in loaders.items():
        seen = torch.cat([batch["index"] for batch in loader])
        assert sorted(seen.tolist()) == list(range(len(loader.dataset))), key
    rows = SIZES[name][2]
    values = np.linspace(-1, 6, rows).tolist() if name == "stsb" else [1] * rows
    path = task.write_predictions(tmp_path, "predict", values)
    lines = path.read_text().splitlines()
    assert (path.name, lines[0], len(lines)) == (file, "index\tprediction", rows + 1)
    expected = ["0\t0.000", f"{rows - 1}\t5.000"] if name == "stsb" else ["0\t1", f"{rows - 1}\t1"]
    assert [lines[1], lines[-1]] == expected
