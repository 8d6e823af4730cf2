"""python -m benchmarks [NAME …] [--rounds=7] [--torch_python=…] …: times in turn, prints medians and ratios."""

import argparse
import importlib

NAMES = ("unet", "start_up", "sweep", "throughput", "memory", "guidance")
STUDIES = ("extrapolation",)  # these do not measure speed, and run only when named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, *STUDIES, []], help="which; all if none")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--torch_python", help="unet: an interpreter with torch and diffusers")
    parser.add_argument("--edm", help="unet: a checkout of NVlabs/edm, run by torch_python")
    parser.add_argument("--score_sde_2021", help="unet: a checkout of yang-song/score_sde")
    parser.add_argument(
        "--hackable_python", help="unet: an interpreter with hackable_diffusion, and the same jax as here"
    )
    options = vars(parser.parse_args())
    names, rounds = options.pop("names") or NAMES, options.pop("rounds")
    for name in names:
        importlib.import_module(f"benchmarks.{name}").run(rounds, **(options if name == "unet" else {}))


if __name__ == "__main__":
    main()
