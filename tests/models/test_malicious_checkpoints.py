"""Checkpoints that mean harm are refused with a message, or what is bad of them is ignored; nothing of them runs."""

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForTimeSeriesPrediction, PatchTSTConfig

from hf_tsdyn import ForecastPipeline
from hf_tsdyn.baselines.chronos import ChronosForecaster
from hf_tsdyn.baselines.patchtst import PatchTSTForecaster
from hf_tsdyn.checkpoint_safety import check_checkpoint, count_values
from hf_tsdyn.checkpoint_settings import MAX_NUMBER, check_size
from hf_tsdyn.models import ARCHITECTURES, ALRNNConfig, ALRNNForPrediction

PATCHTST = PatchTSTConfig(
    num_input_channels=1, context_length=16, prediction_length=4, patch_length=4, patch_stride=4, d_model=8,
    num_attention_heads=2, num_hidden_layers=1, ffn_dim=8,
)  # fmt: skip
OURS = {
    "class": lambda folder: ALRNNForPrediction.from_pretrained(folder),
    "AutoModel": AutoModel.from_pretrained,
    "AutoModelForTimeSeriesPrediction": AutoModelForTimeSeriesPrediction.from_pretrained,
    "ForecastPipeline": ForecastPipeline.from_pretrained,
}


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return Path.touch, (self.sentinel,)


@pytest.fixture
def sentinel(tmp_path):
    """A file that code of a checkpoint would make; it must not be there in the end."""
    file = tmp_path / "sentinel"
    yield file
    assert not file.exists()


@pytest.fixture
def folder(tmp_path):
    """A good checkpoint of an AL-RNN, to be spoilt."""
    torch.manual_seed(0)
    ALRNNForPrediction(ALRNNConfig(num_channels=2, hidden_size=4)).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def patchtst(tmp_path):
    PatchTSTForecaster(PATCHTST).save_pretrained(tmp_path / "patchtst")
    return tmp_path / "patchtst"


@pytest.fixture(params=sorted(OURS))
def load(request):
    """Every way to load a model of ours."""
    return OURS[request.param]


def settings(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def write_pickle(file, sentinel):
    file.write_bytes(pickle.dumps({"model.h": Payload(sentinel)}))


def test_the_payload_would_run(tmp_path):
    write_pickle(tmp_path / "file", tmp_path / "touched")
    pickle.loads((tmp_path / "file").read_bytes())
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt"])
def test_a_pickle_alone_is_refused(folder, sentinel, load, name):
    (folder / "model.safetensors").unlink()
    write_pickle(folder / name, sentinel)
    with pytest.raises(ValueError, match=rf"must hold model\.safetensors, found {name}, which may run code"):
        load(folder)


def test_a_pickle_by_its_own_name_is_refused(folder, sentinel):
    write_pickle(folder / "weights.bin", sentinel)
    with pytest.raises(ValueError, match=r"found the file weights\.bin; it is not opened"):
        ALRNNForPrediction.from_pretrained(folder / "weights.bin", config=ALRNNConfig(num_channels=2, hidden_size=4))
    with pytest.raises(ValueError, match="use_safetensors must be True, found False"):
        ALRNNForPrediction.from_pretrained(folder, use_safetensors=False)


def test_a_pickle_beside_weights_is_ignored(folder, sentinel, load):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl", "adapter_model.bin"):
        write_pickle(folder / name, sentinel)
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}')
    (folder / "evil.py").write_text(f"open({str(sentinel)!r}, 'w')")
    load(folder)


