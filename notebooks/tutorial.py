# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From an SDE's definition to samples and a likelihood
#
# This tutorial takes about two minutes on a CPU. It has five steps:
#
# 1. define a new SDE
# 2. choose data whose exact score is known
# 3. train a score model on these data
# 4. sample it by the reverse SDE and by the probability-flow ODE
# 5. compute its log-likelihood
#
# Every number is compared with the exact answer.

# %% [markdown]
# The first cell installs score_sde if it is missing. If score_sde is installed, or if
# this notebook lies in a checkout, you need not change anything.
#
# On Colab, do one of two things. Build a wheel with `make wheel` and put it from
# `dist/` among the files on the left. Or set `SOURCE` to an address for pip, such as
# `"git+https://…"` with the address of the repository.

# %%
import importlib.util
import pathlib
import subprocess
import sys

SOURCE = ""

if importlib.util.find_spec("score_sde") is None:
    wheels = sorted(pathlib.Path.cwd().glob("score_sde-*.whl"), key=lambda path: path.stat().st_mtime)
    accelerator = ""
    if pathlib.Path("/proc/driver/nvidia").exists():
        accelerator = "[cuda12]"
    elif importlib.util.find_spec("libtpu") is not None:
        accelerator = "[tpu]"
    if SOURCE:
        requirement = f"score_sde{accelerator} @ {SOURCE}"
    elif wheels:
        requirement = f"{wheels[-1]}{accelerator}"
    elif pathlib.Path("../setup.cfg").is_file():
        requirement = f"..{accelerator}"
    else:
        raise SystemExit("There is no score_sde here: upload its wheel next to this notebook, or set SOURCE above.")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", requirement], check=True)
    importlib.invalidate_caches()

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import score_sde as ss

# %% [markdown]
# ## 1. An SDE is two functions of time
#
# An SDE gives $x_t = \alpha(t)\,x_0 + \sigma(t)\,\varepsilon$. Time $t$ runs from the
# data (0) to the noise. You write $\log\alpha$ and $\sigma$. The library derives
# everything else from them: drift, diffusion, transitions, log-SNR and its inverse, and
# the prior.
#
# This SDE is not in the library. It is variance preserving, with
# $\int_0^t \beta = b\,t^3$. The right plot compares the derived diffusion coefficient
# with the formula by hand.


# %%
@ss.pytree
class CubicVP(ss.SDE):
    """α² = exp(−b t³), σ² = 1 − α²."""

    b: float = 11.0

    def log_alpha(self, t):
        return -0.5 * self.b * t**3

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)))  # expm1 keeps the digits of 1 − α² as t → 0


sde = CubicVP()
t = jnp.linspace(0.01, 1.0, 200)
figure, axes = plt.subplots(1, 2, figsize=(8, 2.6))
axes[0].plot(t, sde.alpha(t), label="α")
axes[0].plot(t, sde.sigma(t), label="σ")
axes[1].plot(t, sde.diffusion(t), label="g, derived")
axes[1].plot(t, jnp.sqrt(3 * sde.b) * t, "--", label="√(3b) t, by hand")
for ax in axes:
    ax.set_xlabel("t")
    ax.legend()
plt.show()

# %% [markdown]
# ## 2. Data whose answers are known
#
# The data are a mixture of eight Gaussians on a ring. The score of a mixture is known
# at every noise level. So all numbers below can be checked.

# %%
angles = 2 * jnp.pi * jnp.arange(8) / 8
mixture = ss.GaussianMixture(
    weights=jnp.full(8, 1 / 8),
    means=jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1),
    stds=jnp.full((8, 2), 0.12),
)
data = mixture.sample(jax.random.key(0), 20_000)

# %% [markdown]
# ## 3. A denoiser, and training it
#
# A `Denoiser` joins an SDE, a parameterization and a network. The parameterization says
# what the network predicts. `denoiser.bind(params)` is a function
# `denoise(x, t) -> (x̂0, ε̂)`. Solvers, guidance and likelihood use only this function.
#
# The objective is denoising score matching with EDM's weighting and EDM's noise levels.

# %%
denoiser = ss.Denoiser(sde, ss.denoising.EDMPreconditioning(sigma_data=0.7), ss.networks.MLP(width=128, depth=3))
objective = ss.objectives.DenoisingScoreMatching(
    sde, ss.objectives.EDMWeighting(sigma_data=0.7), ss.objectives.LogNormal(mean=-1.2, std=1.6)
)
num_steps, batch_size = 4000, 512
optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))


