"""Latents: models of encoded data. A codec encodes what is learned and decodes what is drawn."""

from score_sde.latents.codec import Codec, Identity
from score_sde.latents.encoded_source import EncodedSource

CODECS = {"identity": Identity}

__all__ = ["CODECS", "Codec", "EncodedSource", "Identity"]