@pytest.mark.parametrize(
    "outside", ["../other.safetensors", "/other.safetensors", "sub/other.safetensors", "x.bin", ".."]
)
def test_an_index_that_names_files_elsewhere_is_refused(folder, tmp_path, sentinel, load, outside):
    weights = folder / "model.safetensors"
    names = list(load_file(weights))
    weights.rename(tmp_path / "other.safetensors")
    outside = outside.replace("/other", f"{tmp_path}/other") if outside.startswith("/") else outside
    write_pickle(folder / "x.bin", sentinel)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, outside)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"must name safetensors files beside it, found '.*" + Path(outside).name):
        load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"weight_map": ["a"], "metadata": {}}', "must hold weight_map and metadata"),
        ("[]", "must hold a JSON object, found a list"),
        ("{", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ('{"weight_map": {"a": "no.safetensors"}, "metadata": {}}', r"found none called 'no\.safetensors'"),
        ('{"weight_map": {"a": "x\\\\y.safetensors"}, "metadata": {}}', "must name safetensors files beside it"),
        ('{"weight_map": {}, "metadata": {}}', "must name the file of every tensor, found none"),
    ],
)
def test_an_index_that_is_none_is_refused(folder, content, message):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ALRNNForPrediction.from_pretrained(folder)


def header(tensors):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def entry(start, stop, count=1):
    return {"dtype": "F32", "shape": [count], "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 90_000_000) + b"{}",
        header({"model.h": entry(0, 4), "model.A": entry(2, 6)}) + bytes(6),
        header({"model.h": entry(0, 4)}) + bytes(2),
        header({"model.h": entry(0, 2**62, 2**60)}) + bytes(4),
        header({"model.h": entry(0, 4, 2**62)}) + bytes(4),
        b"",
        b"\x80\x04.",
    ],
    ids=["huge_header", "long_header", "overlap", "truncated", "far_offset", "huge_shape", "empty", "pickle"],
)
def test_damaged_weights_are_refused(folder, load, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors must be a whole safetensors file, found: "):
        load(folder)


@pytest.mark.parametrize("trusted", [None, False])
def test_code_beside_a_known_architecture_is_ignored(folder, sentinel, trusted):
    classes = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    settings(folder, auto_map=classes | {"AutoModelForTimeSeriesPrediction": "evil.Model"})
    (folder / "evil.py").write_text(f"open({str(sentinel)!r}, 'w')")
    options = {} if trusted is None else {"trust_remote_code": trusted}
    for load in (AutoConfig.from_pretrained, *OURS.values()):
        load(folder, **options if load is not OURS["class"] else {})


def test_code_of_an_unknown_architecture_is_refused(folder, sentinel):
    classes = {"AutoConfig": "evil.Config", "AutoModelForTimeSeriesPrediction": "evil.Model"}
    settings(folder, model_type="evil", auto_map=classes)
    (folder / "evil.py").write_text(f"open({str(sentinel)!r}, 'w')")
    with pytest.raises(ValueError, match="contains custom code which must be executed"):
        ForecastPipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match="contains custom code which must be executed"):
        AutoConfig.from_pretrained(folder, trust_remote_code=False)


def test_an_unknown_architecture_is_refused(folder):
    settings(folder, model_type="evil")
    for load in (ForecastPipeline.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises(ValueError, match="model type `evil`"):
            load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"attn_implementation": "evil/kernel"},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"transformers_weights": "adapter_model.bin"},
        {"fusion_config": {"patch_embeddings": True}},
        {"_attn_implementation": "evil/kernel"},
        {"experts_implementation": "evil"},
        {"_experts_implementation": "evil"},
        {"configuration_files": ["config.4.0.0.json"]},
        {"distributed_config": {}},
    ],
)
def test_settings_that_load_more_than_weights_are_refused(folder, sentinel, load, change):
    write_pickle(folder / "adapter_model.bin", sentinel)
    (folder / "config.4.0.0.json").write_bytes((folder / "config.json").read_bytes())
    settings(folder, **change)
    with pytest.raises(ValueError, match=f"must not decide what is loaded beside weights, found {next(iter(change))}="):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attribute_map": {"harmless": "_attn_implementation"}, "harmless": "evil/kernel"}, "found attribute_map"),
        ({"to_dict": "x"}, "found to_dict"),
        ({"_auto_class": "x"}, "must hold settings alone, found _auto_class"),
        ({"dtype": "load"}, "dtype must be 'auto' or a floating-point type of torch like 'bfloat16', found 'load'"),
        ({"dtype": "float12"}, "found 'float12'"),
        ({"torch_dtype": "__name__"}, "found '__name__'"),
        ({"auto_map": {"AutoConfig": 5}}, "auto_map of config.json must map names to names"),
        ({"auto_map": 5}, "auto_map of config.json must map names to names"),
        ({"id2label": {"0": [2**40]}}, "id2label of config.json must be at most|0 of config.json must be at most"),
    ],
)
def test_settings_of_another_kind_are_refused(folder, change, message):
    settings(folder, **change)
    with pytest.raises(ValueError, match=message):
        ALRNNForPrediction.from_pretrained(folder)
    with pytest.raises(ValueError, match=message):
        ForecastPipeline.from_pretrained(folder)


