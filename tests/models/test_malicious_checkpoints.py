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
from hf_tsdyn.checkpoint_safety import MAX_NUMBER, check_checkpoint
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
    with pytest.raises(ValueError, match=r"found weights\.bin; it is not opened"):
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
    ],
)
def test_settings_that_load_more_than_weights_are_refused(folder, sentinel, load, change):
    write_pickle(folder / "adapter_model.bin", sentinel)
    settings(folder, **change)
    with pytest.raises(ValueError, match=f"must not decide what is loaded beside weights, found {next(iter(change))}="):
        load(folder)


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


def test_a_good_checkpoint_is_counted(folder, patchtst):
    num_values = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert check_checkpoint(folder) == check_checkpoint(folder / "model.safetensors") == num_values == 28
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
    write_pickle(cached / "pytorch_model.bin", sentinel)
    with pytest.raises(OSError, match="safetensors"):
        load()


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
