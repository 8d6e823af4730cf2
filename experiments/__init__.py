"""Commands: `score-sde train --config=… --workdir=…` and so on. Each parses flags, then calls score_sde once."""
