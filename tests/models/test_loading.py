"""Every architecture under the switches that transformers, accelerate and torch offer for loading and running it."""

import copy
import json
from collections.abc import Iterator
from itertools import chain

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from hf_tsdyn.models import ARCHITECTURES, MASKED_MODELING

HALVES = [torch.bfloat16, torch.float16]
with_attention = pytest.mark.parametrize(
    "model", [name for name, head in ARCHITECTURES.items() if head._supports_sdpa], indirect=True
)
with_layers = pytest.mark.parametrize(
    "model", [name for name, head in ARCHITECTURES.items() if head.supports_gradient_checkpointing], indirect=True
)


@pytest.fixture
def folder(model, tmp_path):
    """A checkpoint of the model."""
    model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    return chain(model.parameters(), model.buffers())


def assert_same_state(found: nn.Module, expected: nn.Module) -> None:
    states = found.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    different = [name for name, value in states[0].items() if not torch.equal(value.cpu(), states[1][name])]
    assert not different


def gradients(model: PreTrainedModel, windows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """Of a loss, by parameter; None where none arrives, which compiled graphs write as 0."""
    silent = without_gradient(model)
    model(**windows).loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {
        name: None if name in silent and value is not None and not value.any() else value
        for name, value in found.items()
    }


def without_gradient(model: PreTrainedModel) -> frozenset[str]:
    """Names of parameters that no loss of a forecast reaches."""
    return getattr(model, "without_gradient", frozenset())


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto"])
def test_a_device_map_leaves_nothing_on_the_meta_device(model, windows, folder, device_map):
    loaded, report = type(model).from_pretrained(folder, device_map=device_map, output_loading_info=True)
    assert not any(report.values())
    assert all(tensor.device == loaded.device for tensor in tensors(loaded))
    assert_same_state(loaded, model)
    forecast = loaded.forecast(windows["past_values"], prediction_length=9)
    torch.testing.assert_close(forecast, model.forecast(windows["past_values"], prediction_length=9), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("asked", "found"),
    [("auto", torch.float32), ("bfloat16", torch.bfloat16), *((dtype, dtype) for dtype in HALVES)],
)
def test_a_checkpoint_is_loaded_in_the_asked_precision(model, windows, folder, asked, found):
    loaded = type(model).from_pretrained(folder, dtype=asked)
    assert loaded.dtype == loaded.config.dtype == found
    assert all(tensor.dtype == found for tensor in tensors(loaded) if tensor.is_floating_point())
    assert loaded.forecast(windows["past_values"], prediction_length=9).dtype == torch.float32


@pytest.mark.parametrize("dtype", HALVES)
def test_a_half_precision_checkpoint_stays_one(model, tmp_path, dtype):
    model.to(dtype).save_pretrained(tmp_path)
    for loaded in (type(model).from_pretrained(tmp_path), type(model).from_pretrained(tmp_path, dtype="auto")):
        assert loaded.dtype == dtype
        assert_same_state(loaded, model)
    assert_same_state(type(model).from_pretrained(tmp_path, dtype=torch.float32), copy.deepcopy(model).float())


@with_attention
@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_is_chosen_at_loading(model, folder, name):
    loaded = type(model).from_pretrained(folder, attn_implementation=name)
    configs = {id(module.config): module.config for module in loaded.modules() if hasattr(module, "config")}
    assert {config._attn_implementation for config in configs.values()} == {name}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flash_attention_2", "does not support Flash Attention 2"),
        ("flex_attention", "flex_attention"),
        ("fast", 'attn_implementation="fast"` is not supported'),
    ],
)
def test_attention_that_an_architecture_lacks_is_refused(model, folder, name, message):
    with pytest.raises(ValueError, match=message):
        type(model).from_pretrained(folder, attn_implementation=name)


def test_shards_hold_what_one_file_holds(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size=sum(tensor.nbytes for tensor in tensors(model)) // 3)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == model.state_dict().keys()
    assert len(list(tmp_path.glob("*.safetensors"))) == len(set(index["weight_map"].values())) > 1
    assert_same_state(type(model).from_pretrained(tmp_path), model)


def test_a_model_emptied_on_the_meta_device_is_drawn_as_if_built(model, monkeypatch):
    initialize = PreTrainedModel._initialize_weights

    def seeded(*args, **kwargs):
        torch.manual_seed(0)
        initialize(*args, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "_initialize_weights", seeded)
    built = type(model)(copy.deepcopy(model.config))
    with torch.device("meta"):
        emptied = type(model)(copy.deepcopy(model.config))
    emptied.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in tensors(emptied):
            tensor.fill_(-1 if tensor.dtype == torch.long else torch.nan)
    emptied.init_weights()
    assert_same_state(emptied, built)


@with_layers
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("embedding_is_frozen", [True, False])
def test_checkpointed_layers_have_their_gradients(model, windows, use_reentrant, embedding_is_frozen):
    """A frozen embedding, as under adapters, gives re-entrant checkpoints no gradient to start from."""
    embedding = model.train().get_input_embeddings()
    embedding.requires_grad_(not embedding_is_frozen)
    expected = gradients(copy.deepcopy(model), windows)
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    torch.testing.assert_close(gradients(model, windows), expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_trains(model, windows, dtype):
    expected = model(**windows).loss
    half = model.to(dtype).train()
    loss = half(**windows).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    loss.backward()
    reached = [parameter.grad for name, parameter in half.named_parameters() if name not in without_gradient(half)]
    assert all(gradient.dtype == dtype and gradient.isfinite().all() for gradient in reached)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_autocast_trains(model, windows, dtype, attention):
    if model._supports_sdpa:
        model.set_attn_implementation(attention)
    windows["past_values"][0, :, 1] = torch.nan  # a channel to be kept out of attention
    expected = model(**windows).loss
    with torch.autocast("cpu", dtype=dtype):
        output = model.train()(**windows)
    assert output.loss.dtype == output.prediction_outputs.dtype == torch.float32
    torch.testing.assert_close(output.loss, expected, rtol=0.02, atol=0)
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own, and the next where it compiles
@pytest.mark.filterwarnings("ignore:`torch._prims_common.check`:FutureWarning")
def test_one_compiled_graph_trains_as_the_model_does(model, windows, backend):
    torch._dynamo.reset()
    compiled = copy.deepcopy(model.train())
    compiled.forward = torch.compile(compiled.forward, backend=backend, fullgraph=True)
    torch.testing.assert_close(gradients(compiled, windows), gradients(model, windows), atol=1e-5, rtol=1e-4)


def test_parameters_are_counted(model):
    assert model.num_parameters() == sum(parameter.numel() for parameter in model.parameters())


@with_layers
def test_the_embedding_is_found(model):
    backbone = getattr(model, model.base_model_prefix)
    assert model.get_input_embeddings() is backbone.get_input_embeddings()
    assert model.get_output_embeddings() is None


def test_tuples_hold_what_named_outputs_hold(model, windows):
    heads = [type(model)] + [MASKED_MODELING[name] for name in MASKED_MODELING if name == model.config.model_type]
    for head in heads:
        inputs = windows if head is type(model) else {"past_values": windows["past_values"]}
        each = head(copy.deepcopy(model.config)).eval()
        torch.manual_seed(0)
        named = each(**inputs, output_hidden_states=True)
        torch.manual_seed(0)
        plain = each(**inputs, output_hidden_states=True, return_dict=False)
        assert isinstance(plain, tuple)
        torch.testing.assert_close(plain, named.to_tuple(), rtol=0, atol=0)