@jax.jit
def train_step(params, opt_state, key):
    batch_key, loss_key = jax.random.split(key)
    batch = {"x": jax.random.choice(batch_key, data, (batch_size,))}

    def loss(params):
        return objective(loss_key, denoiser.bind(params), batch)[0].mean()

    value, gradient = jax.value_and_grad(loss)(params)
    updates, opt_state = optimizer.update(gradient, opt_state)
    return optax.apply_updates(params, updates), opt_state, value


params = denoiser.init(jax.random.key(1), {"x": data[:1]})
opt_state, losses = optimizer.init(params), []
for step in range(num_steps):
    params, opt_state, value = train_step(params, opt_state, jax.random.fold_in(jax.random.key(2), step))
    losses.append(value)
losses = np.asarray(jax.device_get(losses))
print(f"loss {losses[:100].mean():.3f} -> {losses[-500:].mean():.3f}")

# %% [markdown]
# The loss does not go to zero, because even the exact denoiser cannot know $x_0$. This
# is the loss of the exact denoiser at the same noise levels:

# %%
exact_loss = objective(jax.random.key(3), mixture.denoise(sde), {"x": data})[0].mean()
print(f"loss of the exact denoiser: {exact_loss:.3f}")
assert losses[-500:].mean() < exact_loss + 0.05

# %% [markdown]
# ## 4. Two ways back from noise to data
#
# The reverse SDE and the probability-flow ODE have the same marginals. Here ancestral
# sampling solves the reverse SDE, and Heun's method solves the ODE.
#
# The noise of sample `i` depends only on `(key, i)`. `nfe` is the number of network
# evaluations of each sample.

# %%
denoise, number = denoiser.bind(params), 4000
grid = ss.grids.LogSNRUniform(num_steps=100, end=1e-2)
by_sde = ss.sample(jax.random.key(4), denoise, ss.solvers.Ancestral(), grid, (number, 2))
grid = ss.grids.LogSNRUniform(num_steps=25, end=1e-2)
by_ode = ss.sample(jax.random.key(4), denoise, ss.solvers.Heun(), grid, (number, 2))

figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharex=True, sharey=True)
pictures = {
    "data": data[:number],
    f"reverse SDE, {by_sde.nfe[0]} evaluations": by_sde.x,
    f"probability flow, {by_ode.nfe[0]}": by_ode.x,
}
for ax, (name, points) in zip(axes, pictures.items(), strict=True):
    ax.scatter(*np.asarray(points).T, s=1, alpha=0.3)
    ax.set_title(name, fontsize=9)
    ax.set_aspect("equal")
plt.show()

# %% [markdown]
# A picture proves little, so we compare the mean and the covariance of the samples with
# the exact ones:

# %%
mean, covariance = mixture.moments()
for name, samples in (("reverse SDE", by_sde.x), ("probability flow", by_ode.x)):
    error = jnp.abs(jnp.cov(samples.T) - covariance).max()
    print(
        f"{name}: largest error of the mean {jnp.abs(samples.mean(0) - mean).max():.3f}, of the covariance {error:.3f}"
    )
    assert error < 0.05

# %% [markdown]
# ## 5. Log-likelihood
#
# Let $v$ be the velocity of the probability flow. Along the flow
# $\frac{d}{dt} \log p_t(x_t) = -\nabla\cdot v$. The solver chooses a step size for each
# point, from a tolerance. In two dimensions the divergence can be computed exactly.

# %%
log_prob = ss.LogProb(
    adaptive=ss.solvers.Adaptive(rtol=1e-4, atol=1e-4), t_min=1e-2, divergence=ss.likelihood.ExactTrace()
)
points = mixture.sample(jax.random.key(5), 500)
learned = log_prob(jax.random.key(6), denoise, points).log_prob
exact = mixture.log_prob(points)
print(f"mean log-likelihood: learned {learned.mean():.3f}, exact {exact.mean():.3f} nats")
assert abs(learned.mean() - exact.mean()) < 0.1

plt.figure(figsize=(3.2, 3.2))
plt.scatter(exact, learned, s=4, alpha=0.5)
plt.plot([-4, 1], [-4, 1], "k--", linewidth=1)
plt.xlabel("exact log p(x)")
plt.ylabel("learned log p(x)")
plt.show()

# %% [markdown]
# ## Where to go from here
#
# - `score-sde train --config=configs/cifar10/ddpmpp_vp.py --workdir=runs/vp` trains on
#   images.
# - The file `docs/catalogue.md` lists SDEs, parameterizations, objectives and networks.
#   The file `docs/solvers.md` lists solvers and grids. Any of them works with any
#   other.
# - Put `CubicVP` into a file `my_project/sdes.py`. Then
#   `--config.sde=my_project.sdes:CubicVP` trains with it, and every other command uses
#   it too. The README shows the whole file.
