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
# This tutorial defines a new SDE, trains a score model on a two-dimensional density, samples it by the reverse SDE and by
# the probability-flow ODE, and computes its log-likelihood, all held against the exact answer. About two minutes on a CPU.

# %% [markdown]
# On Colab, put a wheel of score_sde (`make wheel` builds it in `dist/`) among the files on the left, or set `SOURCE` to
# where pip finds the project, such as `"git+https://…"` with the address of its repository. Where score_sde is installed, or
# this notebook lies in a checkout, there is nothing to do.

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
# $x_t = \alpha(t)\,x_0 + \sigma(t)\,\varepsilon$. Everything else (drift, diffusion, transitions, log-SNR and its inverse,
# the prior) is derived from $\log\alpha$ and $\sigma$. Here is one that is not in the library: variance preserving, with
# $\int_0^t \beta = b\,t^3$.


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
# A mixture of eight Gaussians on a ring. Its score is known at every noise level, so that the numbers below can be checked.

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
# A network, read through a parameterization, on an SDE. `bind` gives `denoise(x, t) -> (x̂0, ε̂)`, which is all that solvers,
# guidance and likelihood ever see. The objective is denoising score matching with EDM's weighting and noise levels.

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
# The loss does not go to zero: even the exact denoiser cannot know $x_0$. It is here, on the same noise levels:

# %%
exact_loss = objective(jax.random.key(3), mixture.denoise(sde), {"x": data})[0].mean()
print(f"loss of the exact denoiser: {exact_loss:.3f}")
assert losses[-500:].mean() < exact_loss + 0.05

# %% [markdown]
# ## 4. Two ways back from noise to data
#
# The reverse SDE (here ancestral sampling) and the probability-flow ODE (here Heun's method) have the same marginals. Image
# `i` depends on `(key, i)` alone, and the number of network evaluations is counted.

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
# A picture is not a number. The exact mean and covariance are known:

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
# The probability flow carries density: $\frac{d}{dt} \log p_t(x_t) = -\nabla\cdot v$. Each point is solved with a step size of
# its own, to a tolerance. In two dimensions the divergence can be computed exactly.

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
# - `python -m experiments.train --config=configs/cifar10/ddpmpp_vp.py --workdir=runs/vp` trains on images.
# - The README lists SDEs, parameterizations, solvers, grids and objectives; any of them works with any other.
# - Put `CubicVP` in `score_sde/sdes/`, add one line to its catalogue, and it is `--config.sde.name=cubic_vp` everywhere.
