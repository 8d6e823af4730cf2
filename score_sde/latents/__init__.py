"""Latents: models of encoded data. A codec encodes the training data and decodes the samples."""

from score_sde.latents.codec import Codec, Identity
from score_sde.latents.encoded_source import EncodedSource

CODECS = {"identity": Identity}

__all__ = ["CODECS", "Codec", "EncodedSource", "Identity"]
