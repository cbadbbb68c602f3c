#!/usr/bin/env bash
# What only a GPU can show, in some ten minutes: benchmarks/on_gpu.sh [FOLDER]
#
# The tests that need one, the fits that once failed on one, the benchmarks. A log for each in FOLDER,
# and a short table last. Where packages cannot be downloaded, put wheels of what pyproject.toml names
# (but torch, transformers and pytorch-lightning) into wheels/ first.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-${OUT:-gpu}}
mkdir -p "$folder"
if [ -d wheels ]; then pip install --quiet --no-index --find-links wheels wheels/*.whl; fi
export PYTHONPATH="$PWD:$PWD/src"
table=()

run() {
    local name=$1 started=$SECONDS
    shift
    timeout 300 "$@" >"$folder/$name.log" 2>&1
    table+=("$name|exit $?|$((SECONDS - started)) s|$(tail -n 1 "$folder/$name.log" | cut -c1-90)")
}

run tests python -m pytest -q -m gpu -p no:cacheprovider tests
# bfloat16 on padded text: was not a number after 200 steps.
run text python -m sweep study=text experiment=article teacher=random_bert \
    trainer.precision=bf16-mixed optimizer.fused=true data=text data.batch_size=32 \
    data.seq_length=128 data.train_batches=500 trainer.max_epochs=1 optimizer.lr=1e-3 \
    trainer.enable_progress_bar=false
# Solved for on the device where the teacher is.
for student in linear original; do
    run "$student" python -m sweep "study=$student" teacher=random_bert data=text \
        "student=$student" data.train_batches=20 data.valid_batches=2
done
run article python -m sweep -m study=article experiment=article teacher=random_bert \
    student.qkv_layers=1,2,4 trainer.precision=bf16-mixed optimizer.fused=true
run compress python -m sweep.compress study=small teacher=random_bert budget.parameters=0.5 \
    'library.neurons=[1.0,0.5]' 'library.heads=[1.0,0.5]' heal.steps=100
run limit python benchmarks/limit.py
run fit python benchmarks/fit.py

printf '%s\n' "$(python -c 'import torch; print(torch.cuda.get_device_name())')" "${table[@]}"
