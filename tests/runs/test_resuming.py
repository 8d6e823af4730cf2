"""The changes that a resume allows, their notes and records, and runs that begin with another run's weights."""

import contextlib
import hashlib
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import density2d
from score_sde.evaluation import evaluating
from score_sde.experiment import Experiment
from score_sde.runs import pick_params, read_state, run_training
from score_sde.runs.resuming import read_history
from score_sde.runs.weights import InitFrom, parse_init_from
from score_sde.trained import Trained
from score_sde.training.logs.logging import read_metrics
from score_sde.training.reporter import Reporter
from score_sde.training.saving.checkpoints import Checkpoints, steps_on_disk
from score_sde.training.saving.integrity import MANIFEST


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def tiny(place="data", **training) -> ConfigDict:
    """Points from files in a folder, by a small MLP without dropout."""
    config = density2d.get_config("moons")
    config.network.update({"width": 8, "depth": 1})
    for split in ("train", "eval"):
        config.data[split] = ConfigDict({"name": "array", "path": f"{place}/{split}.npz"})
    config.ema.half_lives_kimg = (0.5, 5.0)
    config.optimizer.schedule = ConfigDict({"schedule": "constant", "warmup_steps": 2})
    config.mesh.num_devices = 1
    every = {"log_every": 1, "eval_every": 4, "sample_every": 0, "checkpoint_every": 4, "eval_levels": 2}
    config.training.update({"num_steps": 4, "batch_size": 8, "eval_batch_size": 8, **every, **training})
    return config


