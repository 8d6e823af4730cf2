"""Sweeps: many trainings that differ in some fields of their config. They run locally, on Slurm or on TPU pods."""

from score_sde.sweeps.axes import AXES
from score_sde.sweeps.metric import Metric
from score_sde.sweeps.pending import Queue
from score_sde.sweeps.spec import SEARCHES, Sweep, build_sweep, load_sweep
from score_sde.sweeps.trial import Record, Trial, make_trial

LAUNCHERS = ("local", "slurm", "xpk", "jobset")
