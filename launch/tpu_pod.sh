#!/usr/bin/env bash
# Trains on every worker of a TPU pod slice (or single TPU VM) with one command, from your own machine.
#
#   NAME=my-tpu ZONE=us-central2-b REPO=https://…/score_sde.git launch/tpu_pod.sh setup
#   NAME=my-tpu ZONE=us-central2-b launch/tpu_pod.sh train --config=configs/cifar10/ddpmpp_vp.py --workdir=/mnt/runs/vp
#
# setup clones or updates REPO (at REF, default main) on every worker and makes its environment; train, sample, evaluate and
# likelihood run that entry point. The workers find each other. --workdir is a folder that all of them see.
set -euo pipefail

: "${NAME:?set NAME to the name of the TPU}" "${ZONE:?set ZONE to its zone}"
command=${1:?give setup, train, sample, evaluate or likelihood}
shift

on_every_worker() {
    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"} --worker=all --command="$1"
}

case "$command" in
    setup)
        : "${REPO:?set REPO to the address of the repository}"
        repo=$(printf '%q' "$REPO") ref=$(printf '%q' "${REF:-main}")
        on_every_worker "set -e; [ -d score_sde ] || git clone $repo score_sde; cd score_sde; git fetch origin $ref; \
git checkout --detach FETCH_HEAD; make env EXTRAS=dev,tpu"
        ;;
    train | sample | evaluate | likelihood)
        flags=
        (($# == 0)) || flags=$(printf ' %q' "$@")
        on_every_worker "cd score_sde && .venv/bin/python -m score_sde $command$flags"
        ;;
    *)
        echo "tpu_pod.sh needs setup, train, sample, evaluate or likelihood, got $command." >&2
        exit 2
        ;;
esac
