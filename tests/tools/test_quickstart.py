"""The quickstart from training to its report, with the smallest network and a few steps."""

import json

import jax
import numpy as np
from PIL import Image

from configs import quickstart
from score_sde.experiment import Experiment
from score_sde.tools.quickstart import run_quickstart


def test_the_quickstart_writes_all_that_its_report_shows(tmp_path, monkeypatch):
    monkeypatch.setattr("score_sde.tools.quickstart.NUM_SAMPLES", 20)
    config = quickstart.get_config()
    config.network.update({"channels": 4, "channel_multipliers": (1,), "attention_resolutions": ()})
    config.training.update({"num_steps": 3, "log_every": 1, "checkpoint_every": 3})
    config.sampling.grid.num_steps = 5
    config.likelihood.rtol = config.likelihood.atol = 0.1
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        report = run_quickstart(Experiment(config), tmp_path)
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["bits_per_dim"]["num_examples"] == 100
    assert (
        numbers["classifier"]["held-out digits"]["accuracy"] > 0.95 > 0.3 > numbers["classifier"]["noise"]["accuracy"]
    )
    assert numbers["evaluations"]["reverse SDE"] == 5
    page = report.read_text()
    assert "make quickstart" in page and 'src="http' not in page  # one file holds it all
    assert numbers["evaluations"]["guidance 3"] == 10
    assert "classifier-free guidance of scale 3" in page
    for name in (
        "samples_sde.png",
        "samples_ode.png",
        "guidance.png",
        "strip.png",
        "loss.png",
        "noise_levels.png",
        "reverse.webp",
    ):
        with Image.open(tmp_path / name) as image:
            assert np.asarray(image.convert("L")).std() > 10, name  # a picture, not a blank
            assert name != "reverse.webp" or image.n_frames > 1
    assert page.count("data:image/") == 7