def test_a_model_of_another_type_is_refused(folder):
    settings(folder, model_type="dynonet")
    with pytest.raises(ValueError, match=r"model_type of config\.json must be 'alrnn', found 'dynonet'"):
        ALRNNForPrediction.from_pretrained(folder)


def test_settings_without_end_are_refused(folder):
    content = json.dumps(json.loads((folder / "config.json").read_text()) | {"id2label": "DEEP"})
    (folder / "config.json").write_text(content.replace('"DEEP"', "[" * 900 + "]" * 900))
    with pytest.raises(ValueError, match="must be nested at most 32 levels deep, found more"):
        ALRNNForPrediction.from_pretrained(folder)


def test_where_a_model_comes_from_may_be_any_number(folder):
    settings(folder, provenance={"seed": 2**60})
    assert ALRNNForPrediction.from_pretrained(folder).config.provenance == {"seed": 2**60}


@pytest.mark.parametrize("pointer", ["w.safetensors", "i.safetensors.index.json"])
def test_weights_by_another_name_are_refused_before_anything_is_built(folder, tmp_path, load, pointer):
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "w.safetensors")
    (tmp_path / "outside.safetensors").write_bytes((folder / "w.safetensors").read_bytes())
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "../outside.safetensors")}
    (folder / "i.safetensors.index.json").write_text(json.dumps(index))
    settings(folder, transformers_weights=pointer)
    with pytest.raises(ValueError, match="must not decide what is loaded beside weights, found transformers_weights="):
        load(folder)


def test_a_folder_without_weights_is_refused_and_its_card_named(folder, load):
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"must hold model\.safetensors, found none at .*checkpoint; check the name"):
        ALRNNForPrediction.from_pretrained(folder)
    (folder / "README.md").write_text("Results alone.")
    with pytest.raises(OSError, match=r"it may ship without: its README\.md says why"):
        load(folder)


@pytest.mark.parametrize("held", [(), ("model.h",)])
def test_a_pipeline_of_weights_that_would_be_random_is_refused(folder, held):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensors[name] for name in held} or {"other": torch.zeros(4)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="must hold all weights of its model, found none for"):
        ForecastPipeline.from_pretrained(folder)


def test_a_header_of_too_many_tensors_is_refused(folder, monkeypatch):
    monkeypatch.setattr("hf_tsdyn.checkpoint_safety.MAX_TENSORS", 3)
    with pytest.raises(ValueError, match="must hold at most 3 tensors, found 4"):
        ALRNNForPrediction.from_pretrained(folder)


