"""The entry of a Hub Space: the demo, with the checkpoints that lie in `model_cards` beside this file."""

from pathlib import Path

from hf_tsdyn.demo.app import build, launch_options
from hf_tsdyn.demo.checkpoints import find_checkpoints

MODELS = Path(__file__).parent / "model_cards"
CHECKPOINTS = find_checkpoints([MODELS] if MODELS.is_dir() else [])

demo = build(CHECKPOINTS)

if __name__ == "__main__":
    demo.launch(**launch_options())
