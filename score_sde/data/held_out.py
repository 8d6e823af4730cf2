"""A check that held-out examples are like the training examples."""

from score_sde.data.base import DataSpec

FACTS = ("shape", "levels", "conditions", "num_classes")


def check_alike(held_out: DataSpec, training: DataSpec) -> None:
    """Raises ValueError unless held-out examples have the shape, levels, classes and conditions of the training examples."""
    differ = [
        f"{fact}: {getattr(training, fact)!r} there, {getattr(held_out, fact)!r} here"
        for fact in FACTS
        if getattr(held_out, fact) != getattr(training, fact)
    ]
    if differ:
        raise ValueError(f"config.data.eval needs the kind of examples of data.train; {'; '.join(differ)}.")