@pytest.mark.parametrize(
    "place",
    ["/nonexistent/x", "../x", "./x", "x", "model_cards/typo/x", "model_cards/typo", "runs/typo", "~/x", "mine/typo"],
)
def test_a_folder_that_is_not_there_is_named_and_not_looked_for_on_the_hub(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for load in (ForecastPipeline.from_pretrained, ALRNNForPrediction.from_pretrained):
        with pytest.raises(FileNotFoundError, match=r"or a Hub repository like NAME/MODEL, found neither at"):
            load(place)


def test_a_name_that_may_be_a_repositorys_is_said_to_be_no_folder_either():
    for load in (ForecastPipeline.from_pretrained, ALRNNForPrediction.from_pretrained):
        with pytest.raises(OSError, match=r"found no folder 'acme/absent' in .*, and of the Hub: We couldn't connect"):
            load("acme/absent")


def test_a_repository_without_settings_is_asked_for_weights(monkeypatch):
    def cached_file(name, file, *, _raise_exceptions_for_missing_entries=True, **options):
        if _raise_exceptions_for_missing_entries:
            raise OSError(f"{name} does not appear to have a file named {file}")

    monkeypatch.setattr("hf_tsdyn.checkpoint_safety.cached_file", cached_file)
    with pytest.raises(FileNotFoundError, match=r"must hold model\.safetensors, found none at acme/toy"):
        ALRNNForPrediction.from_pretrained("acme/toy", config=ALRNNConfig(num_channels=2, hidden_size=4))


def test_a_repository_that_was_downloaded_may_be_called_like_a_folder(cached, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme").mkdir()
    for load in (ForecastPipeline.from_pretrained, ALRNNForPrediction.from_pretrained):
        load("acme/toy", cache_dir=cached.parents[2])


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_type_of_weights_that_is_none_is_named(folder, name):
    for load in (ForecastPipeline.from_pretrained, ALRNNForPrediction.from_pretrained):
        with pytest.raises(ValueError, match=r"dtype must be 'auto' or .* like 'bfloat16', found 'float12'"):
            load(folder, **{name: "float12"})


def test_code_is_not_run_even_if_it_is_trusted(folder, sentinel, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    settings(folder, model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    (folder / "evil.py").write_text(f"open({str(sentinel)!r}, 'w')")
    with pytest.raises(ValueError, match="trust_remote_code must be left out, found True"):
        ForecastPipeline.from_pretrained(folder, trust_remote_code=True)
    with pytest.raises(ValueError, match="custom code"):
        ForecastPipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("size", [2**16, MAX_NUMBER + 1, 10**9, 10**18])
def test_sizes_that_the_weights_do_not_have_are_refused_before_memory_is_taken(tmp_path, name, size):
    fields = {
        "alrnn": {"hidden_size": size},
        "dynonet": {"worker_hidden_size": size},
        "dystformer": {"d_model": size, "embedding": "linear"},
        "fsnet": {"hidden_size": size, "representation_size": size},
    }[name]
    save_file({"model.h": torch.zeros(4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name} | fields))
    message = f"found weights of 4 values for a model of|at most {MAX_NUMBER} with weights of 4 values, found {size}"
    for load in (ARCHITECTURES[name].from_pretrained, ForecastPipeline.from_pretrained):
        with pytest.raises(ValueError, match=message):
            load(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "dystformer", "num_hidden_layers": 10**6},
        {"model_type": "dystformer", "poly_degrees": 10**6, "num_poly_feats": 0},
        {"model_type": "dynonet", "num_worker_layers": 10**6},
        {"model_type": "fsnet", "num_hidden_layers": 10**6},
    ],
)
def test_depths_without_end_are_refused_before_they_are_built(tmp_path, fields):
    save_file({"model.h": torch.zeros(4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"{list(fields)[1]} of config.json must be at most 1024"):
        ARCHITECTURES[fields["model_type"]].from_pretrained(tmp_path)


def test_fields_given_at_loading_are_bounded_too(folder):
    with pytest.raises(ValueError, match="found weights of 28 values for a model of"):
        ALRNNForPrediction.from_pretrained(folder, hidden_size=2**16)
    with pytest.raises(ValueError, match="found weights of 28 values for a model of"):
        ALRNNForPrediction.from_pretrained(folder, config=ALRNNConfig(num_channels=2, hidden_size=2**16))


def test_weights_of_another_shape_are_refused(folder):
    settings(folder, hidden_size=5)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        ALRNNForPrediction.from_pretrained(folder)


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_that_points_elsewhere_is_refused(folder, tmp_path, sentinel, load, whole):
    base = folder
    if not whole:  # transformers would load the base that the adapter names
        folder = tmp_path / "adapter"
        folder.mkdir()
    pointer = {"peft_type": "LORA", "base_model_name_or_path": str(base), "auto_mapping": {"parent_library": "evil"}}
    (folder / "adapter_config.json").write_text(json.dumps(pointer))
    write_pickle(folder / "adapter_model.bin", sentinel)
    with pytest.raises((ValueError, FileNotFoundError), match=r"found an adapter|must hold config\.json"):
        load(folder)


def test_parts_of_a_distributed_run_are_refused(folder, load):
    (folder / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"found shard-00001-model-00001-of-00001\.safetensors, one process's part"):
        load(folder)


@pytest.mark.parametrize("load", [PatchTSTForecaster.from_pretrained, ChronosForecaster.from_pretrained])
def test_baselines_refuse_what_models_refuse(patchtst, sentinel, load):
    if load == ChronosForecaster.from_pretrained:
        pytest.importorskip("chronos")
    weights = patchtst / "model.safetensors"
    content = weights.read_bytes()
    for spoilt, message in ((content[:-4], "whole safetensors file"), (b"", "whole safetensors file")):
        weights.write_bytes(spoilt)
        with pytest.raises(ValueError, match=message):
            load(patchtst)
    weights.unlink()
    write_pickle(patchtst / "pytorch_model.bin", sentinel)
    with pytest.raises(ValueError, match="which may run code"):
        load(patchtst)
    weights.write_bytes(content)
    for changes, message in (({"d_model": 10**9}, "d_model of config.json must"), ({"transformers_weights": "x"}, "x")):
        kept = (patchtst / "config.json").read_text()
        settings(patchtst, **changes)
        with pytest.raises(ValueError, match=message):
            load(patchtst)
        (patchtst / "config.json").write_text(kept)
    (patchtst / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "elsewhere"}))
    with pytest.raises(ValueError, match="found an adapter"):
        load(patchtst)


CHRONOS = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "chronos_config": {"model_type": "seq2seq"},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 2**13, "d_ff": 2**14, "num_layers": 4}, "found weights of 4 values for a model of"),
        ({"_attn_implementation": "evil/kernel"}, "must not decide what is loaded beside weights"),
        ({"attribute_map": {"a": "_attn_implementation"}, "a": "evil/kernel"}, "found attribute_map"),
        ({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}, "custom code"),
    ],
)
def test_a_chronos_that_means_harm_is_refused(tmp_path, sentinel, monkeypatch, change, message):
    pytest.importorskip("chronos")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    save_file({"shared.weight": torch.zeros(4)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(CHRONOS | change))
    (tmp_path / "evil.py").write_text(f"open({str(sentinel)!r}, 'w')")
    with pytest.raises(ValueError, match=message):
        ChronosForecaster.from_pretrained(tmp_path)


def test_a_chronos_is_checked_and_loaded_at_the_revision_asked_for(monkeypatch):
    pytest.importorskip("chronos")
    asked = []
    monkeypatch.setattr("hf_tsdyn.checkpoint_safety._check_repository", lambda name, where: None)
    monkeypatch.setattr("hf_tsdyn.baselines.chronos.check_checkpoint", lambda name, **options: asked.append(options))
    with pytest.raises(OSError, match="connect"):  # there is no network
        ChronosForecaster.from_pretrained("acme/toy", revision="0123abc")
    assert asked == [{"revision": "0123abc"}]


def test_a_good_checkpoint_is_counted(folder, patchtst):
    num_values = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert check_checkpoint(folder) == count_values(folder / "model.safetensors") == num_values == 28
    assert check_checkpoint(patchtst, variant="fp16") is None
    PatchTSTForecaster.from_pretrained(patchtst)


def test_a_variant_is_what_is_counted(folder):
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    assert check_checkpoint(folder, variant="fp16") == 28
    ALRNNForPrediction.from_pretrained(folder, variant="fp16")


@pytest.fixture
def cached(folder, tmp_path):
    """The checkpoint as a Hub repository that was downloaded before; its snapshot's folder."""
    repository, revision = tmp_path / "cache" / "models--acme--toy", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots").mkdir()
    return folder.rename(repository / "snapshots" / revision)


def test_a_repository_is_asked_what_a_folder_is(cached, sentinel):
    def load():
        return ALRNNForPrediction.from_pretrained("acme/toy", cache_dir=cached.parents[2])

    weights = cached / "model.safetensors"
    expected = load_file(weights)
    assert torch.equal(load().model.W, expected["model.W"])
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="whole safetensors file"):
        load()
    weights.rename(cached / "part.safetensors").write_bytes(content)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(expected, "part.safetensors")}
    (cached / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(load().model.W, expected["model.W"])
    index["weight_map"]["model.h"] = "../../../part.safetensors"
    (cached / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="must name safetensors files beside it"):
        load()
    (cached / "model.safetensors.index.json").unlink()
    (cached / "part.safetensors").rename(weights)
    settings(cached, transformers_weights="x")
    with pytest.raises(ValueError, match="must not decide what is loaded"):
        load()
    settings(cached, transformers_weights=None)
    weights.unlink()
    write_pickle(cached / "pytorch_model.bin", sentinel)
    with pytest.raises(OSError, match="safetensors"):
        load()


def test_a_subfolder_is_asked_what_a_folder_is(folder, tmp_path, sentinel):
    for load in (ALRNNForPrediction.from_pretrained, ForecastPipeline.from_pretrained):
        load(tmp_path, subfolder=folder.name)
    settings(folder, transformers_weights="x")
    with pytest.raises(ValueError, match="must not decide what is loaded"):
        check_checkpoint(tmp_path, subfolder=folder.name)
    settings(folder, transformers_weights=None)
    (folder / "model.safetensors").unlink()
    write_pickle(folder / "pytorch_model.bin", sentinel)
    with pytest.raises(ValueError, match=r"found pytorch_model\.bin, which may run code"):
        check_checkpoint(tmp_path, subfolder=folder.name)


def test_loading_leaves_the_given_configuration_as_it_is(folder):
    config = ALRNNConfig(num_channels=2, hidden_size=4)
    before = config.to_dict()
    ALRNNForPrediction.from_pretrained(folder, config=config)
    assert config.to_dict() == before


def test_sizes_beyond_any_tensor_are_refused():
    with pytest.raises(ValueError, match="must describe a model that can be built, found none"):
        check_size(ALRNNForPrediction, ALRNNConfig(num_channels=2, hidden_size=2**40), 28)


@pytest.mark.slow  # for what training imports
def test_yaml_tags_are_not_followed(tmp_path, sentinel):
    from training.reconstruction_request import was_swept

    text = f"output: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{sentinel}]]\n"
    (tmp_path / "run_config.yaml").write_text(text)
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor for the tag"):
        was_swept(tmp_path)


def test_yaml_is_read_safely_everywhere():
    root = Path(__file__).resolve().parents[2]
    sources = [file for part in ("hf_tsdyn", "training", "data_generation") for file in (root / part).rglob("*.py")]
    unsafe = ("yaml.load(", "yaml.full_load", "yaml.unsafe_load", "pickle.load", "torch.load(", "allow_pickle=True")
    found = {file.name: each for file in sources for each in unsafe if each in file.read_text()}
    assert found == {"conversion_command.py": "torch.load("}  # in a message
