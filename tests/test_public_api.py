import subprocess
import sys

import hf_tsdyn


def test_public_names_are_these():
    assert sorted(hf_tsdyn.__all__) == [
        "ALRNNConfig",
        "ALRNNForPrediction",
        "ALRNNModel",
        "DynoNetConfig",
        "DynoNetForPrediction",
        "DynoNetModel",
        "DystformerConfig",
        "DystformerForMaskedModeling",
        "DystformerForPrediction",
        "DystformerModel",
        "FSNetConfig",
        "FSNetForPrediction",
        "FSNetModel",
        "ForecastOutput",
        "ForecastPipeline",
        "Forecaster",
    ]
    assert all(hasattr(hf_tsdyn, name) for name in hf_tsdyn.__all__)


def test_importing_the_library_needs_no_extra():
    program = """
import builtins, pkgutil, sys
extras = {"dysts", "matplotlib", "gluonts", "gradio", "heyoka", "trackio", "chronos", "peft", "pytest", "triton"}
real_import = builtins.__import__
def guarded(name, globals=None, *args, **kwargs):
    ours = (globals or {}).get("__name__", "").startswith("hf_tsdyn")
    if ours and name.split(".")[0] in extras:
        raise ModuleNotFoundError(f"{name} is an extra")
    return real_import(name, globals, *args, **kwargs)
builtins.__import__ = guarded
import hf_tsdyn
assert "numba" not in sys.modules  # slow to import
for module in pkgutil.walk_packages(hf_tsdyn.__path__, "hf_tsdyn."):
    # A kernel that is only ever imported where there is a GPU, and the page that its command imports.
    if not module.name.endswith(("recurrence_triton", "hf_tsdyn.demo.app")):
        __import__(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
