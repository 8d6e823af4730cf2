"""Gets the weights of LPIPS with VGG16, once: score-sde import_lpips [--vgg16=FILE] [--linear=FILE]

A file that is not given is fetched, and its digest is checked. The two files are:

  --vgg16   torchvision's vgg16-397923af.pth, 528 MB
  --linear  the learned weights, 7 kB; the code of LPIPS has them as weights/v0.1/vgg.pth

The command prints the digest of a given file. Nothing in a file is run. --features=lpips
then uses the weights. docs/evaluation.md says more.
"""

from absl import flags

from .flags import start

VGG16 = flags.DEFINE_string("vgg16", None, "torchvision's vgg16-397923af.pth. Default: the file is fetched.")
LINEAR = flags.DEFINE_string("linear", None, "vgg.pth of LPIPS 0.1. Default: the file is fetched.")
OUTPUT = flags.DEFINE_string("output", None, "Where to write. Default: $SCORE_SDE_LPIPS or ~/.cache/score_sde.")


def main() -> None:
    from score_sde.importers import import_lpips
    from score_sde.importers.weight_files import file_digest

    path = import_lpips(VGG16.value, LINEAR.value, OUTPUT.value)
    print(f"LPIPS with VGG16 in {path}")
    for file in filter(None, (VGG16.value, LINEAR.value)):
        print(f"from {file} with SHA-256 {file_digest(file)}")


if __name__ == "__main__":
    start(main, required=())
