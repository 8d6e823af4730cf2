"""Frozen dataclasses as pytrees: numbers are traced, structure is static, and a check runs once."""

import contextlib
import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.internal.pytree import as_pytree, is_traced, pytree, static
from score_sde.sdes import VP
from tests import conformance

CHECKS = []


@pytree
class Line:
    """slope · x + offset, to a static power."""

    slope: float
    offset: float = 0.0
    power: int = static(default=1)

    def __post_init__(self):
        CHECKS.append(self.slope)
        if not self.slope > 0:
            raise ValueError(f"Line needs slope > 0, got {self.slope}.")

    def __call__(self, x):
        return (self.slope * x + self.offset) ** self.power


@pytree
class Pair:
    """Two objects."""

    first: Line
    second: Line | None = None


@pytest.fixture
def traces():
    return []


def test_children_are_the_fields_that_are_not_static():
    leaves, structure = jax.tree.flatten(Line(2.0, 3.0, power=4))
    assert leaves == [2.0, 3.0]
    assert jax.tree.unflatten(structure, [5.0, 6.0]) == Line(5.0, 6.0, power=4)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(Pair(Line(1.0)))[0]]
    assert paths == [".first.slope", ".first.offset"]


def test_a_value_is_traced_and_a_static_field_compiles_again(traces):
    @jax.jit
    def apply(line, x):
        traces.append(line.power)
        return line(x)

    lines = Line(1.0), Line(3.0), Line(3.0, power=2), Line(1.0, power=2)
    assert [float(apply(line, 2.0)) for line in lines] == [2, 6, 36, 4]
    assert traces == [1, 2]


def test_the_check_runs_once_and_never_on_a_tracer():
    CHECKS.clear()
    line = Line(2.0)
    gradient = jax.jit(jax.grad(lambda line: line(3.0)))(line)
    mapped = jax.vmap(lambda line: line(1.0))(jax.tree.map(lambda leaf: jnp.asarray([leaf, -leaf]), line))
    assert (gradient.slope, gradient.offset) == (3.0, 1.0)
    np.testing.assert_array_equal(mapped, [2.0, -2.0])  # a value that the check would refuse
    assert CHECKS == [2.0]
    with pytest.raises(ValueError, match=r"Line needs slope > 0, got -1\.0"):
        Line(-1.0)
    with pytest.raises(ValueError, match=r"Line needs slope > 0, got 0\.0"):
        dataclasses.replace(line, slope=0.0)


def test_an_object_built_from_traced_values_is_not_checked():
    CHECKS.clear()
    # The hook of the tests checks types of score_sde's classes only, so that a tracer may stand in a float's place.
    assert jax.jit(lambda slope: Line(slope)(2.0))(-3.0) == -6.0
    assert jax.grad(lambda slope: Pair(Line(slope)).first(2.0))(3.0) == 2.0
    assert CHECKS == []


def test_is_traced():
    seen = []
    jax.jit(lambda x: seen.append((is_traced({"a": x}), is_traced(Line(1.0)))))(1.0)
    assert seen == [(True, False)]
    assert not is_traced([1.0, jnp.ones(2), np.ones(2), None])


def test_fields_cannot_be_assigned():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Line(1.0).slope = 2.0


def test_an_absent_member_is_no_leaf():
    assert jax.tree.leaves(Pair(Line(1.0))) == [1.0, 0.0]
    assert len(jax.tree.leaves(Pair(Line(1.0), Line(2.0)))) == 4


def test_a_check_is_inherited():
    @pytree
    class Steep(Line):
        """A line with another default."""

        slope: float = 10.0

    with pytest.raises(ValueError, match=r"Line needs slope > 0, got -2\.0"):
        Steep(-2.0)
    assert jax.jit(lambda line: line(1.0))(Steep()) == 10.0


def test_equal_numbers_are_equal_objects_and_arrays_are_compared_by_identity():
    assert Line(1.0) == Line(1.0)
    assert hash(Line(1.0)) == hash(Line(1.0))
    for other in (Line(2.0), Line(1.0, power=2), Pair(Line(1.0)), 1.0, (1.0, 0.0), None):
        assert Line(1.0) != other
    weights = jnp.ones(2)
    first, second = Pair(Line(1.0), weights), Pair(Line(1.0), jnp.ones(2))
    assert first == Pair(Line(1.0), weights)
    assert first != second


def test_an_object_with_arrays_can_itself_be_compiled():
    """Its arrays are then constants; as an argument of a compiled function they are traced."""
    lines = [jax.tree.map(jnp.asarray, Line(slope)) for slope in (2.0, 3.0)]
    assert [float(jax.jit(line)(1.0)) for line in (*lines, *lines)] == [2, 3, 2, 3]


def test_as_pytree(traces):
    def double(x):
        return 2 * x

    scaled = jax.tree_util.Partial(jnp.multiply, 3.0)
    line = Line(4.0)
    assert as_pytree(scaled) is scaled
    assert as_pytree(line) is line

    @jax.jit
    def apply(function, x):
        traces.append(None)
        return function(x)

    assert [float(apply(as_pytree(f), 1.0)) for f in (double, double, scaled, line, Line(5.0))] == [2, 2, 3, 4, 5]
    assert len(traces) == 3  # the same function, and the same class, compile once


def test_a_number_is_not_an_array_of_it():
    """Also where the other side is the array, and within jit, where its value is not known."""
    number, array = VP(beta_min=0.1), VP(beta_min=jnp.float32(0.1))
    assert (number == array) is False and (array == number) is False and array == array
    assert number == VP(beta_min=0.1) and number != VP(beta_min=0.2)
    assert jax.jit(lambda sde: jnp.asarray(number != sde))(array)


MEMBERS = conformance.SDES | conformance.SOLVERS | conformance.STOCHASTIC | conformance.CONTRASTS | {"line": Line(2.0)}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_whole_number_in_a_field_of_floats_becomes_a_float(name):
    """JAX compiles a program for 3 and another for 3.0."""
    member = MEMBERS[name]
    for field in dataclasses.fields(member):
        if isinstance(getattr(member, field.name), float) and not field.metadata.get("static"):
            changed = copy.copy(member)  # the constructor of a test checks types, and refuses a whole number
            object.__setattr__(changed, field.name, 1)
            with contextlib.suppress(ValueError):  # 1 is out of range
                changed.__post_init__()
            assert type(getattr(changed, field.name)) is float, field.name


def test_a_field_of_whole_numbers_keeps_them():
    @pytree
    class Repeat:
        number: int = 2
        scale: float | None = None
        ways: float | int = 1

    assert [type(value) for value in jax.tree.leaves(Repeat(number=3, scale=np.int64(2)))] == [int, float, int]
