"""The methods for inverse problems: a new one is one more line here."""

from score_sde.guidance import guide
from score_sde.guidance import inverse as inv
from score_sde.solvers import DDIM, Ancestral

# name: (operator, σ_y) -> (the rule, the solver)
METHODS = {
    "pigdm": lambda a, std: (inv.PiGDM(a, std), DDIM()),
    "pigdm_published": lambda a, std: (inv.PiGDM(a, std, as_published=True), inv.Renoise(0.5)),
    "mmps": lambda a, std: (inv.MMPS(a, std), DDIM()),
    "mmps_stochastic": lambda a, std: (inv.MMPS(a, std), Ancestral()),
    "tmpd": lambda a, std: (inv.TMPD(a, std), DDIM()),
    "ddnm": lambda a, std: (inv.DDNM(a), inv.Renoise()),
    "diffpir": lambda a, std: (inv.DiffPIR(a, std), inv.Renoise(0.55)),
    "jfps": lambda a, std: (inv.JFPS(a, std), DDIM()),
    "lgd": lambda a, std: (inv.Measured(a, std), inv.LGD(num_samples=3)),
    "dps": lambda a, std: (inv.Measured(a, std), inv.DPS()),
    "replacement": lambda a, std: (inv.Measured(a, std), inv.Replacement()),
    "ddrm": lambda a, std: (inv.Measured(a, std), inv.DDRM()),
    "ddnm_plus": lambda a, std: (inv.Measured(a, std), inv.DDNMPlus()),
    "daps": lambda a, std: (inv.Measured(a, std), inv.DAPS(3, num_langevin=20, step_size=5e-3, last_ratio=1.0)),
    "red_diff": lambda a, std: (inv.Measured(a, std), inv.REDDiff()),
}


def build(name, model, operator, noise_std, y):
    """(the denoiser, the solver)."""
    rule, solver = METHODS[name](operator, noise_std)
    return guide(model, (rule,), {"y": y}), solver
