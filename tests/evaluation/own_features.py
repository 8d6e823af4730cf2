"""Features of a user, as --features=tests.evaluation.own_features:brightness names them."""

import numpy as np


def brightness(images):
    """Mean and largest level of each image; the digest is that of this file."""
    flat = images.reshape(len(images), -1)
    return np.stack([flat.mean(axis=1), flat.max(axis=1)], axis=1)


class Named:
    """With logits and a digest of its own."""

    digest = "weights 7"
    outputs = ("pool", "logits")

    def __call__(self, images):
        pool = brightness(images)
        return {"pool": pool, "logits": pool / 255}


named = Named()


def fields(images):
    """Least and largest value of each example, which tell how the data came."""
    flat = images.reshape(len(images), -1)
    return np.stack([flat.min(axis=1), flat.max(axis=1)], axis=1)


def meanings(embeddings):
    """Four directions of embeddings, in place of a network; never clipped, rounded or reshaped on the way."""
    assert embeddings.dtype == np.float32 and embeddings.ndim == 2
    return np.tanh(embeddings[:, :4] / 10)


def flat(images):
    """One number for all images, which is a mistake."""
    return images.mean()


number = 3
