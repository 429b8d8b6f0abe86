"""Scripts that train, evaluate and publish the models of hf_tsdyn; run as modules from a checkout."""
