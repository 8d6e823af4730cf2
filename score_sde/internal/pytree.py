"""Frozen dataclasses that are JAX pytrees: an object's numbers are traced, and its structure is static."""

import dataclasses
import functools
import numbers
import typing
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T", bound=type)


def is_traced(tree: Any) -> bool:
    """Whether a leaf of `tree` is the tracer of a JAX transformation, so that its value is not known yet."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def static(**kwargs: Any) -> Any:
    """Marks a dataclass field as part of the compiled program. Another value needs a new compilation."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: T) -> T:
    """Makes `cls` a frozen dataclass whose fields are pytree children, except the fields declared by `static`.

    Inside of `jit`, `vmap` or `grad`, JAX rebuilds the object without `__init__`. So
    `__post_init__` checks what a user passed, once, and never sees a tracer.
    (`jax.tree_util.register_dataclass` and `flax.struct` call the constructor there.) The check is
    also skipped for an object that is built from traced values, as in a loss that differentiates a
    schedule.

    A whole number in a field of floats becomes a float, so that `scale=3` and `scale=3.0` share
    their programs.

    Objects of equal numbers are equal. Arrays are compared by identity. So an object with arrays
    can be hashed, and `jax.jit(denoise)` works.
    """
    methods = {"__eq__": _equal, "__hash__": _hash, "__post_init__": _prepared(getattr(cls, "__post_init__", None))}
    for name, method in methods.items():
        setattr(cls, name, method)
    dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)
    children = tuple(f.name for f in fields if not f.metadata.get("static"))
    aux = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten_with_keys(obj):
        keyed = tuple((jax.tree_util.GetAttrKey(name), getattr(obj, name)) for name in children)
        return keyed, tuple(getattr(obj, name) for name in aux)

    def flatten(obj):
        return tuple(getattr(obj, name) for name in children), tuple(getattr(obj, name) for name in aux)

    def unflatten(aux_values, values):
        obj: Any = object.__new__(cls)
        for name, value in zip(children + aux, (*values, *aux_values), strict=True):
            object.__setattr__(obj, name, value)
        return obj

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _prepared(check: Any) -> Any:
    """`__post_init__`: whole numbers become floats in fields of floats. Then comes the check, unless values are traced."""

    @functools.wraps(check or _prepared)
    def prepared(self):
        kind: Any = type(self)
        for name in _float_fields(kind):
            value = getattr(self, name)
            if isinstance(value, numbers.Integral) and not isinstance(value, bool):
                object.__setattr__(self, name, float(value))
        if check is not None and not is_traced(self):
            check(self)

    return prepared


@functools.cache
def _float_fields(cls: Any) -> tuple[str, ...]:
    """The traced fields that hold a float. JAX compiles a program for each of 3 and 3.0."""
    kinds = {
        f.name: (f.type, *typing.get_args(f.type)) for f in dataclasses.fields(cls) if not f.metadata.get("static")
    }
    return tuple(name for name, kind in kinds.items() if float in kind and int not in kind)


def _equal(self: Any, other: Any) -> bool:
    def same(a: Any, b: Any) -> bool:
        # An array is equal to itself alone. Its values may be traced, and `==` would give an array.
        return a is b or (not any(isinstance(each, (jax.Array, np.ndarray)) for each in (a, b)) and bool(a == b))

    structure: Any = jax.tree.structure(self)
    return structure == jax.tree.structure(other) and all(map(same, jax.tree.leaves(self), jax.tree.leaves(other)))


def _hash(self: Any) -> int:
    return hash(jax.tree.structure(self))


def as_pytree(function: Any) -> Any:
    """A callable that can be an argument of a compiled program.

    A pytree (an object of this library, `jax.tree_util.Partial`) is returned unchanged, and its
    arrays are traced. Any other callable becomes static and is compared by identity. The arrays in
    its closure are constants.
    """
    is_leaf = jax.tree_util.all_leaves([function])
    return jax.tree_util.Partial(function) if is_leaf else function
