"""Entry points: `score-sde train --config=… --workdir=…`, and so on. Flags, then one call into score_sde."""
