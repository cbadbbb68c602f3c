#!/usr/bin/env bash
# What only a GPU can show, in under five minutes: benchmarks/on_gpu.sh [FOLDER]
#
# The tests of graphs and of trials side by side, whole sweeps against the article's loop, trials side
# by side, the other tests that need a GPU, fits that once failed on one, the start. A log for each in
# FOLDER, with the tables that the benchmarks made, and a short table last.
# SECONDS_EACH=240 bounds each; Ctrl-C ends the one that runs and goes on to the table. Where packages
# cannot be downloaded, put wheels of what pyproject.toml names (but torch, transformers and
# pytorch-lightning) into wheels/ first.
#
# Without a GPU, small numbers show that all of it runs: SMALL=1 benchmarks/on_gpu.sh [FOLDER]
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
folder=${1:-${OUT:-gpu}}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
export PYTHONPATH="$root:$root/src${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
# Images of machines come without compiled modules, and often keep Python from writing them: a
# process that compiles what it imports begins seven seconds later.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX=${PYTHONPYCACHEPREFIX:-$folder/compiled}
if [ -d wheels ]; then "$python" -m pip install --quiet --no-index --no-deps wheels/*.whl; fi
small=${SMALL:+yes}
limit=${SECONDS_EACH:-240}
table=()
# What runs hears of Ctrl-C too, and ends; this goes on.
trap 'echo "interrupted: on to the next" >&2' INT TERM

run() {
    local name=$1 started=$SECONDS code
    shift
    # In a folder of its own: studies of an earlier run would be gone on with.
    rm -rf "$folder/$name" && mkdir -p "$folder/$name"
    (cd "$folder/$name" && exec timeout --foreground --kill-after=20 "$limit" "$@") \
        >"$folder/$name.log" 2>&1
    code=$?
    table+=("$(printf '%-9s exit %-3s %4s s  %s' "$name" "$code" $((SECONDS - started)) \
        "$(said "$name")")")
    echo "${table[-1]}" >&2
}

# What a log has to say, in one line.
said() {
    local log="$folder/$1.log"
    case $1 in
    sweeps | beside | start) grep -E '^\| |seconds|typed' "$log" | grep -v -- '---' | head -n 3 | tail -n 1 ;;
    graphs | tests) tail -n 1 "$log" ;;
    *) grep -E 'valid_l1|cosine|Error|nan|CUDA graph|kernel by kernel' "$log" | tail -n 1 ;;
    esac | cut -c1-150
}

study() {
    local name=$1
    shift
    run "$name" "$python" -m sweep "study=$name" trainer.enable_progress_bar=false "$@"
}

if [ -n "$small" ]; then
    many=(--gpu --trials 2 --steps 20 --batch 2 --hidden 24 experiment=tiny data.seq_length=8)
    beside=(--gpu --trials 3 --steps 20 --hidden 24 data.batch_size=4 data.seq_length=8)
    begin=(--rounds 1 experiment=tiny data.batch_size=4 data.seq_length=8)
    teacher=(experiment=tiny data.batch_size=4 data.seq_length=16 data.train_batches=20)
    chosen=(tests/slicewise/test_steps.py -k "recorded or rounded")
else
    many=(--gpu)
    # One by one and eight at a time, 384 and 768 wide.
    beside=(--gpu --limit 60)
    begin=(--rounds 2 teacher=random_bert)
    # bfloat16 on padded text: was not a number after 200 steps, when masks were the lowest float32.
    teacher=(experiment=article teacher=random_bert data.batch_size=32 data.seq_length=128
        data.train_batches=500 trainer.max_epochs=1)
    # Those alone: others want packages that may not be there.
    mapfile -t chosen < <(grep -rl --include='test_*.py' 'mark\.gpu' tests |
        grep -v -e test_cuda_graph -e test_side_by_side)
    chosen=(-m gpu "${chosen[@]}")
fi

# First, and in a process of their own: after an illegal access a process can do no more on its GPU.
graphs=(tests/slicewise/test_cuda_graph.py tests/sweep/workers/test_side_by_side.py)

pytest() {
    local name=$1
    shift
    run "$name" "$python" -m pytest -q -p no:cacheprovider --rootdir "$root" \
        -c "$root/pyproject.toml" "${@/#tests/$root/tests}"
}

cd "$root" || exit
pytest graphs -m gpu "${graphs[@]}"
run sweeps "$python" "$root/benchmarks/sweeps.py" "${many[@]}"
run beside "$python" "$root/benchmarks/side_by_side.py" "${beside[@]}"
pytest tests "${chosen[@]}"
study text "${teacher[@]}" data=text optimizer.lr=1e-3
# The same without graphs: its losses must be the same to the last digit.
study text_off "${teacher[@]}" data=text optimizer.lr=1e-3 steps.capture=off
# What the article's own precision costs, said in one line.
study scaled "${teacher[@]}" trainer.precision=16-mixed data.train_batches=20
# Solved for on the device where the teacher is.
study linear "${teacher[@]}" data=text student=linear data.train_batches=20
run start "$python" "$root/benchmarks/start.py" "${begin[@]}"
cp benchmarks/results/{sweeps,side_by_side,start}_gpu.md "$folder" 2>/dev/null

echo
"$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'
printf '%s\n' "${table[@]}"
echo
grep -h '^|' "$folder"/{sweeps,beside}.log 2>/dev/null
grep -hE 'typed' "$folder"/start.log 2>/dev/null
for name in text text_off; do
    echo "$name: $(grep -oE '"(valid_l1|train_l1)": [-0-9.a-zN]+' \
        "$folder/$name/multirun/$name/0/trial.json" 2>/dev/null | tr '\n' ' ')"
done
