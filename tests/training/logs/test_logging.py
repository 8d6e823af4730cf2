import io
import json
import os
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from score_sde.training.logs.logging import MetricLogger, read_metrics


def train(workdir, steps, **kwargs):
    """Logs a deterministic run, evaluation and timing included."""
    with MetricLogger(workdir, **kwargs) as logger:
        for step in steps:
            logger.log(step, {"loss": jnp.float32(1 / (step + 3)), "lr": 1e-3 * step})
            logger.log_timing(step, {"images_per_second": 100.0})
            if step % 5 == 0:
                logger.log(step, {"eval/loss": np.float32(np.sqrt(step))})


def events(workdir):
    """Reads back (step, tag, value) and the steps at which TensorBoard is told to forget what follows."""
    found, purges = [], []
    for path in sorted((workdir / "tensorboard").iterdir()):  # named by second, then by first step
        data, i = path.read_bytes(), 0
        while i < len(data):
            (length,) = struct.unpack("<Q", data[i : i + 8])
            event = event_pb2.Event.FromString(data[i + 12 : i + 12 + length])
            found += [(event.step, value.tag, value) for value in event.summary.value]
            if event.HasField("session_log"):
                purges.append(event.step)
            i += 16 + length
    return found, purges


def test_lines_hold_exactly_what_was_logged(tmp_path):
    with MetricLogger(tmp_path, tensorboard=False) as logger:
        logger.log(1, {"loss": jnp.float32(0.1), "count": np.int64(7), "half": jnp.bfloat16(0.5)})
        logger.log(3, {"loss": 0.25, "done": True})
    expected = (
        '{"step": 1, "loss": 0.10000000149011612, "count": 7, "half": 0.5}\n{"step": 3, "loss": 0.25, "done": 1}\n'
    )
    assert (tmp_path / "metrics.jsonl").read_text() == expected
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    np.testing.assert_array_equal(metrics["loss"].steps, [1, 3])
    np.testing.assert_array_equal(metrics["loss"].values, [np.float32(0.1), 0.25])
    np.testing.assert_array_equal(metrics["count"].steps, [1])


@pytest.mark.few(7)
@pytest.mark.parametrize("resume", [0, 7, 10, 19])
@pytest.mark.parametrize("torn", [b"", b'{"step": 25, "lo', b'{"step": 25, "loss": 1.0}', b"\0\0\0", b"\xce"])
def test_resumed_file_is_the_uninterrupted_one(tmp_path, resume, torn):
    train(tmp_path / "whole", range(20), tensorboard=False)
    train(tmp_path / "cut", range(min(20, resume + 6)), tensorboard=False)
    for name in ("metrics.jsonl", "timing.jsonl"):
        with (tmp_path / "cut" / name).open("ab") as file:
            file.write(torn)
    train(tmp_path / "cut", range(resume + 1, 20), resume_step=resume, tensorboard=False)
    whole, cut = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut"))
    assert cut == whole
    timing = read_metrics(tmp_path / "cut" / "timing.jsonl")
    np.testing.assert_array_equal(timing["images_per_second"].steps, np.arange(20))


def test_a_fresh_start_begins_empty(tmp_path):
    train(tmp_path, range(6), tensorboard=False)
    train(tmp_path, range(3), tensorboard=False)
    np.testing.assert_array_equal(read_metrics(tmp_path / "metrics.jsonl")["loss"].steps, [0, 1, 2])


def test_a_crash_while_dropping_lines_loses_nothing(tmp_path, monkeypatch):
    train(tmp_path, range(6), tensorboard=False)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def crash(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(OSError, match="disk full"):
            MetricLogger(tmp_path, resume_step=3, tensorboard=False)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_lines_are_on_disk_when_log_returns(tmp_path):
    logger = MetricLogger(tmp_path, tensorboard=False)
    logger.log(1, {"loss": 1.0})
    assert read_metrics(tmp_path / "metrics.jsonl")["loss"].values == [1.0]
    logger.close()
    logger.close()


def test_values_that_are_not_finite_stay_visible_in_valid_json(tmp_path):
    values = {"nan": float("nan"), "up": jnp.float32(jnp.inf), "down": -np.inf}
    with MetricLogger(tmp_path, tensorboard=False) as logger:
        logger.log(1, values)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1,
        "nan": "NaN",
        "up": "Infinity",
        "down": "-Infinity",
    }
    read = {name: series.values[0] for name, series in read_metrics(tmp_path / "metrics.jsonl").items()}
    np.testing.assert_equal(read, {name: float(value) for name, value in values.items()})


