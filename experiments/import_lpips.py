"""Gets the weights of LPIPS with VGG16, once: score-sde import_lpips [--vgg16=FILE] [--linear=FILE]

What is not given is fetched (torchvision's vgg16-397923af.pth, 528 MB, and the 7 kB of learned weights that the code of LPIPS
carries as weights/v0.1/vgg.pth) and its digest checked; of FILEs the digests are printed. Nothing in a file is run.
--features=lpips uses the weights; docs/evaluation.md says more.
"""

from absl import flags

from .flags import start

VGG16 = flags.DEFINE_string("vgg16", None, "torchvision's vgg16-397923af.pth; fetched if not given.")
LINEAR = flags.DEFINE_string("linear", None, "vgg.pth of LPIPS 0.1; fetched if not given.")
OUTPUT = flags.DEFINE_string("output", None, "Where to; $SCORE_SDE_LPIPS or ~/.cache/score_sde if not given.")


def main() -> None:
    from score_sde.importers import import_lpips
    from score_sde.importers.weight_files import file_digest

    path = import_lpips(VGG16.value, LINEAR.value, OUTPUT.value)
    print(f"LPIPS with VGG16 in {path}")
    for file in filter(None, (VGG16.value, LINEAR.value)):
        print(f"from {file} with SHA-256 {file_digest(file)}")


if __name__ == "__main__":
    start(main, required=())
