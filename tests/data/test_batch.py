"""The batch: what is known of it on the host, and its move to a device."""

import torch

from rlora.data.batch import make_batch, to_device

FULL = torch.ones(2, 3, dtype=torch.int64)
SHORT = torch.tensor([[1, 1, 1], [1, 1, 0]])
INDEX = torch.tensor([4, 2])


def padded(**masks):
    return make_batch(masks, index=INDEX, num_tokens=6)["padded"]


def test_the_padding_is_known_on_the_host():
    assert padded(attention_mask=FULL) is False
    assert padded(attention_mask=SHORT) is True
    assert padded(attention_mask=FULL, decoder_attention_mask=SHORT) is True
    assert padded(position_ids=SHORT) is False  # a packed batch has no mask


def test_an_unlabeled_batch_has_no_labels():
    batch = make_batch({"input_ids": FULL}, index=INDEX, num_tokens=6)
    assert set(batch) == {"inputs", "index", "num_tokens", "padded"}
    assert "labels" in make_batch({}, index=INDEX, num_tokens=0, labels=INDEX)


def test_all_tensors_move_to_the_device_and_the_facts_stay():
    batch = make_batch({"attention_mask": SHORT}, index=INDEX, num_tokens=5, labels=INDEX)
    moved = to_device(batch, torch.device("meta"))
    tensors = [*moved["inputs"].values(), moved["index"], moved["labels"]]
    assert all(tensor.is_meta for tensor in tensors)
    assert (moved["num_tokens"], moved["padded"]) == (5, True)
    assert not batch["index"].is_meta
    assert not batch["inputs"]["attention_mask"].is_meta
    unlabeled = make_batch({}, index=INDEX, num_tokens=0)
    assert "labels" not in to_device(unlabeled, torch.device("meta"))
