"""A sweep on this machine: bounded, resumed, retried, and nothing hidden. The trainings are fake and take milliseconds."""

import json
import signal
import subprocess
import sys

import pytest

from score_sde.sweeps import Queue, build_sweep
from score_sde.sweeps.checking import check_trial
from score_sde.sweeps.local import is_locked, lock, run_local
from score_sde.sweeps.sharing import available_cores, share
from score_sde.sweeps.trial import make_trial
from tests.sweeps.several import DRIVE, ENVIRONMENT, described, fake_sweep, run, starts, states, until


def drive(tmp_path, slots=2, **fields):
    """The sweep as a process of its own, to be killed. It hears Ctrl-C though the tests may run in the background."""
    (tmp_path / "sweep.json").write_text(json.dumps(described(**fields)))
    command = [*DRIVE, str(tmp_path / "sweep.json"), str(tmp_path / "sweep"), str(slots)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits a signal that is ignored
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_finished_trials_are_skipped_and_new_values_added(tmp_path):
    queue, _ = run(fake_sweep(), tmp_path)
    assert states(queue) == ["finished"] * 3
    trials = list(queue.trials.values())
    command = starts(trials[0])[0]["arguments"]
    assert command[:3] == [
        "--config=configs/density2d.py",
        "--config.optimizer.learning_rate=0.0001",
        "--config.training.num_steps=4",
    ]
    assert command[3] == f"--workdir={tmp_path / 'trials' / trials[0].name}" and trials[0].name.startswith("0.0001-")
    again, printed = run(fake_sweep(rates=(1e-3, 3e-3, 1e-4, 1e-2)), tmp_path)
    assert len(again.trials) == 4 and states(again) == ["finished"] * 4 and "3 of 4 trials have ended before" in printed
    assert [len(starts(trial)) for trial in again.trials.values()] == [1, 1, 1, 1]
    assert set(queue.trials) < set(again.trials)


def test_more_steps_go_on_from_where_training_ended(tmp_path):
    run(fake_sweep(rates=[1e-3], steps=4), tmp_path)
    queue, _ = run(fake_sweep(rates=[1e-3], steps=6), tmp_path)
    (trial,) = queue.trials.values()
    assert [start["step"] for start in starts(trial)] == [0, 4] and trial.step == 6


def test_commands_after_training_run_once_and_when_they_are_new(tmp_path):
    write = f"{sys.executable} -c \"open('{{workdir}}/NAME','a').write('1')\""
    one, two = write.replace("NAME", "one"), write.replace("NAME", "two")
    run(fake_sweep(rates=[1e-3], then=[one]), tmp_path)
    queue, _ = run(fake_sweep(rates=[1e-3], then=[one, two]), tmp_path)
    (trial,) = queue.trials.values()
    assert (trial.folder / "one").read_text() == "1" and (trial.folder / "two").read_text() == "1"
    assert len(starts(trial)) == 1 and len(trial.record().done) == 3
    queue, _ = run(fake_sweep(rates=[1e-3], steps=5, then=[one, two]), tmp_path)  # another model: both again
    (trial,) = queue.trials.values()
    assert (trial.folder / "one").read_text() == "11" and (trial.folder / "two").read_text() == "11"


def test_a_failed_trial_never_hides(tmp_path):
    sweep = fake_sweep(environment={"FAKE_FAIL": "0.001"})
    queue, printed = run(sweep, tmp_path)
    assert states(queue) == ["finished", "failed", "finished"]
    failed = list(queue.trials.values())[1]
    assert failed.record().message == "exit code 3: Error: the learning rate is cursed."
    assert f"{failed.name}: failed exit code 3: Error: the learning rate is cursed." in printed
    queue, _ = run(fake_sweep(), tmp_path)  # mended, but failed trials wait to be asked for
    assert states(queue)[1] == "failed" and len(starts(failed)) == 1
    queue, _ = run(fake_sweep(), tmp_path, retry_failed=True)
    assert states(queue) == ["finished"] * 3 and [len(starts(t)) for t in queue.trials.values()] == [1, 2, 1]


def test_a_command_that_cannot_start(tmp_path):
    queue, _ = run(fake_sweep(rates=[1e-3], train="no_such_program --x"), tmp_path)
    (trial,) = queue.trials.values()
    assert trial.record().state == "failed" and "'no_such_program' cannot be started" in trial.record().message


@pytest.mark.few(2)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, 0])
def test_a_preempted_trial_goes_on(tmp_path, number):
    """By a signal, or by an exit that says all is well before the last step; every start makes one step."""
    sweep = fake_sweep(rates=[1e-3], steps=4, environment={"FAKE_END": str(int(number))}, max_retries=1)
    queue, _ = run(sweep, tmp_path)
    (trial,) = queue.trials.values()
    record = trial.record()
    expected = 4 if number == 0 else 5  # the last signal comes after the last step, before a good exit
    assert record.state == "finished" and record.retries == expected - 1
    assert [start["step"] for start in starts(trial)] == list(range(expected))
    assert [json.loads(line)["step"] for line in (trial.folder / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
    ]
    assert "is started again" in (trial.folder / "log.txt").read_text()
    assert starts(trial)[0]["stopped_exit"] == "143"  # a command that stops with 0 would read as done


def test_preempted_again_and_again_without_a_step_is_a_failure(tmp_path):
    sweep = fake_sweep(rates=[1e-3], steps=2, environment={"FAKE_NEVER": "1"}, max_retries=2)
    queue, _ = run(sweep, tmp_path)
    (trial,) = queue.trials.values()
    assert trial.record().state == "failed" and trial.record().retries == 2
    assert (
        trial.record().message == "was pre-empted (killed by SIGKILL at step 2 of 2) after 2 starts without a new step"
    )


@pytest.mark.few(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_stops_its_trials_and_goes_on(tmp_path, number):
    process = drive(tmp_path, steps=2000, environment={"FAKE_SECONDS": "0.03", "FAKE_LATE": "1"})
    sweep, folder = fake_sweep(steps=2000), tmp_path / "sweep"
    first, second, third = Queue(sweep, folder, write=False).trials.values()
    until(lambda: first.step > 3 and second.step > 3)
    assert is_locked(folder)
    process.send_signal(number)
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    said = process.communicate(timeout=300)[0].splitlines()
    closing = (
        f"Stopped by {name}; 0 of 3 trials are finished, and all is saved in {folder}. The same command goes on from"
    )
    assert said[-1].startswith(closing) and process.returncode == 0
    assert sum("| stopped" in line for line in said) == 2  # the table
    assert [trial.record().state for trial in (first, second, third)] == ["stopped", "stopped", "pending"]
    assert first.step < 2000 and not starts(third) and not is_locked(folder)
    queue, _ = run(sweep, folder)
    assert states(queue) == ["finished"] * 3 and [len(starts(t)) for t in queue.trials.values()] == [2, 2, 1]
    assert starts(first)[1]["step"] >= 3 and first.step == 2000


def test_a_killed_sweep_leaves_no_trial_behind_and_goes_on(tmp_path):
    process = drive(tmp_path, steps=2000, environment={"FAKE_SECONDS": "0.03"})
    sweep, folder = fake_sweep(steps=2000), tmp_path / "sweep"
    trials = list(Queue(sweep, folder, write=False).trials.values())
    until(lambda: trials[0].step > 3 and trials[1].step > 3)
    process.kill()
    process.wait()
    until(lambda: not is_locked(folder))  # the trials held the lock until they ended
    assert trials[0].step < 2000 and trials[0].record().state == "running"
    queue, _ = run(sweep, folder)
    assert states(queue) == ["finished"] * 3 and [trial.step for trial in trials] == [2000] * 3


def test_no_more_than_the_slots_at_once_each_on_its_cores(tmp_path):
    cores = available_cores()
    environment = {"FAKE_SECONDS": "0.02", "FAKE_TOGETHER": "2"}
    sweep = fake_sweep(rates=[1e-4, 1e-3, 1e-2, 1e-1], steps=10, environment=environment)
    queue = Queue(sweep, tmp_path)
    run_local(sweep, queue, tmp_path, share(2, cores, ["0", "1"]))
    begun = [starts(trial)[0] for trial in queue.trials.values()]
    assert {start["gpu"] for start in begun} == {"0", "1"}
    if len(cores) > 1:
        assert len({tuple(start["affinity"]) for start in begun}) == 2
        assert all(len(start["affinity"]) < len(cores) for start in begun)
    times = sorted((t.folder / "starts.jsonl").stat().st_mtime for t in queue.trials.values())
    ends = sorted((t.folder / "metrics.jsonl").stat().st_mtime for t in queue.trials.values())
    assert times[1] < ends[0] < times[2] and ends[1] < times[3]


def test_the_machine_is_divided_evenly():
    assert [slot.cores for slot in share(3, [0, 1, 2, 3, 4, 5, 6], [])] == [[0, 1], [2, 3], [4, 5, 6]]
    assert [slot.cores for slot in share(3, [4, 5], [])] == [[4], [5], [4]]
    assert share(None, [0, 1], [])[0].cores is None and len(share(None, [0, 1], ["0", "3"])) == 2
    shared = share(3, [0, 1, 2], ["0", "3"])
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in shared] == ["0", "3", "0"]
    assert [slot.environment.get("XLA_PYTHON_CLIENT_MEM_FRACTION") for slot in shared] == ["0.450", None, "0.450"]
    with pytest.raises(ValueError, match="--max_parallel needs to be at least 1, got 0"):
        share(0, [0], [])


def test_two_sweeps_in_one_folder(tmp_path):
    with (
        lock(tmp_path, 0),
        pytest.raises(ValueError, match="Another sweep runs in .*use another --workdir"),
        lock(tmp_path, 0),
    ):
        pass


def test_another_base_config_in_the_same_folder(tmp_path):
    run(fake_sweep(rates=[1e-3]), tmp_path)
    other = fake_sweep(rates=[1e-3], overrides={"training.num_steps": 4, "network.width": 8})
    with pytest.raises(ValueError, match=r"was made with another base config: network.width: 128 there, 8 here"):
        Queue(other, tmp_path)


def test_a_config_that_cannot_be_built_starts_nothing(tmp_path):
    axes = {"sde": [{"name": "ve", "sigma_max": 50.0}, {"name": "ve", "sigma_mix": 50.0}]}
    with pytest.raises(ValueError, match=r"The trial ve-\w+ cannot run: config.sde has the unknown field 'sigma_mix'"):
        Queue(build_sweep(described(axes=axes)), tmp_path, check=check_trial)
    assert not list(tmp_path.glob("trials/*"))


def test_a_name_depends_on_the_point_alone(tmp_path):
    sweep = fake_sweep()
    points = [{"optimizer.learning_rate": rate} for rate in (1, 1.0, 0.001)]
    one, same, other = [make_trial(sweep, tmp_path, point).name for point in points]
    assert one == same != other
    longer = make_trial(fake_sweep(steps=9), tmp_path / "elsewhere", points[2])
    assert longer.name == other
    by_file = make_trial(sweep, tmp_path, {"config": "configs/density2d.py:rings"})
    assert by_file.commands[0][2] == "--config=configs/density2d.py:rings" and by_file.name.startswith(
        "density2d-rings-"
    )
    assert by_file.config["data"]["train"]["density"] == "rings"
