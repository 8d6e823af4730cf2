"""The errors of SDEs, and their messages."""

import jax
import jax.numpy as jnp
import pytest

from score_sde import sdes

INFINITE = float("inf")
REFUSED = [
    (
        lambda: sdes.VP(beta_min=-0.1),
        r"VP needs 0 <= beta_min <= beta_max and 0 < beta_max < ∞, got VP\(beta_min=-0.1, ",
    ),
    (lambda: sdes.VP(beta_min=3.0, beta_max=2.0), r"VP needs 0 <= beta_min <= beta_max .*, got VP\(.*beta_max=2.0\)"),
    (lambda: sdes.VP(beta_min=0.0, beta_max=0.0), r"VP needs .* 0 < beta_max"),
    (lambda: sdes.VP(beta_max=float("nan")), r"VP needs .*, got VP\(beta_min=0.1, beta_max=nan\)"),
    (lambda: sdes.SubVP(beta_min=3.0, beta_max=2.0), r"SubVP needs 0 <= beta_min <= beta_max .*, got SubVP\("),
    (
        lambda: sdes.VE(sigma_min=0.0),
        r"VE needs 0 < sigma_min < sigma_max < ∞, got VE\(sigma_min=0.0, sigma_max=50.0\)",
    ),
    (lambda: sdes.VE(sigma_min=2.0, sigma_max=1.0), r"VE needs 0 < sigma_min < sigma_max < ∞, got"),
    (lambda: sdes.VE(sigma_max=INFINITE), r"VE needs .* < ∞, got VE\(.*sigma_max=inf\)"),
    (lambda: sdes.EDM(sigma_max=0.0), r"EDM needs 0 < sigma_max < ∞, got EDM\(sigma_max=0.0\)"),
    (lambda: sdes.EDM(sigma_max=INFINITE), r"EDM needs 0 < sigma_max < ∞, got EDM\(sigma_max=inf\)"),
    (lambda: sdes.VP(beta_max=INFINITE), r"VP needs .* 0 < beta_max < ∞, got VP\(.*beta_max=inf\)"),
    (lambda: sdes.SubVP(beta_max=INFINITE), r"SubVP needs .* 0 < beta_max < ∞, got SubVP"),
    (lambda: sdes.Cosine(offset=-0.1), r"Cosine needs 0 <= offset < ∞, got Cosine\(offset=-0.1\)"),
    (lambda: sdes.Cosine(offset=INFINITE), r"Cosine needs 0 <= offset < ∞, got"),
    (lambda: sdes.Decay(gamma=0.0), r"Decay needs 0 < gamma < 1, got Decay\(gamma=0.0\)"),
    (lambda: sdes.Decay(gamma=1.0), r"Decay needs 0 < gamma < 1, got"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_impossible_fields_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_an_sde_cannot_be_changed():
    with pytest.raises(AttributeError, match="cannot assign"):
        sdes.VP().beta_max = 3.0


def test_an_sde_can_be_built_from_traced_values():
    """As in a loss that differentiates a schedule; nothing is checked then."""
    gradient = jax.grad(lambda high: sdes.VP(beta_max=high).log_alpha(1.0))(20.0)
    assert gradient == pytest.approx(-0.25)
    mapped = jax.vmap(lambda low: sdes.VE(sigma_min=low).sigma(0.0))(jnp.asarray([0.01, 0.02]))
    assert mapped[1] == pytest.approx(0.02)


def test_the_catalogue_names_every_sde():
    assert {"vp", "sub_vp", "ve", "edm", "cosine", "flow", "decay", "log_snr", "ddpm", "iddpm"} <= set(sdes.SDES)
    assert isinstance(sdes.SDES["iddpm"](num_levels=10), sdes.DiscreteVP)
