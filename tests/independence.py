"""Whether random draws are independent, seen over thousands of repeats: a key used twice shows as a correlation near 1."""

import itertools

import numpy as np


def assert_independent(**draws):
    """Fails where two numbers drawn for different purposes correlate, or their squares do, by more than 6/√n.

    `draws` are arrays [n, ...] by name, row i from the i-th independent repeat. Every number of one is compared with every
    number of the others: jax.random gives the same bits to the i-th number of two draws from one key, whatever the shapes,
    so that a reused key need not show between the numbers of one example.
    """
    columns = {name: _columns(values) for name, values in draws.items()}
    for first, second in itertools.combinations(columns, 2):
        a, b = columns[first], columns[second]
        correlation = np.abs(a.T @ b) / len(a)
        assert correlation.max() < 6 / np.sqrt(len(a)), (first, second, correlation.max())


def assert_all_independent(draws):
    """`assert_independent` for the numbers of one array [n, ...] among themselves."""
    values = np.asarray(draws, np.float64).reshape(len(draws), -1)
    assert_independent(**{f"number {i}": values[:, i] for i in range(values.shape[1])})


def _columns(values):
    """The numbers and their squares, [n, k], each of mean 0 and variance 1; signs have no square."""
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    flat = flat - flat.mean(axis=0)
    assert flat.std(axis=0).min() > 1e-6, "a number that is the same in every repeat is not random"
    squares = flat**2 - (flat**2).mean(axis=0)
    flat = np.concatenate([flat, squares[:, squares.std(axis=0) > 1e-6 * flat.var(axis=0)]], axis=1)
    return flat / flat.std(axis=0)
