"""A metric from a file outside of the package: the one of docs/evaluation.md by the command, and what is refused."""

import pathlib
import re
import shlex
import sys

import numpy as np
import pytest

from experiments.feature_names import metric_names
from experiments.results import run_evaluation
from score_sde.evaluation.ledger import read_rows
from score_sde.evaluation.metric_names import chosen_metrics, computed, label, title
from score_sde.evaluation.request import Evaluation
from score_sde.evaluation.row_comparison import curves, differences
from score_sde.metrics import METRICS, FeatureStatistics, Inputs, Reference
from score_sde.run_config import from_workdir
from score_sde.trained import restored
from tests.evaluation.evaluated import points, save
from tests.multiprocess.launch import launch

OWN = '''
import jax
from score_sde.metrics import METRICS, Metric, Needs


class NumParams(Metric):
    """How many numbers the model has: of no samples."""

    name = "num_params"
    title, unit, better = "size of the model", "numbers", "lower"
    needs = Needs(outputs=(), model=True)

    def compute(self, inputs):
        count = sum(x.size for x in jax.tree.leaves(inputs.model.params))
        return {"num_params": {"value": float(count), "num_examples": 0}}


class Named(Metric):
    def __init__(self, name="own", results=None, found=None):
        self._name, self._results, self._found = name, results or (name,), found

    name = property(lambda self: self._name)
    results = property(lambda self: self._results)

    def compute(self, inputs):
        return self._found


class Unfinished(Metric):
    name = "unfinished"


class Needing(Named):
    def __init__(self, better="lower", **needs):
        super().__init__(found={"own": {"value": 1.0}})
        self._needs, self._better = Needs(**needs), better

    needs = property(lambda self: self._needs)
    better = property(lambda self: self._better)


mine = lambda: Needing(statistics=("mine",))
test_split = lambda: Needing(splits=("test",))
no_samples = lambda: Needing(outputs=(), rows=True)
nothing = lambda: Needing(outputs=())
less = lambda: Needing("less")
another_fd = lambda: Named("fd")
a_path = lambda: Named("../x")
with_argument = lambda number: Named()
no_metric = lambda: 3
a_number = lambda: Named(found=3.0)
other_name = lambda: Named(found={"other": {"value": 1.0}})
no_value = lambda: Named(found={"own": {"mean": 1.0}})
an_array = lambda: Named(found={"own": {"value": 1.0, "all": METRICS}})
'''