def test_the_clock_is_kept_out_of_the_metrics(tmp_path):
    train(tmp_path, range(3), tensorboard=False)
    assert set(read_metrics(tmp_path / "metrics.jsonl")) == {"loss", "lr", "eval/loss"}
    timing = read_metrics(tmp_path / "timing.jsonl")
    assert set(timing) == {"time", "images_per_second"}
    assert timing["time"].values[0] > 1.7e9


def test_tensorboard_gets_scalars_images_and_the_place_to_go_on_from(tmp_path):
    picture = np.zeros((8, 10, 3), np.uint8)
    with MetricLogger(tmp_path) as logger:
        logger.log(1, {"loss": 0.5})
        logger.log_timing(1, {"images_per_second": 64.0})
        logger.log_image(1, "samples", picture)
        logger.log(2, {"loss": 0.4})
    with MetricLogger(tmp_path, resume_step=1) as logger:
        logger.log(2, {"loss": 0.4})
    found, purges = events(tmp_path)
    assert purges == [0, 2]
    scalars = [(step, tag, round(value.simple_value, 6)) for step, tag, value in found if tag != "samples"]
    assert scalars == [(1, "loss", 0.5), (1, "timing/images_per_second", 64.0), (2, "loss", 0.4), (2, "loss", 0.4)]
    (image,) = [value.image for _, tag, value in found if tag == "samples"]
    assert (image.height, image.width, image.encoded_image_string[1:4]) == (8, 10, b"PNG")


def test_a_full_disk_is_an_error_and_does_not_hang(tmp_path, monkeypatch):
    """As /dev/full answers; tensorboardX's own thread would die, and the tenth call after that wait for ever."""
    monkeypatch.setattr(record_writer, "open_file", lambda path: io.FileIO("/dev/full", "w"))
    with pytest.raises(OSError, match="No space left on device"):
        MetricLogger(tmp_path)


def test_other_processes_write_nothing(tmp_path):
    with MetricLogger(tmp_path / "run", is_writer=False) as logger:
        logger.log(1, {"loss": 1.0})
        logger.log_timing(1, {"images_per_second": 1.0})
        logger.log_image(1, "samples", np.zeros((2, 2, 3), np.uint8))
        logger.flush()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("step", "metrics", "message"),
    [
        (4, {"loss": 1.0}, r"got step 4 with loss after step 5 with loss; pass resume_step"),
        (5, {"loss": 1.0}, r"each name once a step, got step 5 with loss after step 5 with loss"),
        (6, {"step": 1.0}, r"do not call a metric 'step'"),
        (6, {"loss": np.zeros(3)}, r"real scalar for 'loss', got float64 of shape \(3,\); log its mean"),
        (6, {"loss": "low"}, r"real scalar for 'loss', got <U3"),
        (6, {"loss": 1j}, r"real scalar for 'loss', got complex128"),
    ],
)
def test_what_cannot_be_logged_is_an_error_and_leaves_no_line(tmp_path, step, metrics, message):
    with MetricLogger(tmp_path, tensorboard=False) as logger:
        logger.log(5, {"loss": 1.0})
        with pytest.raises(ValueError, match=message):
            logger.log(step, metrics)
        logger.log(7, {"loss": 2.0})
    np.testing.assert_array_equal(read_metrics(tmp_path / "metrics.jsonl")["loss"].steps, [5, 7])


def test_a_step_is_not_logged_again_after_resume(tmp_path):
    train(tmp_path, range(6), tensorboard=False)
    with (
        MetricLogger(tmp_path, resume_step=5, tensorboard=False) as logger,
        pytest.raises(ValueError, match="got step 5 with loss after step 5 with eval/loss, loss, lr"),
    ):
        logger.log(5, {"loss": 1.0})


def test_log_image_takes_pictures_only(tmp_path):
    with (
        MetricLogger(tmp_path, tensorboard=False) as logger,
        pytest.raises(ValueError, match=r"uint8 array \[h, w, 3\], got float32 of shape \(4, 4, 3\); make it with"),
    ):
        logger.log_image(1, "samples", np.zeros((4, 4, 3), np.float32))


def test_damage_before_the_last_line_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for bad in ("{broken", "[1]", '{"loss": 1.0}'):
        path.write_text('{"step": 1, "loss": 1.0}\n' + bad + '\n{"step": 3, "loss": 1.0}\n')
        with pytest.raises(ValueError, match=r"one JSON object with a step in each line, got .* in line 2; .*delete"):
            read_metrics(path)


def test_reading_what_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"needs a metrics\.jsonl, got .*none.*train first"):
        read_metrics(tmp_path / "none")