def run(config, workdir, *allow_change, init_from=None):
    return run_training(Experiment(config), pathlib.Path(workdir), True, allow_change=allow_change, init_from=init_from)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def points(place, seed=0, number=20):
    rng = np.random.default_rng(seed)
    pathlib.Path(place).mkdir(exist_ok=True)
    for split in ("train", "eval"):
        np.savez(f"{place}/{split}.npz", x=rng.normal(size=(number, 2)).astype(np.float32))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder with a run of four steps, "run", on the points in "data"."""
    place = tmp_path_factory.mktemp("begun")
    with contextlib.chdir(place):
        points("data")
        run(tiny(), "run")
    return place


@pytest.fixture
def begun(original, monkeypatch):
    """That folder, as the working one; nothing may be changed in it."""
    monkeypatch.chdir(original)
    return original


@pytest.fixture
def copy(original, tmp_path, monkeypatch):
    """A copy of it, as the working folder."""
    shutil.copytree(original, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def changed(num_steps=6, place="data", **fields):
    config = tiny(place, num_steps=num_steps)
    for path, value in fields.items():
        section = config
        *parents, field = path.split("__")
        for name in parents:
            section = section[name]
        section[field] = value
    return config


def test_a_change_is_refused_with_the_flag_that_allows_it(begun):
    config = changed(optimizer__learning_rate=0.5, sde__beta_max=10.0)
    message = r"another config: optimizer.learning_rate: .* there, 0.5 here; sde.beta_max: 20.0 there, 10.0 here"
    with pytest.raises(ValueError, match=f"{message}.*--allow_change=optimizer.learning_rate,sde.beta_max"):
        run(config, "run")
    with pytest.raises(ValueError, match="another config: sde.beta_max"):
        run(config, "run", "optimizer")
    with pytest.raises(ValueError, match="training.batch_size: 8 there, 16 here.*--allow_change=training.batch_size"):
        config = changed(training__batch_size=16)
        run(config, "run")


def test_an_allowed_change_is_made_and_recorded(copy, capsys):
    """From that step on, in history.json and in every later checkpoint; the next start needs no flag."""
    config = changed(optimizer__learning_rate=0.5)
    rate = tiny().optimizer.learning_rate
    run(config, "run", "optimizer")
    assert f"From step 4 on, as --allow_change allows, optimizer.learning_rate: {rate!r} there, 0.5 here." in (
        capsys.readouterr().out
    )
    logged = read_metrics("run/metrics.jsonl")["learning_rate"].values
    np.testing.assert_allclose(logged, [rate / 2, rate, rate, rate, 0.5, 0.5], rtol=1e-6)
    first = {"step": 4, "fields": {"optimizer.learning_rate": [rate, 0.5], "training.num_steps": [4, 6]}}
    assert read_history(pathlib.Path("run"))["changes"] == [first]
    config = changed(8, optimizer__learning_rate=0.5)
    run(config, "run")
    second = {"step": 6, "fields": {"training.num_steps": [6, 8]}}
    assert read_history(pathlib.Path("run"))["changes"] == [first, second]
    pathlib.Path("run/history.json").unlink()
    run(config, "run")
    assert (
        read_history(pathlib.Path("run"))["changes"] == [first, second] and "From step" not in capsys.readouterr().out
    )


def test_a_name_that_is_no_field_is_refused(begun, tmp_path):
    """Also at the first start, where nothing can have changed."""
    for workdir in ("run", tmp_path / "new"):
        with pytest.raises(
            ValueError, match=r"--allow_change needs fields or sections.*'optimizer.learning_rat'.*mean"
        ):
            run(tiny(), workdir, "optimizer.learning_rat")
    assert not (tmp_path / "new" / "config.json").exists()


@pytest.mark.parametrize(("field", "value"), [("network__width", 16), ("optimizer__name", "sgd")])
def test_a_change_of_the_state_itself_cannot_be_allowed(field, value, begun):
    """And the message says what can be done instead."""
    section, name = field.split("__")
    message = f"cannot go on with .*{section}.{name}.* changed: its arrays.*--init_from=.*run with another --workdir"
    with pytest.raises(ValueError, match=message):
        run(changed(**{field: value}), "run", section)


@pytest.mark.slow
def test_other_averages_go_on_where_they_are_allowed(copy, capsys):
    """What is averaged already goes on bit by bit; what is new starts at the parameters of the checkpoint; the rest stays."""
    shutil.copytree("run", "same")
    with pytest.raises(ValueError, match=r"another config: ema.half_lives_kimg: .*--allow_change=ema.half_lives_kimg"):
        run(changed(ema__half_lives_kimg=(5.0, 1e9)), "run")
    at_once = run(changed(4, ema__half_lives_kimg=(5.0, 1e9)), "same", "ema")
    assert bits(at_once.ema["1e+09"]) == bits(at_once.params) != bits(at_once.ema["5"])
    kept = run(changed(), "same")
    other = run(changed(ema__half_lives_kimg=(5.0, 1e9)), "run", "ema.half_lives_kimg")
    assert set(other.ema) == {"5", "1e+09"} and set(kept.ema) == {"0.5", "5"}
    assert bits(other.params) == bits(kept.params) and bits(other.ema["5"]) == bits(kept.ema["5"])
    assert "The average with the half-life 1e+09 starts at the parameters of step 4." in capsys.readouterr().out


@pytest.mark.slow
def test_accumulation_steps_may_change(copy, capsys):
    """Which is recorded; without dropout the run is the same up to the order of sums."""
    shutil.copytree("run", "same")
    one = run(changed(), "same")
    four = run(changed(optimizer__accumulation_steps=4), "run")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, four)
    assert "optimizer.accumulation_steps was 1 and is 4 from step 4 on: the updates are the same up" in (
        capsys.readouterr().out
    )
    assert read_history(pathlib.Path("run"))["changes"][0]["fields"]["optimizer.accumulation_steps"] == [1, 4]


def test_moved_data_are_the_same_data(copy, capsys):
    """Bit by bit; the new place is recorded."""
    shutil.copytree("run", "same")
    stayed = run(changed(), "same")
    pathlib.Path("data").rename("elsewhere")
    config = changed(place="elsewhere")
    assert bits(run(config, "run")) == bits(stayed)
    assert "data.train.path is" in capsys.readouterr().out
    fields = read_history(pathlib.Path("run"))["changes"][0]["fields"]
    assert fields["data.train.path"] == ["data/train.npz", "elsewhere/train.npz"]


def test_changed_data_are_refused_unless_the_flag_allows_them(copy):
    """In the same place or in another; of the training set or of the held-out examples."""
    points("data", number=19)
    message = r"with other data: .*data.train.facts.num_examples: 20 there, 19 here"
    with pytest.raises(ValueError, match=message):
        run(changed(), "run")
    points("data", seed=1)
    with pytest.raises(ValueError, match=r"with other data: data.eval.facts.digest: .*; data.train.facts.digest: "):
        run(changed(), "run")
    points("elsewhere", seed=1)
    config = changed(place="elsewhere")
    message = r"another config and other data: data.eval.facts.digest.*data.eval.path: .*--allow_change=data, which"
    with pytest.raises(ValueError, match=message):
        run(config, "run")
    run(config, "run", "data")
    fields = read_history(pathlib.Path("run"))["changes"][0]["fields"]
    assert {"data.train.facts.digest", "data.train.path", "data.eval.facts.digest"} < fields.keys()
    run(config, "run")


def test_held_out_data_that_training_does_not_use_may_be_elsewhere(copy):
    pathlib.Path("data/eval.npz").unlink()
    config = changed(training__eval_every=0)
    config.data.eval.path = "nowhere.npz"
    assert int(run(config, "run").step) == 6


@pytest.mark.slow
def test_a_checkpoint_without_facts_goes_on_where_its_data_lay(copy, monkeypatch):
    """As those of earlier versions; whether moved data are the same cannot be told."""
    plain_run = Checkpoints.run

    def older(self, step=None):
        saved = plain_run(self, step)
        for name in ("data", "changes", "init_from"):
            del saved["position"][name]
        return saved

    monkeypatch.setattr(Checkpoints, "run", older)
    shutil.copytree("data", "elsewhere")
    with pytest.raises(ValueError, match="data.train.path: .*--allow_change=data"):
        run(changed(place="elsewhere"), "run")
    assert int(run(changed(), "run").step) == 6


def test_classes_that_came_or_went_are_named(tmp_path, monkeypatch):
    """They would go on with another meaning of every label."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("data").mkdir()

    def classes(*names):
        np.savez("data/train.npz", x=np.zeros((4, 2), np.float32), y=np.array(names))

    def config(num_steps):
        made = tiny(num_steps=num_steps, eval_every=0)
        made.data.train.label_key = made.data.eval.label_key = "y"
        made.network.num_classes = None  # as many as the data have
        return made

    classes("cat", "dog", "cat", "dog")
    run(config(1), "run")
    classes("cat", "horse", "cat", "horse")
    with pytest.raises(ValueError, match="data.train.facts.class_names: without 'dog' and with 'horse' here"):
        run(config(2), "run")
    classes("cat", "dog", "ant", "dog")
    with pytest.raises(
        ValueError, match="class_names: with 'ant' here; .*num_classes: 2 there, 3 here; network.num_cl"
    ):
        run(config(2), "run")


