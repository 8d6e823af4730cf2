"""Rows are compared number by number, and joined by a line only where nothing but the axis differs."""

import copy

import pytest

from score_sde.evaluation.row_comparison import curves, differences
from tests.evaluation.test_ledger import row, written

HELD_OUT = {"first_examples": "ff", "examples": 500, "bin_width": 0.1, "data": {"shape": [8, 8, 1], "crop": None}}
WEIGHTS = {"extractor_digest": "w" * 64}


def of_model(**more):
    """A row of the model's own metrics."""
    bits = {"value": 3.0, "standard_error": 0.01, "num_examples": 500}
    levels = {"value": 0.2, "standard_error": 0.01, "num_examples": 500, "log_snr": [8.0, -1.8e-07]}
    values = {"workdir": "runs/vp", "step": 1, "ema": "5", "training_images": 64, "held_out": copy.deepcopy(HELD_OUT)}
    values |= {
        "likelihood": {"rtol": 1e-5, "num_repeats": 1},
        "results": {"bits_per_dim": bits, "noise_levels": levels},
    }
    return {**values, **more}


def test_what_differs(tmp_path):
    other = row(2.5, nfe=50.0, reference={"name": "b", "digest": "bb", "count": 10}, date="2", **WEIGHTS)
    one, two = written(tmp_path, row(3.0, **WEIGHTS), other)
    lines = differences(one, two)
    assert "nfe: 35.0 in row 1, 50.0 in row 2" in lines and not any("date" in text for text in lines)
    assert lines[-1] == "fid: 3.00 ± 0.25 se | 2.50 ± 0.25 se  (not comparable: reference.digest differ)"
    assert differences(one, one) == ["fid: 3.00 ± 0.25 se | 3.00 ± 0.25 se"]


@pytest.mark.parametrize(
    ("change", "bits", "levels"),
    [
        ({}, "", ""),
        ({"num_samples": 7, "reference": {"digest": "x"}, "features": "pixels"}, "", ""),  # not of these numbers
        ({"likelihood": {"rtol": 1e-3, "num_repeats": 1}}, "not comparable: likelihood.rtol differ", ""),
        ({"held_out": HELD_OUT | {"examples": 50}}, *2 * ["not comparable: held_out.examples differ"]),
        ({"held_out": HELD_OUT | {"first_examples": "0"}}, *2 * ["not comparable: held_out.first_examples differ"]),
        ({"held_out": HELD_OUT | {"data": {"shape": [8, 8, 1], "path": "b", "crop": None}}}, "", ""),
        ({"held_out": None}, "whether they compare is not known: row 2 has no held_out.first_examples", "not known"),
    ],
)
def test_each_number_is_judged_by_its_own_settings(tmp_path, change, bits, levels):
    one, two = written(tmp_path, of_model(), of_model(**change))
    lines = {text.split(":")[0]: text for text in differences(one, two) if " | " in text}
    for name, reason in (("bits_per_dim", bits), ("noise_levels", levels)):
        assert reason in lines[name] and bool(reason) == ("(" in lines[name])


def test_a_part_of_the_examples_and_other_noise_levels(tmp_path):
    part, other = of_model(), of_model()
    part["results"] = copy.deepcopy(part["results"])
    other["results"] = copy.deepcopy(part["results"])
    part["results"]["bits_per_dim"]["num_examples"] = 100
    part["results"]["noise_levels"]["log_snr"] = [8.0, -2e-07]  # rounding of another device
    other["results"]["noise_levels"]["log_snr"] = [8.0, -1.0]
    rows = written(tmp_path, of_model(), part, other)
    lines = differences(rows[0], rows[1])
    assert lines[0].endswith("(not comparable: result.num_examples differ)") and "(" not in lines[1]
    assert differences(rows[0], rows[2])[1].endswith("(not comparable: result.log_snr differ)")


def test_rows_that_share_no_metric_are_told_so(tmp_path):
    lines = differences(*written(tmp_path, row(3.0), of_model()))
    assert lines[-1] == "Rows 1 and 2 share no metric, so there is nothing to compare."
    assert "fid: 3.00 ± 0.25 se | -" in lines


def test_curves(tmp_path):
    rows = written(tmp_path, row(2.0, nfe=50.0), row(3.0, nfe=20.0), row(9.0, step=5), row(1.0, ema="none"))
    assert curves(rows[:2], "fid", "nfe") == {f"workdir={tmp_path.name}": ([20.0, 50.0], [3.0, 2.0], [0.25, 0.25])}
    by_nfe = curves(rows, "fid", "nfe")
    assert by_nfe["step=1000, ema=5"] == ([20.0, 50.0], [3.0, 2.0], [0.25, 0.25]) and len(by_nfe) == 3
    images = curves(rows[:1] + rows[2:3], "fid", "images")
    assert list(images.values()) == [([640.0, 128000.0], [9.0, 2.0], [0.25, 0.25])]
    assert all("none" not in label for label in curves(rows, "fid", "ema"))
    with pytest.raises(ValueError, match=r"--plot needs METRIC:nfe, .*got fid:hue"):
        curves(rows, "fid", "hue")
    with pytest.raises(ValueError, match=r"No row has 'kid' and 'nfe'; metrics here: \['fid'\]"):
        curves(rows, "kid", "nfe")


def other_sampling(**fields):
    return {"sampling": {"solver": {"name": "ddim", **fields}, "grid": {"num_steps": 9}}}


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"features": "pixels"}, "features=pixels"),
        ({"extractor_digest": "v" * 64}, "extractor_digest=vvvvvvvv"),
        ({"reference": {"name": "/data/cifar10.npz", "digest": "b" * 64}}, "reference.digest=bbbbbbbb"),
        (other_sampling(eta=0.5), "solver.eta=0.5"),
        ({"num_samples": 10}, "num_samples=10"),
        ({"workdir": "elsewhere/vp"}, "workdir=elsewhere/vp"),
    ],
)
def test_no_line_through_numbers_that_do_not_compare(tmp_path, change, label):
    """The label says what sets them apart, and nothing else."""
    known = row(2.0, nfe=50.0, workdir="runs/vp", **WEIGHTS, **other_sampling(eta=1.0))
    steps = copy.deepcopy(known) | {"nfe": 35.0}
    steps["sampling"]["grid"]["num_steps"] = 3
    rows = written(tmp_path, known, steps, known | {"nfe": 20.0} | change)
    found = curves(rows, "fid", "nfe")
    assert len(found) == 2 and found[label][0] == [20.0] and all(name.count("=") == 1 for name in found)


def test_the_likelihood_of_a_number_of_bits_sets_it_apart_and_the_solver_does_not(tmp_path):
    rows = written(tmp_path, of_model(), of_model(training_images=128, **other_sampling()))
    assert list(curves(rows, "bits_per_dim", "images").values()) == [([64.0, 128.0], [3.0, 3.0], [0.01, 0.01])]
    rows = written(tmp_path, of_model(likelihood={"rtol": 1e-3, "num_repeats": 1}))
    assert list(curves(rows, "bits_per_dim", "images")) == ["likelihood.rtol=1e-05", "likelihood.rtol=0.001"]
