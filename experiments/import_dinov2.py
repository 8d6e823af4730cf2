"""Gets the weights of DINOv2 for FD_DINOv2, once: score-sde import_dinov2 [--file=FILE]

Without --file the command fetches model.safetensors of facebook/dinov2-large from Hugging
Face, or from $HF_ENDPOINT (1.2 GB). It checks the digest of the file.

FILE may be that file, or the same file of another size without registers. It may also be
the release's dinov2_vitl14_pretrain.pth or its other sizes. The command prints the digest
of FILE. Nothing in a file is run.

--features=dinov2 then uses the weights. docs/evaluation.md says more.
"""

from absl import flags

from .flags import start

FILE = flags.DEFINE_string("file", None, "An existing file. Default: the file is fetched.")
OUTPUT = flags.DEFINE_string("output", None, "Where to write. Default: $SCORE_SDE_DINOV2 or ~/.cache/score_sde.")


def main() -> None:
    from score_sde.importers import import_dinov2, load_dinov2
    from score_sde.importers.weight_files import file_digest

    path = import_dinov2(FILE.value, OUTPUT.value)
    tensors = load_dinov2(path)
    width, depth = tensors["cls_token"].shape[-1], sum(name.endswith(".norm1.weight") for name in tensors)
    print(f"DINOv2 with {depth} blocks of width {width} in {path}")
    if FILE.value is not None:
        print(f"from {FILE.value} with SHA-256 {file_digest(FILE.value)}")


if __name__ == "__main__":
    start(main, required=())
