"""The Kullback–Leibler divergence of a learned density from a generated 2-D density with a known log-probability."""

from score_sde.metrics.base import Inputs, Metric, Needs, Result


class DensityKL(Metric):
    """The mean of log p(x) − log q(x) over held-out points x, with the density p of the data and the model's q.

    Error: the standard error over the points.
    """

    name = "density"
    results = ("density_kl",)
    title = "KL divergence from the exact density"
    unit = "nats"
    needs = Needs(outputs=(), model=True, likelihood=True)
    better = "lower"
    error = "standard_error"

    def compute(self, inputs: Inputs) -> dict[str, Result]:
        found, count = inputs.model.density(), inputs.model.num_held_out
        error = found["kl_standard_error"]
        return {"density_kl": {"value": found["kl"], "standard_error": error, "num_examples": count, **found}}
