"""Run transformers' own test suite on one model class, and print what came of each test as JSON.

    python transformers_suite.py transformers:PatchTSTModel '{"test_to_skip": "reason"}'

Needs the package `transformers_tests` on the path: the common tests of the installed transformers' sdist.
"""

# The package is on the path only while the tests run.
# pyright: reportMissingImports=false

import copy
import importlib
import inspect
import io
import json
import runpy
import sys
import traceback
import unittest
from pathlib import Path

import torch
from transformers import MODEL_MAPPING, PatchTSTConfig
from transformers_tests import test_modeling_common as common
from transformers_tests.test_configuration_common import ConfigTester

NUM_CHANNELS = 3
COMMON_PROPERTIES = ("hidden_size", "num_attention_heads", "num_hidden_layers")
CONFIGS = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["TINY_CONFIGS"] | {
    "patchtst": PatchTSTConfig(
        context_length=64,
        prediction_length=8,
        patch_length=16,
        patch_stride=16,
        d_model=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=48,
        num_input_channels=NUM_CHANNELS,
        random_mask_ratio=0.0,
    )
}


class Subject:
    """Configuration and inputs of one class, under the names that the suite looks for."""

    batch_size = 7  # the suite's own number where it makes inputs up
    is_training = True

    def __init__(self, model_class):
        self.config = CONFIGS[model_class.config_class.model_type]
        self.inputs = inspect.signature(model_class.forward).parameters
        self.hidden_size = self.config.hidden_size
        self.num_hidden_layers = self.config.num_hidden_layers
        self.num_attention_heads = getattr(self.config, "num_attention_heads", None)
        self.seq_length = self.config.context_length // getattr(self.config, "patch_length", 1)
        if model_class.__module__.startswith("transformers."):
            self.expected_num_hidden_layers = self.num_hidden_layers  # PatchTST's leave the embedding out

    def get_config(self):
        return copy.deepcopy(self.config)

    def prepare_config_and_inputs_for_common(self):
        series = {"past_values": self.config.context_length, "future_values": self.config.prediction_length}
        inputs = {
            name: common.floats_tensor([self.batch_size, length, NUM_CHANNELS])
            for name, length in series.items()
            if name in self.inputs
        }
        if "mask" in self.inputs:
            every_other = torch.arange(self.seq_length) % 2 == 0
            inputs["mask"] = every_other.repeat(self.batch_size, NUM_CHANNELS, 1).to(common.torch_device)
        return self.get_config(), inputs


def build_case(model_class, skipped):
    """Return the suite as a test case of `model_class`, without the tests that `skipped` names with a reason."""

    def set_up(self):
        common.global_rng.seed(0)
        torch.manual_seed(0)
        self.model_tester = Subject(model_class)
        # A network without attention has no heads; the suite asks for them under this name.
        properties = [name for name in COMMON_PROPERTIES if hasattr(self.model_tester.config, name)]
        self.config_tester = ConfigTester(
            self, model_class.config_class, has_text_modality=False, common_properties=properties
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    body = {
        "all_model_classes": (model_class,),
        "additional_model_inputs": ["mask"],
        "has_attentions": hasattr(CONFIGS[model_class.config_class.model_type], "num_attention_heads"),
        "setUp": set_up,
        "test_config": test_config,
    }
    case = type(model_class.__name__, (common.ModelTesterMixin, unittest.TestCase), body)
    for name, reason in skipped.items():
        setattr(case, name, unittest.skip(reason)(getattr(case, name)))
    return case


class Outcomes(unittest.TestResult):
    """Names of the tests that passed, and the reasons of those that were skipped or failed."""

    def __init__(self):
        super().__init__()
        self.outcomes = {"passed": [], "skipped": {}, "failed": {}}

    def addSuccess(self, test):
        self.outcomes["passed"].append(test._testMethodName)

    def addSkip(self, test, reason):
        whole = getattr(test, "test_case", test)  # a subtest knows the test it is part of
        self.outcomes["skipped"][whole._testMethodName] = reason

    def addFailure(self, test, err):
        self.outcomes["failed"][test._testMethodName] = "".join(traceback.format_exception(*err))

    addError = addFailure

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.addFailure(test, err)


def main():
    """Run the suite on the class named in the first argument."""
    module, name = sys.argv[1].split(":")
    model_class = getattr(importlib.import_module(module), name)
    # The suite asks for no loss of the classes listed here.
    backbone = MODEL_MAPPING[model_class.config_class]
    common.MODEL_MAPPING_NAMES = dict(common.MODEL_MAPPING_NAMES) | {
        backbone.config_class.model_type: backbone.__name__
    }
    result, printed = Outcomes(), sys.stdout
    sys.stdout = io.StringIO()
    unittest.defaultTestLoader.loadTestsFromTestCase(build_case(model_class, json.loads(sys.argv[2]))).run(result)
    json.dump(result.outcomes, printed)


if __name__ == "__main__":
    main()
