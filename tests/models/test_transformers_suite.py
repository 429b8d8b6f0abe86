"""The tests that transformers runs on its own models, run on ours: what its PatchTST passes, ours must pass.

They come from the sdist of the installed transformers, which is fetched from the package index once and kept in the
user's cache folder.
"""

import functools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
import transformers
from transformers import MODEL_MAPPING

from hf_tsdyn.models import ARCHITECTURES, MASKED_MODELING

# Both are skipped by PatchTST's own test file in transformers' repository too.
NO_TOKENS = {
    "test_model_get_set_embeddings": "a series has no tokens to embed",
    "test_resize_tokens_embeddings": "a series has no tokens to embed",
}
RANDOM_BUFFERS = {
    "test_init_weights_can_init_buffers": "expects buffers that no random draw enters; test_loading.py compares them "
    "under one seed",
}
# By class, what PatchTST passes and this one cannot, and why.
EXCEPTIONS = {
    "DystformerModel": RANDOM_BUFFERS,
    "DystformerForPrediction": RANDOM_BUFFERS,
    "FSNetModel": RANDOM_BUFFERS,
    "FSNetForPrediction": RANDOM_BUFFERS
    | {
        "test_torch_save_load": "calls a dictionary where it compares truth values, the triggers; test_loading.py "
        "compares them",
    },
    "DystformerForMaskedModeling": RANDOM_BUFFERS
    | {
        "test_model_outputs_equivalence": "subtracts all outputs, which truth values, the mask, do not allow; "
        "test_loading.py compares them",
    },
}
# By class, beginnings of the names of tests that the suite itself skips on a network without attention and layers.
NO_ATTENTION = (
    "test_attention_outputs",
    "test_can_set_attention_dynamically",
    "test_capture_outputs_decorator",
    "test_eager_matches_sdpa_inference",
    "test_enable_input_require_grads",
    "test_flash_attn",
    "test_resize_position_vector_embeddings",
    "test_sdpa_can_dispatch",
    "test_attn_implementation_composite_models",
)
SKIPPED_BY_THE_SUITE = dict.fromkeys(
    ("ALRNNModel", "ALRNNForPrediction", "DynoNetModel", "DynoNetForPrediction", "FSNetModel", "FSNetForPrediction"),
    NO_ATTENTION,
)
COMMON_TESTS = ("test_modeling_common.py", "test_configuration_common.py")
# What the common tests import beside each other and do not need for models that neither generate nor export.
STAND_INS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": "config_common_kwargs = "
    "{'return_dict': False, 'output_hidden_states': True, 'dtype': 'float16', 'problem_type': 'regression'}\n",
}
REFERENCES = {
    "forecasting": "transformers:PatchTSTForPrediction",
    "masked": "transformers:PatchTSTForPretraining",
    "backbone": "transformers:PatchTSTModel",
}


def classes_to_test():
    """Return (kind, class) of every architecture's backbone and heads."""
    backbones = [("backbone", MODEL_MAPPING[head.config_class]) for head in ARCHITECTURES.values()]
    forecasting = [("forecasting", head) for head in ARCHITECTURES.values()]
    return backbones + forecasting + [("masked", head) for head in MASKED_MODELING.values()]


def cached_sdist():
    """Return the sdist of the installed transformers, downloaded unless the cache folder has it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hf_tsdyn"
    file = cache / f"transformers-{transformers.__version__}.tar.gz"
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            requirement = f"transformers=={transformers.__version__}"
            options = ["--quiet", "--no-deps", "--no-binary", "transformers", "--dest", scratch]
            ran = run_python("-m", "pip", "download", *options, requirement)
            assert ran.returncode == 0, f"the package index must serve {requirement}, found:\n{ran.stderr}"
            Path(scratch, file.name).replace(file)
    return file


def run_python(*arguments, **variables):
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)


@pytest.fixture(scope="session")
def common_tests(tmp_path_factory):
    """The folder that holds the package `transformers_tests`."""
    folder = tmp_path_factory.mktemp("common_tests")
    package = folder / "transformers_tests"
    for name, text in STAND_INS.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
    with tarfile.open(cached_sdist()) as sdist:
        for name in COMMON_TESTS:
            source = sdist.extractfile(f"transformers-{transformers.__version__}/tests/{name}")
            (package / name).write_bytes(source.read())
    return folder


@functools.cache
def run_suite(folder, subject, skipped):
    """Return the tests of transformers' suite that passed, were skipped and failed on the class `module:name`.

    `skipped` is a JSON object of the tests to leave out and why.
    """
    script = Path(__file__).with_name("transformers_suite.py")
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    ran = run_python(str(script), subject, skipped, PYTHONPATH=path, OMP_NUM_THREADS="1")
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model_class"), [pytest.param(*each, id=each[1].__name__) for each in classes_to_test()]
)
def test_what_patchtst_passes_of_the_suite_passes(common_tests, kind, model_class):
    exceptions = EXCEPTIONS.get(model_class.__name__, {})
    reference = run_suite(common_tests, REFERENCES[kind], json.dumps(NO_TOKENS))
    subject = f"{model_class.__module__}:{model_class.__name__}"
    outcomes = run_suite(common_tests, subject, json.dumps(NO_TOKENS | exceptions))
    assert not reference["failed"]
    assert not outcomes["failed"], "\n\n".join(outcomes["failed"].values())
    own = SKIPPED_BY_THE_SUITE.get(model_class.__name__, ())
    not_passed = {test for test in set(reference["passed"]) - set(outcomes["passed"]) if not test.startswith(own)}
    assert not_passed == exceptions.keys(), {test: outcomes["skipped"].get(test) for test in not_passed}
    assert len(outcomes["passed"]) > (60 if own else 90), len(outcomes["passed"])
