"""A random search over width, depth and learning rate of the MLP on a 2-D density.

With the variant "optuna", TPE chooses the values, and a pruner stops bad trials. A trial
takes about 15 s on one CPU core.
"""

from typing import Any

NUM_STEPS = 1000


def get_sweep(variant: str = "random") -> dict[str, Any]:
    """Variants: "random" or "optuna"."""
    if variant not in ("random", "optuna"):
        raise ValueError(f"density2d_random has the variants 'random' and 'optuna', got {variant!r}.")
    search: dict[str, Any] = {"name": "random", "num_trials": 8, "seed": 0}
    if variant == "optuna":
        pruner = {"name": "median", "n_startup_trials": 4, "n_warmup_steps": 200}
        search = {"name": "optuna", "num_trials": 16, "num_startup_trials": 6, "pruner": pruner}
    return {
        "config": "configs/density2d.py:checkerboard",
        "search": search,
        "axes": {
            "network.width": [64, 128, 256],
            "network.depth": {"name": "int", "low": 2, "high": 4},
            "optimizer.learning_rate": {"name": "log_uniform", "low": 3e-4, "high": 1e-2},
        },
        "overrides": {
            "training.num_steps": NUM_STEPS,
            "training.eval_every": 200,
            "training.checkpoint_every": NUM_STEPS,
            "optimizer.schedule.decay_steps": NUM_STEPS,
        },
        "metric": "eval/eps_error",
    }
