"""Our forecasters in other people's benchmarks.

`hf_tsdyn.adapters.gluonts` is for gluonts and GIFT-Eval, `hf_tsdyn.adapters.fev` for fev; neither is imported here.
"""
