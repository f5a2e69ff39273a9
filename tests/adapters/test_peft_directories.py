"""Directories that PEFT wrote: trained biases and whole modules, newer files, other heads."""

import json
import logging

import peft
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from test_peft_method import ENCODER, HEAD, TOKENS

from rlora.adapters import checkpoint, inject
from rlora.adapters.lora import LoRA
from rlora.adapters.peft import Peft
from rlora.export.peft_format import peft_format
from rlora.models import quantization
from rlora.models.random_init import random_model

pytestmark = pytest.mark.filterwarnings("ignore")
TIED = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
QV = {"r": 2, "target_modules": ["query", "value"]}


def encoder(num_labels=2):
    return random_model(ENCODER, kind="classification", num_labels=num_labels, seed=0).model.eval()


def decoder():
    return random_model(TIED, kind="text", num_labels=0, seed=0).model.eval()


def written(net, config, folder):
    """Train nothing, move all that PEFT trains, write it; return the logits."""
    model = peft.get_peft_model(net, config)
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return model.eval()(TOKENS).logits


def export(adapters, folder, kind="classification"):
    """Write an adapter set as `python -m rlora.export` does."""
    config, tensors = peft_format(adapters, kind=kind, base="")
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return config


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("modules", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_tied_embeddings_of_a_directory_train_and_come_back(tmp_path, modules, tied):
    config = peft.LoraConfig(
        r=2,
        target_modules=["q_proj"],
        modules_to_save=modules,
        ensure_weight_tying=tied,
        task_type="CAUSAL_LM",
    )
    expected = written(decoder(), config, tmp_path / "peft")
    net = decoder()
    adapters = inject(net, Peft(path=tmp_path / "peft"))
    close(net(TOKENS).logits, expected)
    assert adapters.report().adapter > 260 * 32  # the embeddings count as the adapter's

    # what the run saves restores it without the directory, as PEFT loads what it exports
    checkpoint.save(adapters, tmp_path / "own")
    again = decoder()
    checkpoint.load(inject(again, Peft(saved=adapters.method.saved)), tmp_path / "own")
    close(again(TOKENS).logits, expected)
    export(adapters, tmp_path / "export", "text")
    close(PeftModel.from_pretrained(decoder(), tmp_path / "export").eval()(TOKENS).logits, expected)

    adapters.unwrap().save_pretrained(tmp_path / "merged")
    loaded = type(net).from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(loaded(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modules", [None, ["classifier"]])
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_of_a_directory_train_and_come_back(tmp_path, bias, modules):
    config = peft.LoraConfig(bias=bias, modules_to_save=modules, **QV)
    expected = written(encoder(), config, tmp_path / "peft")
    net = encoder()
    adapters = inject(net, Peft(path=tmp_path / "peft"), head=HEAD)
    close(net(TOKENS).logits, expected)
    export(adapters, tmp_path / "export")
    model = PeftModel.from_pretrained(encoder(), tmp_path / "export").eval()
    close(model(TOKENS).logits, expected)


def test_old_names_of_biases_are_read(tmp_path):
    expected = written(encoder(), peft.LoraConfig(bias="lora_only", **QV), tmp_path / "peft")
    file = tmp_path / "peft" / "adapter_model.safetensors"
    old = {key.replace(".base_layer.", "."): value for key, value in load_file(file).items()}
    save_file(old, file)
    net = encoder()
    inject(net, Peft(path=tmp_path / "peft"), head=HEAD)
    close(net(TOKENS).logits, expected)


@pytest.mark.parametrize(("bias", "number"), [("none", 0), ("lora_only", 2), ("all", 18)])
def test_biases_train_count_save_merge_and_export(tmp_path, bias, number):
    def adapted():
        net = encoder()
        return net, inject(
            net, Peft({"peft_type": "LORA", "r": 2, "bias": bias}, targets=["query"]), head=HEAD
        )

    net, adapters = adapted()
    biases = {n: p for n, p in adapters.adapter_parameters().items() if n.endswith(".bias")}
    assert len(biases) == number
    count = 2 * 2 * (2 * 32) + sum(p.numel() for p in biases.values())
    assert adapters.report().adapter == count
    net(TOKENS).logits[:, 0].sum().backward()
    assert all(p.grad is not None for p in biases.values())
    with torch.no_grad():
        for parameter in adapters.adapter_parameters().values():
            parameter += 0.1
    expected = net(TOKENS).logits
    checkpoint.save(adapters, tmp_path / "own")
    other, fresh = adapted()
    checkpoint.load(fresh, tmp_path / "own")
    close(other(TOKENS).logits, expected)
    assert export(adapters, tmp_path / "export")["bias"] == bias
    model = PeftModel.from_pretrained(encoder(), tmp_path / "export").eval()
    close(model(TOKENS).logits, expected)
    with adapters.merged():
        torch.testing.assert_close(net(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
    close(net(TOKENS).logits, expected)


def test_whole_modules_of_the_command_line_train(tmp_path):
    def adapted(modules):
        net = encoder()
        return net, inject(net, Peft({"peft_type": "LORA", "modules_to_save": modules}), head=HEAD)

    net, adapters = adapted(["pooler", "classifier"])
    assert adapters.whole == ["bert.pooler"]  # the task trains the classifier
    assert "bert.pooler.dense.weight" in adapters.adapter_parameters()
    net(TOKENS).logits[:, 0].sum().backward()
    assert net.bert.pooler.dense.weight.grad is not None
    with torch.no_grad():
        for parameter in adapters.adapter_parameters().values():
            parameter += 0.1
    assert export(adapters, tmp_path / "export")["modules_to_save"] == ["bert.pooler", "classifier"]
    model = PeftModel.from_pretrained(encoder(), tmp_path / "export").eval()
    close(model(TOKENS).logits, net(TOKENS).logits)
    with pytest.raises(ValueError, match="modules_to_save: 'nowhere' is no module"):
        adapted(["nowhere"])
    net = encoder()
    quantization.quantize(net, "int8")
    with pytest.raises(ValueError, match=r"output\.dense\.weight is quantized"):
        inject(net, Peft({"peft_type": "LORA", "modules_to_save": ["output.dense"]}))


def test_an_unknown_key_is_named_and_ignored(tmp_path, caplog):
    expected = written(encoder(), peft.LoraConfig(**QV), tmp_path)
    file = tmp_path / "adapter_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "of_2030": True}))
    net = encoder()
    inject(net, Peft(path=tmp_path), head=HEAD)
    close(net(TOKENS).logits, expected)
    assert "the key of_2030 is unknown to the installed PEFT, and ignored" in caplog.text


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"layer_replication": [[0, 1]]}, r"layer_replication=\[\[0, 1\]\] is not supported"),
        ({"rank_pattern": {"_target_": "os.system"}}, "the key _target_, which no PEFT option has"),
        ({"init_lora_weights": "${oc.env:HOME}"}, "which no PEFT option has"),
        ({"peft_type": "OF_2030"}, "does not fit the installed PEFT: it has no type OF_2030"),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused(tmp_path, entries, message):
    written(encoder(), peft.LoraConfig(**QV), tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    with pytest.raises(ValueError, match=message):
        Peft(path=tmp_path)


def test_weights_of_another_backbone_are_refused(tmp_path):
    net = decoder()
    net.get_input_embeddings().weight.data += 1
    model = peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    with pytest.raises(ValueError, match=r"holds .*\.weight of another backbone"):
        inject(decoder(), Peft(path=tmp_path))


def test_a_head_with_other_classes_starts_anew(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = peft.LoraConfig(task_type="SEQ_CLS", **QV)
    written(encoder(3), config, tmp_path)
    net = encoder(2)
    start = net.classifier.weight.clone()
    adapters = inject(net, Peft(path=tmp_path), head=HEAD)
    assert adapters.starts_with_other_head
    assert torch.equal(net.classifier.weight, start)
    assert any(p.abs().sum() > 0 for n, p in adapters.trained.items() if "lora_B" in n)
    assert "belongs to another task: only the adapter is loaded" in caplog.text


@pytest.mark.parametrize(
    "wrap", [peft.get_peft_model, lambda n, c: peft.inject_adapter_in_model(c, n)]
)
@pytest.mark.parametrize("method", [LoRA(targets="all-linear"), Peft({"peft_type": "LORA"})])
def test_a_model_with_adapters_of_peft_is_refused(wrap, method):
    net = wrap(encoder(), peft.LoraConfig(**QV))
    names = [name for name, _ in net.named_modules()]
    with pytest.raises(RuntimeError, match=r"carries adapters of PEFT: call its merge_and_unload"):
        inject(net, method)
    assert [name for name, _ in net.named_modules()] == names


def test_a_part_of_an_adapted_model_and_its_whole_are_refused():
    net = encoder()
    inject(net.bert, LoRA(rank=2))
    with pytest.raises(RuntimeError, match="carries adapters already"):
        inject(net, LoRA(rank=2))
    with pytest.raises(RuntimeError, match="carries adapters already"):
        inject(net.bert.encoder, LoRA(rank=2))


def test_an_unwrapped_model_can_be_adapted_again():
    net = encoder()
    inject(net, Peft({"peft_type": "LORA"})).unwrap()
    inject(net, LoRA(rank=2)).unwrap()
    inject(net, Peft({"peft_type": "LORA"}))


def test_a_refusal_leaves_a_model_that_can_be_adapted(tmp_path):
    written(encoder(), peft.LoraConfig(**QV), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, next(iter(tensors)): torch.zeros(3, 3)}, file)
    net = encoder()
    expected = net(TOKENS).logits
    names = [name for name, _ in net.named_modules()]
    refused = [
        Peft(path=tmp_path),  # after all layers are in the model
        Peft({"peft_type": "LORA", "rank_pattern": {"layer.1.*value": 0}}),  # after some
    ]
    for method in refused:
        with pytest.raises(ValueError, match=r"."):
            inject(net, method, head=HEAD)
        assert [name for name, _ in net.named_modules()] == names
        assert all(parameter.requires_grad for parameter in net.parameters())
        close(net(TOKENS).logits, expected)
    inject(net, LoRA(rank=2), head=HEAD)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "method",
    [
        Peft({"peft_type": "LORA", "lora_dropout": 0.5}),
        Peft(
            {"peft_type": "VBLORA", "vblora_dropout": 0.5, "num_vectors": 16, "vector_length": 16}
        ),
        LoRA(rank=2, dropout=0.5),
    ],
)
def test_new_layers_follow_the_mode_of_the_model(method, training):
    net = encoder().train(training)
    inject(net, method)
    assert {module.training for module in net.modules()} == {training}


@pytest.mark.parametrize("first", ["peft", "ours"])
def test_a_randlora_keeps_its_logits_between_peft_and_ours(tmp_path, first):
    """PEFT writes the projections once more for each layer; ours writes them once."""
    config = peft.RandLoraConfig(r=8, target_modules=["query", "value"], task_type="SEQ_CLS")
    if first == "peft":
        expected = written(encoder(), config, tmp_path / "0")
    else:
        from rlora.adapters.randlora import RandLoRA

        net = encoder()
        adapters = inject(net, RandLoRA(rank=8, alpha=160), head=HEAD)
        with torch.no_grad():
            for parameter in adapters.adapter_parameters().values():
                parameter += 0.05
        expected = net(TOKENS).logits
        export(adapters, tmp_path / "0")
    for turn in range(2):
        net = encoder()
        adapters = inject(net, Peft(path=tmp_path / str(2 * turn)), head=HEAD)
        torch.testing.assert_close(net(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
        export(adapters, tmp_path / str(2 * turn + 1))
        names = load_file(tmp_path / str(2 * turn + 1) / "adapter_model.safetensors")
        assert sum("randlora_A" in name for name in names) == 1
        model = PeftModel.from_pretrained(encoder(), tmp_path / str(2 * turn + 1)).eval()
        torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
        model.save_pretrained(tmp_path / str(2 * turn + 2))
