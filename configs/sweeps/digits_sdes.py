"""VP, sub-VP and VE at two learning rates on the 8×8 digits, compared by bits/dim of held-out digits.

The losses of different SDEs are not comparable. Bits/dim are. docs/sweeps.md has the table,
the plot, the hardware and the time.
"""

from typing import Any

from score_sde.configs.quickstart import SDES

NUM_STEPS = 300


def get_sweep() -> dict[str, Any]:
    """No variants."""
    return {
        "config": "configs/quickstart.py",
        "axes": {
            "sde": [SDES[name] for name in ("vp", "sub_vp", "ve")],
            "optimizer.learning_rate": [5e-4, 2e-3],
        },
        "overrides": {
            "training.num_steps": NUM_STEPS,
            "training.checkpoint_every": 100,
            "optimizer.schedule.decay_steps": NUM_STEPS,
            "optimizer.schedule.warmup_steps": 50,
            "ema.half_lives_kimg": (2.0,),
            "task.condition_dropout": 0.0,  # bits/dim given the label need no null class
        },
        "then": ["python -m score_sde likelihood --workdir={workdir} --max_examples=128"],
        "metric": {"name": "likelihood.json:mean", "error": "likelihood.json:standard_error", "label": "bits/dim"},
    }
