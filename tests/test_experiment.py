"""From a ConfigDict to objects: every config builds, and every mistake is named."""

import importlib
import pathlib

import jax
import pytest
from ml_collections import ConfigDict

from configs import base
from score_sde import parallel
from score_sde.building import build
from score_sde.experiment import Experiment, apply_override
from score_sde.sdes import SDES, VP
from score_sde.thresholding import Threshold

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
FILES = [p for p in sorted(CONFIGS.rglob("*.py")) if p.name != "__init__.py" and p.parent.name != "sweeps"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_config_builds(path):
    """Everything but the data, which need not be here."""
    module = importlib.import_module("configs." + ".".join(path.relative_to(CONFIGS).with_suffix("").parts))
    experiment = Experiment(module.get_config())
    for part in ("sde", "denoiser", "objective", "optimizer", "solver", "grid", "log_prob"):
        assert getattr(experiment, part) is not None
    times = experiment.grid.times(experiment.sde)
    experiment.solver.check(experiment.sde, times)


def broken(**sections):
    config = base.get_config()
    for path, value in sections.items():
        *parents, field = path.split("__")
        section = config
        for name in parents:
            section = section[name]
        with section.unlocked(), section.ignore_type():
            section[field] = ConfigDict(value) if isinstance(value, dict) else value
    return Experiment(config)


def test_unknown_names_and_fields_are_listed_with_the_closest():
    with pytest.raises(ValueError, match=r"config.sde.name needs one of .*'vp'.*got 'vpp'. Did you mean 'vp'\?"):
        broken(sde={"name": "vpp"}).sde
    with pytest.raises(ValueError, match=r"config.sde has the unknown field 'beta_mx'.*Did you mean 'beta_max'\?"):
        broken(sde={"name": "vp", "beta_mx": 3.0}).sde
    with pytest.raises(ValueError, match=r"config.objective.weighting.name needs one of .*Did you mean 'likelihood'"):
        broken(objective__weighting={"name": "likelyhood"}).objective
    with pytest.raises(ValueError, match=r"config.sampling.solver.predictor has the unknown field 'etta'"):
        predictor = {"name": "ddim", "etta": 1.0}
        broken(sampling__solver={"name": "predictor_corrector", "predictor": predictor}).solver
    with pytest.raises(ValueError, match=r"unknown \['sampler'\]"):
        broken(sampler={"name": "x"})
    with pytest.raises(ValueError, match="VP needs 0 <= beta_min <= beta_max"):
        broken(sde={"name": "vp", "beta_min": 3.0, "beta_max": 1.0}).sde


def test_thresholding_is_a_field_that_a_config_need_not_have():
    def wrapped(**fields):
        return broken(sampling__threshold=fields).threshold(lambda x, t: None)

    assert isinstance(wrapped(name="static", limit=2.0), Threshold)
    assert wrapped(name="dynamic", percentile=0.9).percentile == 0.9
    for none in (Experiment(base.get_config()), broken(sampling__threshold=None)):
        assert none.threshold(compile) is compile
    config = base.get_config()
    apply_override(config, "sampling.threshold={'name': 'dynamic', 'limit': 1.5}")
    apply_override(config, "sampling.label=3")
    assert Experiment(config).threshold(lambda x, t: None).limit == 1.5
    with pytest.raises(
        ValueError, match=r"config.sampling.threshold.name needs one of \['dynamic', 'static'\].*Did you"
    ):
        wrapped(name="dynamc")
    with pytest.raises(
        ValueError, match=r"threshold has the unknown field 'percentil'; 'dynamic' takes \['percentile', "
    ):
        wrapped(name="dynamic", percentil=0.9)
    with pytest.raises(ValueError, match="Threshold needs limit > 0, got limit=-1.0"):
        wrapped(name="static", limit=-1.0)
    with pytest.raises(
        ValueError, match="config.sampling.threshold needs a section with a name or None, got 'dynamic'"
    ):
        broken(sampling__threshold="dynamic").threshold


def test_a_missing_argument_is_an_error_of_the_config():
    with pytest.raises(ValueError, match="config.sampling.solver: 'predictor_corrector' cannot be built"):
        broken(sampling__solver={"name": "predictor_corrector"}).solver


def test_build_passes_positional_arguments():
    assert build("sde", SDES, {"name": "vp", "beta_max": 10.0}) == VP(beta_max=10.0)


def test_a_mesh_that_does_not_fit():
    """The devices, the batch, the network; and where the number of devices stood before."""
    with pytest.raises(ValueError, match="The mesh needs 1 <= num_devices"):
        broken(mesh__num_devices=4096).mesh
    with pytest.raises(ValueError, match="training.num_devices is now mesh.num_devices, got 2; move it"):
        broken(training__num_devices=2)
    with pytest.raises(ValueError, match=r"config.mesh needs the fields \['data', 'fsdp', 'num_devices', 'tensor'\]"):
        broken(mesh__fdsp=2).mesh
    with pytest.raises(ValueError, match="accumulation_steps needs to be >= 1 and divide the 128 examples"):
        broken(optimizer__accumulation_steps=3, mesh__num_devices=1).mesh


def test_a_network_that_declares_no_tensor_axis(monkeypatch):
    mesh = jax.sharding.AbstractMesh((1, 1, 2), parallel.AXES)
    monkeypatch.setattr(parallel, "make_mesh", lambda **sizes: mesh)
    monkeypatch.setattr(parallel, "check_batch_size", lambda *sizes: None)
    with pytest.raises(ValueError, match=r"mesh.tensor=2 needs a network that says .*set mesh.tensor=1"):
        broken(mesh__tensor=2).mesh


def test_overrides():
    config = base.get_config()
    apply_override(config, "sampling.grid.num_steps=7")
    apply_override(config, "sde={'name': 've', 'sigma_max': 10.0}")
    assert config.sampling.grid.num_steps == 7 and config.sde.to_dict() == {"name": "ve", "sigma_max": 10.0}
    for text in ("sampling.grid.num_stpes=7", "sampling.grid.num_steps", "nothing.x=1"):
        with pytest.raises(ValueError, match="An override needs FIELD=VALUE"):
            apply_override(config, text)
