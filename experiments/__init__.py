"""Entry points: `python -m experiments.train --config=… --workdir=…`, and so on. Flags, then one call into score_sde."""
