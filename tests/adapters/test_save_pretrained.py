"""`save_pretrained` of an adapted model writes an ordinary checkpoint that computes the same."""

import copy
import pickle

import pytest
import torch
from subspace_method import Subspace
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from rlora.adapters import inject
from rlora.adapters.lora import LoRA
from rlora.adapters.multi_adapter import MultiAdapterModel
from rlora.adapters.peft import Peft
from rlora.models import quantization
from rlora.ops.fingerprint import fingerprint

TOKENS = torch.arange(20).reshape(2, 10) + 5
HEAD = ["classifier.weight", "classifier.bias"]
pytestmark = pytest.mark.filterwarnings("ignore")


def assert_comes_back(folder, logits):
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(model.eval()(TOKENS).logits, logits, rtol=1e-4, atol=1e-5)


def moved(net, adapters):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for group in adapters.parameter_groups().values():
            for parameter in group.values():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        return net(TOKENS).logits


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_checkpoint_of_an_adapted_model_comes_back(trained, tmp_path, family):
    made = trained(family, "lora")
    names = [name for name, _ in made.net.named_modules()]
    made.net.save_pretrained(tmp_path / "model")
    assert_comes_back(tmp_path / "model", made.logits)
    # the model itself is unchanged, merged or not
    assert torch.equal(made.net(TOKENS).logits, made.logits)
    assert [name for name, _ in made.net.named_modules()] == names
    with made.adapters.merged():
        made.net.save_pretrained(tmp_path / "merged")
    assert_comes_back(tmp_path / "merged", made.logits)


@pytest.mark.parametrize(
    "method",
    [
        Subspace(targets=["q", "v"]),
        Peft({"peft_type": "LORA", "bias": "all"}),
        Peft({"peft_type": "VBLORA", "r": 2, "num_vectors": 16, "vector_length": 16}),
    ],
)
def test_modules_of_the_whole_model_are_not_written(fresh, tmp_path, method):
    net = fresh("bert")
    adapters = inject(net, method, head=HEAD)
    logits = moved(net, adapters)
    net.save_pretrained(tmp_path)
    assert_comes_back(tmp_path, logits)
    with torch.no_grad():
        torch.testing.assert_close(net(TOKENS).logits, logits, rtol=1e-4, atol=1e-5)


def test_tied_weights_stay_tied(fresh, tmp_path):
    net = fresh("gpt2", "text")
    logits = moved(net, inject(net, LoRA(rank=2)))
    net.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(TOKENS).logits, logits, rtol=1e-4, atol=1e-5)
    assert again.lm_head.weight is again.transformer.wte.weight


def test_a_part_of_the_model_is_written_alike(trained, tmp_path):
    made = trained("bert", "lora")
    made.net.bert.save_pretrained(tmp_path)
    expected = made.net.bert(TOKENS).last_hidden_state
    again = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(TOKENS).last_hidden_state, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_writes_its_own_weights(trained, tmp_path, twin):
    made = trained("bert", "lora")
    other = twin(made.net)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name.endswith("updates.0.B"):
                parameter += 0.1
        logits = other(TOKENS).logits
    assert not torch.allclose(logits, made.logits)
    other.save_pretrained(tmp_path)
    assert_comes_back(tmp_path, logits)


def test_an_unwrapped_model_is_ordinary(trained, tmp_path):
    made = trained("bert", "lora")
    plain = made.adapters.unwrap()
    assert "save_pretrained" not in vars(plain)
    plain.save_pretrained(tmp_path)
    assert_comes_back(tmp_path, made.logits)


def test_what_cannot_be_merged_is_refused_and_nothing_is_written(fresh, tmp_path):
    net = fresh("bert")
    quantization.quantize(net, "int8")
    inject(net, LoRA(rank=2))
    with pytest.raises(RuntimeError, match=r"a frozen weight is quantized.*rlora\.save"):
        net.save_pretrained(tmp_path / "model")
    net = fresh("bert")
    inject(net, LoRA(rank=2))
    with pytest.raises(RuntimeError, match="omit state_dict"):
        net.save_pretrained(tmp_path / "model", state_dict=net.state_dict())
    net = fresh("bert")
    torch.nn.utils.parametrizations.weight_norm(net.bert.encoder.layer[0].attention.self.query)
    inject(net, LoRA(rank=2))
    with pytest.raises(RuntimeError, match="computes its weight from other parameters"):
        net.save_pretrained(tmp_path / "model")
    net = fresh("bert")
    several = MultiAdapterModel(net, fingerprint(net, []))
    with pytest.raises(RuntimeError, match="the model has several adapters"):
        several.model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_of_the_trainer_comes_back_and_resumes(fresh, tmp_path):
    from transformers import Trainer, TrainingArguments

    def trained_twice(folder, **resume):
        net = fresh("bert")
        adapters = inject(net, LoRA(rank=2), head=HEAD)
        arguments = TrainingArguments(
            str(folder),
            max_steps=2,
            save_steps=1,
            learning_rate=0.05,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        rows = [{"input_ids": TOKENS[i % 2], "labels": torch.tensor(i % 2)} for i in range(16)]
        Trainer(net, arguments, train_dataset=rows).train(**resume)
        return net.eval(), adapters.saved_tensors()

    net, tensors = trained_twice(tmp_path / "whole")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole/checkpoint-2")
    with torch.no_grad():
        actual, expected = again.eval()(TOKENS).logits, net(TOKENS).logits
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    first = str(tmp_path / "whole/checkpoint-1")
    _, resumed = trained_twice(tmp_path / "resumed", resume_from_checkpoint=first)
    for name, tensor in resumed.items():
        torch.testing.assert_close(tensor, tensors[name], rtol=1e-5, atol=1e-6)
