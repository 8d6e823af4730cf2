"""python -m benchmarks [unet] [start_up] [--rounds=7] [--torch_python=PYTHON]: times in turn, prints medians and ratios."""

import argparse

from benchmarks import start_up, unet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=["unet", "start_up", []], help="which; both if none")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--torch_python", help="an interpreter with torch and diffusers, to compare with them")
    args = parser.parse_args()
    if "unet" in args.names or not args.names:
        unet.run(args.rounds, args.torch_python)
    if "start_up" in args.names or not args.names:
        start_up.run(args.rounds)


if __name__ == "__main__":
    main()
