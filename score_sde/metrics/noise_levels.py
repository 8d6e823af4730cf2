"""The error of a denoiser on held-out data, over all noise levels."""

from score_sde.metrics.base import Inputs, Metric, Needs, Result


class NoiseLevels(Metric):
    """‖ε̂ − ε‖²/d on held-out data: the mean over noise levels that are uniform in log-SNR.

    Error: the standard error is an upper bound. It is the mean of the standard errors of the
      levels, which share their examples.
    """

    name = "noise_levels"
    title = "error of ε̂ on held-out data"
    unit = "‖ε̂ − ε‖²/d"
    needs = Needs(outputs=(), model=True)
    better = "lower"
    error = "standard_error"
    compared_too = ("result.log_snr",)

    def compute(self, inputs: Inputs) -> dict[str, Result]:
        curve = inputs.model.noise_levels()
        result = {
            "value": float(curve.mean.mean()),
            "standard_error": float(curve.standard_error.mean()),
            "num_examples": curve.num_examples,
            "log_snr": curve.log_snr.tolist(),
            "mean": curve.mean.tolist(),
            "standard_errors": curve.standard_error.tolist(),
            "note": (
                f"mean over {len(curve.mean)} noise levels of ‖ε̂ − ε‖²/d, {curve.num_examples} examples; the standard error is "
                "an upper bound"
            ),
        }
        return {self.name: result}
