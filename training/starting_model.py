"""The model that a run starts from: new, a checkpoint's, or a new one on a checkpoint's backbone."""

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from training.model_config import MODEL_CLASSES, build_model_config
from training.run_config import RunConfig, split_revision


def build_model(config: RunConfig) -> PreTrainedModel:
    """Return the model to train, without adapters: new from `model`, or the start's with `model`'s fields changed.

    Raises: ValueError if the changed model has not exactly the checkpoint's weights (of the backbone, if that alone is
        the start); OSError if there is no such checkpoint.
    """
    classes = MODEL_CLASSES[config.task]
    if config.start is None:
        model_config = build_model_config(config.model, config.task)
        return classes[model_config.model_type](model_config)
    changed = _changed_config(config, config.start)
    model_class = classes[changed.model_type]
    if config.encoder_checkpoint is not None:
        fields = {name: value for name, value in config.model.items() if name != "model_type"}
        encoder, pinned = split_revision(config.encoder_checkpoint)
        return model_class.from_encoder(encoder, **pinned, **fields)
    checkpoint, pinned = split_revision(config.start)
    model, report = model_class.from_pretrained(
        checkpoint, config=changed, output_loading_info=True, ignore_mismatched_sizes=True, **pinned
    )
    differing = {kind: sorted(map(str, keys))[:3] for kind, keys in report.items() if keys}
    if differing:
        raise ValueError(
            f"model may change no weight of the checkpoint, found {differing} with {config.model} and task "
            f"{config.task}; keep the fields that decide shapes as they are, start from the backbone alone "
            "(encoder_checkpoint), or train a new model."
        )
    return model


def _changed_config(config: RunConfig, start: str) -> PreTrainedConfig:
    """The start's configuration with the fields of `model`, which are checked."""
    name, pinned = split_revision(start)
    found = AutoConfig.from_pretrained(name, **pinned)
    given = {"model_type": found.model_type} | config.model
    if given["model_type"] != found.model_type:
        raise ValueError(
            f"model.model_type must be the checkpoint's, {found.model_type!r}, found {given['model_type']!r}; leave "
            "it out."
        )
    own = type(found).__annotations__
    kept = {name: value for name, value in found.to_dict().items() if name in own}
    return build_model_config(kept | given, config.task)
