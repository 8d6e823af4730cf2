"""Which points a search chooses."""

import numpy as np
import pytest

from score_sde.sweeps import build_sweep, load_sweep
from score_sde.sweeps.axes import Choice, Int, Uniform, build_axis, log_uniform
from score_sde.sweeps.search import Product, Random, Zip
from tests.independence import assert_independent
from tests.sweeps.several import described, fake_sweep

GOAL = "minimize"
TWO = {"a": Choice([1, 2, 3]), "b": Choice([{"name": "x"}, {"name": "y"}, {"name": "z"}])}


def test_product_and_zip(tmp_path):
    product = Product().plan(TWO, tmp_path, GOAL)
    assert len(product.known()) == 9 and product.ask() is None
    assert product.known()[1] == {"a": 1, "b": {"name": "y"}}
    assert Zip().plan(TWO, tmp_path, GOAL).known()[2] == {"a": 3, "b": {"name": "z"}}
    with pytest.raises(ValueError, match="A zip needs as many values on each axis, got {'a': 3, 'b': 1}"):
        Zip().plan({**TWO, "b": Choice([1])}, tmp_path, GOAL)
    with pytest.raises(ValueError, match="A product needs a list of values on each axis, got Uniform.* for 'a'"):
        Product().plan({"a": Uniform(0.0, 1.0)}, tmp_path, GOAL)


def test_more_random_trials_leave_the_first_alone(tmp_path):
    axes = {"rate": log_uniform(1e-5, 1e-1), "width": Int(8, 512, log=True), "kind": Choice(["a", "b"])}
    few = Random(5, seed=1).plan(axes, tmp_path, GOAL).known()
    many = Random(400, seed=1).plan(axes, tmp_path, GOAL).known()
    without = Random(5, seed=1).plan({"rate": axes["rate"]}, tmp_path, GOAL).known()
    assert many[:5] == few and [point["rate"] for point in few] == [point["rate"] for point in without]
    assert Random(5, seed=2).plan(axes, tmp_path, GOAL).known() != few
    logs = np.log10([point["rate"] for point in many])
    assert abs(logs.mean() + 3) < 5 * (4 / np.sqrt(12)) / np.sqrt(400) and logs.min() > -5.001 and logs.max() < -0.999
    widths = np.asarray([point["width"] for point in many])
    assert widths.min() >= 8 and widths.max() <= 512 and abs((widths < 64).mean() - 0.5) < 5 * 0.5 / np.sqrt(400)


def test_whole_numbers_are_as_frequent_as_the_axis_says(tmp_path):
    """Each alike; on a logarithmic axis n stands for n − ½ to n + ½, so that the ends are as wide as the others."""
    axes, number = {"even": Int(0, 4), "log": Int(1, 5, log=True)}, 4000
    points = Random(number).plan(axes, tmp_path, GOAL).known()
    shares = {"even": np.full(5, 0.2), "log": np.diff(np.log(np.arange(1, 7) - 0.5)) / np.log(5.5 / 0.5)}
    for field, first in (("even", 0), ("log", 1)):
        found = np.bincount([point[field] - first for point in points], minlength=5) / number
        assert np.all(np.abs(found - shares[field]) < 4 * np.sqrt(shares[field] / number)), (field, found)


def test_axes_trials_and_seeds_are_independent(tmp_path):
    """Also axes of the same kind and range, which one stream would give the same value."""
    axes = {"a": Uniform(0.0, 1.0), "b": Uniform(0.0, 1.0), "c": log_uniform(1e-5, 1.0), "d": Int(0, 9), "e": TWO["a"]}

    def drawn(seed):
        points = Random(3000, seed).plan(axes, tmp_path, GOAL).known()
        return {field: np.array([point[field] for point in points], np.float64) for field in axes}

    first, other = drawn(0), drawn(1)
    assert_independent(**first)
    for field in axes:
        assert_independent(seed=first[field], other_seed=other[field])
        assert_independent(seed=first[field][1:], other_seed=other[field][:-1])
        assert_independent(trial=first[field][:-1], next_trial=first[field][1:])


def test_a_linear_axis_reaches_both_ends():
    rng = np.random.default_rng(0)
    draws = [Int(1, 3).sample(rng) for _ in range(100)]
    assert set(draws) == {1, 2, 3}
    reals = [Uniform(2.0, 4.0).sample(rng) for _ in range(400)]
    assert abs(np.mean(reals) - 3) < 5 * (2 / np.sqrt(12)) / 20


def test_axes_that_are_refused():
    with pytest.raises(ValueError, match=r"axes\['a'\] needs a list of values or one of .*got 3"):
        build_axis("a", 3)
    with pytest.raises(ValueError, match="Did you mean 'log_uniform'"):
        build_axis("a", {"name": "log_unifrm", "low": 1, "high": 2})
    with pytest.raises(ValueError, match="An axis needs low < high, and 0 < low on a logarithmic one, got low=0"):
        log_uniform(0, 1)
    with pytest.raises(ValueError, match="An axis needs values that differ"):
        Choice([(1, 2), [1, 2]])


def test_sweeps_that_are_refused():
    with pytest.raises(ValueError, match=r"missing \[\], unknown \['axis'\].*Did you mean 'axes'"):
        build_sweep(described() | {"axis": {}})
    with pytest.raises(ValueError, match=r"missing \['metric'\]"):
        build_sweep({"config": "a.py", "axes": {"seed": [1]}})
    with pytest.raises(ValueError, match=r"each field once, got \['training.num_steps'\]"):
        build_sweep(described(axes={"training.num_steps": [1, 2]}))
    with pytest.raises(ValueError, match=r"needs the word {workdir}"):
        fake_sweep(then=["python -m experiments.likelihood"])
    with pytest.raises(ValueError, match=r"A metric needs a name.*Did you mean 'reduce'"):
        fake_sweep(metric={"name": "loss", "reducer": "min"})
    with pytest.raises(ValueError, match="config.search.name needs one of .*Did you mean 'product'"):
        fake_sweep(search={"name": "products"})


def test_files_that_are_no_sweep(tmp_path):
    path = tmp_path / "sweep.py"
    with pytest.raises(FileNotFoundError, match="--sweep needs FILE.py.*'configs/sweeps/digits_sdes.py'"):
        load_sweep(str(path))
    path.write_text("")
    with pytest.raises(ValueError, match=r"needs a file with a function get_sweep\(\) that returns a dict"):
        load_sweep(str(path))
    path.write_text(f"def get_sweep():\n    return {described()!r}\n")
    assert load_sweep(str(path)).overrides == {"training.num_steps": 4}
    with pytest.raises(ValueError, match="has no variants, got 'big'"):
        load_sweep(f"{path}:big")
