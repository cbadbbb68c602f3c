#!/usr/bin/env bash
# What only a GPU can show: benchmarks/on_gpu.sh [FOLDER] [PART ...]
#
#   graphs    the tests of graphs and of trials side by side, for 90 s at most
#   sweeps    eight trials end to end, against the article's loop
#   beside    trials side by side, against one after the other
#   start     from the prompt to the first step
#   text      fits that once failed on a GPU, on padded text, with graphs and (text_off) without
#   scaled    the article's own precision
#   linear    a student that is solved for where the teacher is
#   tests     the other tests that need a GPU
#
# In this order, each in processes of its own, and none after SECONDS_ALL=290 in all, of which one
# part gets SECONDS_EACH=240 at most: by what trials took on an H200, sweeps want about 130 s and
# beside as much again. The rest then needs a second run, which names its parts. A log for each part
# in FOLDER, with the tables that the benchmarks made, and a short table last. Ctrl-C ends the part
# that runs and goes on to the next; SIGTERM goes on to the table. Where packages cannot be
# downloaded, put wheels of what pyproject.toml names (but torch, transformers and
# pytorch-lightning) into wheels/ first.
#
# Without a GPU, small numbers show that all of it runs: SMALL=1 benchmarks/on_gpu.sh [FOLDER]
set -muo pipefail
cd "$(dirname "$0")/.." || exit
root=$PWD
folder=${1:-${OUT:-gpu}}
shift
parts=${*:-graphs sweeps beside start text text_off scaled linear tests}
mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit
export PYTHONPATH="$root:$root/src${PYTHONPATH:+:$PYTHONPATH}"
export BENCHMARK_RESULTS=$folder
python=${PYTHON:-python3}
# Images of machines come without compiled modules, and often keep Python from writing them: a
# process that compiles what it imports begins seven seconds later.
unset PYTHONDONTWRITEBYTECODE
compiled=$(mktemp -d)
trap 'rm -rf "$compiled"' EXIT
export PYTHONPYCACHEPREFIX=${PYTHONPYCACHEPREFIX:-$compiled}
if [ -d wheels ]; then "$python" -m pip install --quiet --no-index --no-deps wheels/*.whl; fi
small=${SMALL:+yes}
all=${SECONDS_ALL:-${small:+1800}}
all=${all:-290}
each=${SECONDS_EACH:-240}
table=()
part=
trap 'echo "interrupted: on to the next" >&2; end INT' INT
trap 'echo "told to end: on to the table" >&2; all=0; end TERM' TERM

# What runs leads a process group, which a terminal's Ctrl-C does not reach.
end() {
    [ -z "$part" ] || kill "-$1" "$part" 2>/dev/null
}

run() {
    local name=$1 started=$SECONDS code left=$((all - SECONDS))
    shift
    [[ " $parts " == *" $name "* ]] || return
    if [ "$left" -lt 10 ]; then
        table+=("$(printf '%-9s left out: no time' "$name")")
        return
    fi
    # In a folder of its own: studies of an earlier run would be gone on with.
    rm -rf "${folder:?}/$name" && mkdir -p "$folder/$name"
    (cd "$folder/$name" && exec timeout --kill-after=10 $((left < each ? left : each)) "$@") \
        >"$folder/$name.log" 2>&1 </dev/null &
    part=$!
    # A signal ends the waiting, not what is waited for.
    while wait "$part"; code=$?; kill -0 "$part" 2>/dev/null; do :; done
    # Nothing that a part has started takes the next one's time.
    kill -KILL -- "-$part" 2>/dev/null
    part=
    table+=("$(printf '%-9s exit %-3s %4s s  %s' "$name" "$code" $((SECONDS - started)) \
        "$(said "$name")")")
    echo "${table[-1]}" >&2
}

# What a log has to say, in one line.
said() {
    local log="$folder/$1.log"
    case $1 in
    sweeps | beside) grep -E '^\| ' "$log" | grep -v -- '---' | tail -n 1 ;;
    start) grep typed "$log" | tail -n 1 ;;
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
    begin=(--rounds 2 --device gpu teacher=random_bert)
    # bfloat16 on padded text: was not a number after 200 steps, when masks were the lowest float32.
    teacher=(experiment=article teacher=random_bert data.batch_size=32 data.seq_length=128
        data.train_batches=500 trainer.max_epochs=1)
    # Those alone: others want packages that may not be there.
    mapfile -t chosen < <(grep -rl --include='test_*.py' 'mark\.gpu' tests |
        grep -v -e test_cuda_graph -e test_fetched -e test_side_by_side)
    chosen=(-m gpu "${chosen[@]}")
fi
# First: whether anything else is worth its time. In a process of their own, as each part is: after an
# illegal access a process can do no more on its GPU.
graphs=(tests/slicewise/test_{cuda_graph,fetched}.py tests/sweep/workers/test_side_by_side.py)

pytest() {
    local name=$1
    shift
    run "$name" "$python" -m pytest -q -p no:cacheprovider --rootdir "$root" \
        -c "$root/pyproject.toml" "${@/#tests/$root/tests}"
}

each=$((each < 90 ? each : 90)) pytest graphs -m gpu "${graphs[@]}"
run sweeps "$python" "$root/benchmarks/sweeps.py" "${many[@]}"
run beside "$python" "$root/benchmarks/side_by_side.py" "${beside[@]}"
run start "$python" "$root/benchmarks/start.py" "${begin[@]}"
study text "${teacher[@]}" data=text optimizer.lr=1e-3
# The same without graphs: its losses must be the same to the last digit.
study text_off "${teacher[@]}" data=text optimizer.lr=1e-3 steps.capture=off
# What the article's own precision costs, said in one line.
study scaled "${teacher[@]}" trainer.precision=16-mixed data.train_batches=20
# Solved for on the device where the teacher is.
study linear "${teacher[@]}" data=text student=linear data.train_batches=20
pytest tests "${chosen[@]}"

echo
nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null || echo "no GPU"
printf '%s\n' "${table[@]}"
echo
for name in sweeps beside; do
    [[ " $parts " != *" $name "* ]] || grep -h '^|' "$folder/$name.log" 2>/dev/null
done
[[ " $parts " != *" start "* ]] || grep -hE 'typed' "$folder/start.log" 2>/dev/null
for name in text text_off; do
    [[ " $parts " != *" $name "* ]] || echo "$name: $(grep -oE '"(valid_l1|train_l1)": [-0-9.a-zN]+' \
        "$folder/$name/multirun/$name/0/trial.json" 2>/dev/null | tr '\n' ' ')"
done
