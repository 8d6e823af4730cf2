"""Training: state, step, loop, checkpoints, averages, optimizers and logs."""