# Weights of another run


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/a", InitFrom("runs/a")),
        ("runs/a@120", InitFrom("runs/a", 120)),
        ("runs/a@b", InitFrom("runs/a@b")),
        ("me@host/a@7", InitFrom("me@host/a", 7)),
    ],
)
def test_where_weights_come_from(text, expected, tmp_path):
    assert parse_init_from(text) == expected and str(expected) == text
    (tmp_path / "a@3").mkdir()
    assert parse_init_from(str(tmp_path / "a@3")) == InitFrom(str(tmp_path / "a@3"))
    assert parse_init_from(None) is None
    with pytest.raises(ValueError, match="--ema says which average of --init_from"):
        parse_init_from(None, "500")


@pytest.mark.few(1)
@pytest.mark.parametrize("ema", [None, "5.0", "none"])
def test_a_run_begins_with_the_weights_of_another(ema, begun, tmp_path, capsys):
    """The chosen average, as parameters and in every average; a fresh optimizer; all of it recorded."""
    source = InitFrom("run", None, ema)
    run(changed(1, training__batch_size=4), tmp_path, init_from=source)
    theirs = read_state(Experiment(tiny()), pathlib.Path("run"))
    chosen = pick_params(theirs, ema)
    ours = read_state(Experiment(tiny()), tmp_path, step=0)
    assert bits(ours.params) == bits(chosen) == bits(ours.ema["0.5"]) == bits(ours.ema["5"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(ours.opt_state)) and int(ours.step) == 0
    manifest = (pathlib.Path("run/checkpoints") / "4" / MANIFEST).read_bytes()
    origin = read_history(tmp_path)["init_from"]
    name = {"5.0": "5", None: "0.5"}.get(ema, ema)
    assert (origin["workdir"], origin["step"], origin["average"]) == ("run", 4, name)
    assert origin["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert "at step 4 of run" in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_command_goes_on(begun, tmp_path):
    """It does not begin again, and does not need the other run any more; another source is refused."""
    shutil.copytree("run", tmp_path / "source")
    source = InitFrom(str(tmp_path / "source"))
    config = changed(2)
    whole = run(config, tmp_path / "whole", init_from=source)
    run(changed(1), tmp_path / "cut", init_from=source)
    with pytest.raises(
        ValueError, match=r"one in .* began with the weights of step 4 of .*source, not with the weights of other@3"
    ):
        run(config, tmp_path / "cut", init_from=InitFrom("other", 3))
    with pytest.raises(
        ValueError, match=r"began with random weights, not .*Use another --workdir; or drop --init_from"
    ):
        run(config, "run", init_from=source)
    shutil.rmtree(tmp_path / "source")
    assert bits(run(config, tmp_path / "cut", init_from=source)) == bits(whole)
    assert read_history(tmp_path / "cut")["init_from"] == read_history(tmp_path / "whole")["init_from"]
    assert 0 in steps_on_disk(tmp_path / "cut")


def test_weights_that_do_not_fit_are_listed(begun, tmp_path):
    config = changed(network__width=16)
    message = (
        r"do not fit the network of this config. Of 1\d arrays 1\d differ: network/block_0_embedding/bias has shape"
    )
    with pytest.raises(
        ValueError, match=rf"{message} \(8,\) in the checkpoint and \(16,\) in the model; .* and \d+ more"
    ):
        run(config, tmp_path, init_from=InitFrom("run"))
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at step 3 in .*it has \[4\]"):
        run(config, tmp_path, init_from=InitFrom("run", 3))
    with pytest.raises(FileNotFoundError, match=r"No checkpoint in .*nowhere"):
        run(config, tmp_path, init_from=InitFrom(str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"\(--ema\) needs one of \['0.5', '5', 'none'\].*got '7'"):
        run(config, tmp_path, init_from=InitFrom("run", None, "7"))
    assert not steps_on_disk(tmp_path)


@pytest.mark.slow
def test_weights_that_another_model_reads_are_told(begun, tmp_path, capsys):
    """The arrays fit, but their meaning may not."""
    run(changed(1, sde__beta_max=10.0), tmp_path, init_from=InitFrom("run"))
    assert "read by another model than they were trained in (sde.beta_max: 20.0 there, 10.0 here)" in (
        capsys.readouterr().out
    )


def test_rows_of_the_ledger_name_the_weights_that_a_run_began_with(begun, tmp_path):
    """Of an absolute path the last part, as the rest means something on one machine only."""
    experiment, evaluation = Experiment(tiny()), evaluating.Evaluation(metrics=("bits_per_dim",))
    params = read_state(experiment, pathlib.Path("run")).params

    def row(workdir):
        return evaluating._identity(
            evaluating._Job(Trained(experiment, 4, "none", params, workdir), evaluation, Reporter(True))
        )

    assert "init_from" not in row(pathlib.Path("run"))
    origin = {"workdir": "/runs/a", "step": 4, "average": "0.5", "manifest_sha256": "12ab"}
    (tmp_path / "history.json").write_text(json.dumps({"init_from": origin}))
    assert row(tmp_path)["init_from"] == origin | {"workdir": "a"}


def test_a_damaged_history_is_named(tmp_path):
    (tmp_path / "history.json").write_text("[]")
    with pytest.raises(ValueError, match=r"history.json needs an object of JSON, got a list; delete it"):
        read_history(tmp_path)
    assert read_history(tmp_path / "none") == {}
    (tmp_path / "history.json").write_text(json.dumps({"init_from": None}))
    assert read_history(tmp_path) == {"init_from": None}
