#!/usr/bin/env bash
# Runs everything that needs a GPU: tests, benchmarks, and three networks on CIFAR-100 with paired seeds.
#
#     benchmarks/gpu.sh                    all parts, in order
#     benchmarks/gpu.sh module network     some of them
#
# A part ends after MINUTES (9). Finished parts are skipped, and training continues where it stopped: repeat the command
# until it says that all is done. To start again, remove $WORK (gpu-runs), which holds runs and logs. Rows go to
# $RESULTS (benchmarks/results.csv). For CIFAR-100, BAM_DATA is the folder with cifar-100-python; choose SEEDS (3),
# EPOCHS (60 for ResNet-50 and ResNet-18, whose recipes have 300 and 200; 15 for ResNet-20) to fit your time, and JOBS
# (3), the number of runs that share the GPU.
# SMALL=1 DEVICE=cpu tries everything at a tiny size in a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${WORK:-gpu-runs} device=${DEVICE:-cuda} python=${PYTHON:-python} minutes=${MINUTES:-9}
results=${RESULTS:-benchmarks/results.csv}
export PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$work"

if [ -n "${SMALL:-}" ]; then
    module=(--batch 2 --shrink 8 --rounds 3) network=(--batch 2 --image 64 --rounds 3) compiled=()
    loop=(--batch 8 --steps 2 --rounds 3 --files 16) scaling=(--batch 2 --image 64 --rounds 3 --values 1)
    tests=(tests/kernels/test_gate.py) tiles=()
    cifar=(--recipe digits/small --data-options '{"num_train": 320, "num_test": 100, "canvas": 16}' --epochs "${EPOCHS:-1}")
    cifar50=("${cifar[@]}") cifar20=("${cifar[@]}")
else
    module=(--batch 256 --rounds 50) network=(--batch 256 --rounds 30) compiled=(--compile)
    loop=(--model resnet18 --batch 512 --steps 50 --files 4096) scaling=(--batch 64 --rounds 30)
    tests=(tests/kernels tests/attention tests/ecosystem/test_torch.py tests/training/test_loop.py)
    tiles=(--batch 256 --rounds 20)
    fast=(--compile --compile-mode reduce-overhead --no-deterministic --precision bf16)
    cifar=(--recipe cifar100/resnet18 --epochs "${EPOCHS:-60}" "${fast[@]}")
    cifar50=(--recipe cifar100/resnet50 --epochs "${EPOCHS:-60}" "${fast[@]}")
    cifar20=(--recipe cifar100/resnet20_fast ${EPOCHS:+--epochs "$EPOCHS"} "${fast[@]}")
fi

limited() { # COMMAND...: asked to stop after $minutes; training then saves its state
    timeout --signal=TERM --kill-after=50 $((minutes * 60)) "$@"
}

benchmark() { # NAME ARGUMENTS...
    limited "$python" "benchmarks/$1.py" --device "$device" --results "$results" "${@:2}"
}

compare() { # NAME VARIANTS ARGUMENTS...
    limited "$python" -m bam compare --attention "$2" "${@:3}" \
        --seeds "${SEEDS:-3}" --jobs "${JOBS:-3}" --device "$device" --out "$work/$1"
}

part() {
    case $1 in
    correctness) limited "$python" -m pytest -p no:cacheprovider "${tests[@]}" ;;
    module) benchmark module "${module[@]}" ${compiled[@]+"${compiled[@]}"} ;;
    network) benchmark network "${network[@]}" ;;
    network-compiled) benchmark network "${network[@]}" ${compiled[@]+"${compiled[@]}"} ;;
    loop) benchmark loop "${loop[@]}" ${compiled[@]+"${compiled[@]}"} ;;
    scaling) benchmark scaling "${scaling[@]}" ;;
    tiles) [ "$device" = cpu ] || benchmark tiles "${tiles[@]}" ;;
    cifar-resnet50) compare cifar-resnet50 none,bam "${cifar50[@]}" ;;
    cifar-resnet18) compare cifar-resnet18 none,bam "${cifar[@]}" ;;
    cifar-resnet20) compare cifar-resnet20 none,se,cbam,bam "${cifar20[@]}" ;;
    *) echo "no part $1; there are: ${parts[*]}" >&2 && return 2 ;;
    esac
}

parts=(correctness module network network-compiled loop scaling tiles cifar-resnet50 cifar-resnet18 cifar-resnet20)
left=()
for name in "${@:-${parts[@]}}"; do
    if [ -e "$work/$name.done" ]; then
        echo "== $name: done before"
        continue
    fi
    echo "== $name"
    if (part "$name") 2>&1 | tee "$work/$name.log"; then
        touch "$work/$name.done"
    else
        left+=("$name")
    fi
done
if [ ${#left[@]} -gt 0 ]; then
    echo "== not done: ${left[*]}; their logs are in $work, and the same command goes on with them"
    exit 1
fi
echo "== all done; python benchmarks/page.py $results writes docs/performance.md"
