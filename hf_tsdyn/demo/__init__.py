"""A page to try the models on: `python -m hf_tsdyn.demo`, with the extra `demo`."""