def example():
    """The file and the command of the document."""
    text = (pathlib.Path(__file__).parent.parent.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")
    section = text.partition("## A metric of your own\n")[2].partition("\n## ")[0]
    return (re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1] for language in ("python", "bash"))


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """A run beside two modules, in a folder from which Python imports."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_project").mkdir()
    (folder / "my_project" / "metrics.py").write_text(next(iter(example())), encoding="utf-8")
    (folder / "own_metrics.py").write_text(OWN)
    save(points(), folder / "run", steps=(10,))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("my_project", "own_metrics")]:
        del sys.modules[name]


def test_the_example_by_the_command(folder, monkeypatch):
    """Its number and its error over two seeds, beside one of ours; the row says how it is compared."""
    _, command = example()
    words = [word for word in shlex.split(command) if word.startswith(("--metrics", "--features"))]
    assert words[0] == "--metrics=fid,my_project.metrics:MeanShift"
    monkeypatch.setenv("PYTHONPATH", str(folder))
    words += [f"--workdir={folder / 'run'}", "--num_samples=40", "--seeds=0,1", "--set=mesh.num_devices=1"]
    (done,) = launch("experiments.evaluate", words, number=1, devices=1)
    assert re.search(r"^mean_shift +\d.*± .* sd, min of 2 ", done.stdout, re.MULTILINE)
    (row,), warnings = read_rows([folder / "run"])
    assert not warnings and "my_project.metrics:MeanShift" in row.values["command"]
    found = row.values["results"]["mean_shift"]
    assert found["compared"] == ["result.metric", "features", "extractor_digest", "num_samples", "reference.digest"]
    assert found["values"].keys() == {"0", "1"} and found["min_of_2"] == min(found["values"].values())


def test_the_number_of_the_example(folder):
    """Its number is that of its formula, and its error about 1/√n."""
    rows = np.random.default_rng(0).normal(0.5, 1, (50, 2)).astype(np.float32)
    reference = Reference("real", "0", {"pool": FeatureStatistics(9, np.zeros(2), np.eye(2))}, {})
    (metric,) = chosen_metrics(["my_project.metrics:MeanShift"]).values()
    found = computed("own", metric, Inputs({"pool": rows}, reference, "pixels"))["mean_shift"]
    np.testing.assert_allclose(found["value"], np.linalg.norm(rows.mean(axis=0)), rtol=1e-6)
    assert 0.5 < found["standard_error"] * np.sqrt(50) < 1.5


def test_the_help_names_the_catalogue():
    assert metric_names() == f"{', '.join(METRICS)}, or a class as module:attribute"


def test_a_metric_of_the_model_draws_nothing(folder, tmp_path):
    for name in ("config.json", "checkpoints"):
        (tmp_path / name).symlink_to(folder / "run" / name)
    experiment = from_workdir(tmp_path, ["mesh.num_devices=1"])
    for _ in range(2):
        row = run_evaluation(restored(experiment, tmp_path), Evaluation(("own_metrics:NumParams",)), quiet=True)
    assert (
        row["results"]["num_params"]["value"] > 100 and "num_samples" not in row and row["held_out"]["examples"] == 120
    )
    rows, _ = read_rows([tmp_path])
    assert not (tmp_path / "evaluations").exists() and differences(*rows)[-1].startswith("num_params: ")
    rows[1].values["results"]["num_params"]["metric"] = "elsewhere:NumParams"
    assert differences(*rows)[-1].endswith("(not comparable: result.metric differ)")
    (curve,) = curves(rows[:1], "num_params", "images")
    assert "sampling" not in curve and "solver" not in curve
    found = rows[0].values["results"]["num_params"]
    assert label("num_params", found) == "num_params (numbers, lower is better)"
    assert title("num_params", found) == "size of the model" and title("old", {}) == label("old", {}) == "old"
    assert label("density_kl", {}) == "density_kl (nats, lower is better)" and title("fd", {}) == "Fréchet distance"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("fud", r"--metrics needs names among .*'sfid'\], or module:attribute of your own, got \['fud'\]"),
        ("own_metrics:Metrik", r"--metrics=own_metrics:Metrik: own_metrics has no 'Metrik'; its classes .*NumParams"),
        ("own_metric:Named", r"--metrics=own_metric:Named: there is no module 'own_metric'; .*Did you mean"),
        ("own_metrics:Needs", r"needs a subclass of score_sde.metrics.Metric, or a function that makes one, got"),
        ("own_metrics:Unfinished", r"needs a metric that can be made without arguments: .*abstract.*compute"),
        ("own_metrics:with_argument", r"needs a metric that can be made without arguments: .*number"),
        ("own_metrics:no_metric", r"needs to make a score_sde.metrics.Metric, got int"),
        ("own_metrics:a_path", r"needs names of letters, digits, _ and - as `results` .*got \['../x'\]"),
        ("own_metrics:mine", r"mine needs Needs\(statistics=…\) among \['pool', 'spatial'\], got \['mine'\]"),
        ("own_metrics:test_split", r"needs Needs\(splits=…\) among \['train', 'eval'\], got \['test'\]"),
        (
            "own_metrics:no_samples",
            r"has outputs=\(\), so that no samples are drawn, .*name 'pool' in Needs\(outputs=…\)",
        ),
        ("own_metrics:nothing", r"needs outputs of samples or model=True, got Needs\(outputs=\(\), "),
        ("own_metrics:less", r"needs better = 'lower', 'higher' or '', got 'less'"),
        ("own_metrics:another_fd", r"--metrics=own_metrics:another_fd has a number 'fd', as fid has; give it another"),
        ("own_metrics:Named,own_metrics:a_number", r"a_number has a number 'own', as own_metrics:Named has"),
    ],
)
def test_names_that_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        Evaluation(tuple(names.split(","))).checked()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a_number", r"The metric own_metrics:a_number needs to give a dict of \['own'\], got float"),
        ("other_name", r"needs to give a dict of \['own'\], got \['other'\]"),
        ("no_value", r"needs results as \{'value': a float, …\}, got \{'mean': 1.0\}"),
        ("an_array", r"needs results that JSON can hold, such as float\(x\) and x.tolist\(\): Object of type"),
    ],
)
def test_results_that_a_ledger_cannot_hold(name, message):
    ((full, metric),) = chosen_metrics([f"own_metrics:{name}"]).items()
    with pytest.raises(ValueError, match=message):
        computed(full, metric, Inputs({}, Reference("", "", {}, {}), "pixels"))
