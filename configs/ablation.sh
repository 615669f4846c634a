#!/bin/sh
# The paper's ablation (Section 4.3) on your photographs, at the size of configs/ablation.py.
#
#   configs/ablation.sh TRAIN_FOLDER HELD_OUT_FOLDER OUT [FLAG of every training ...]
#
# All variants start from the same phase 1 and have the same images and holes in the same order. After an
# interruption, the same command resumes. The environment variable PYTHON names the interpreter.
set -eu
if [ $# -lt 3 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
train=$(cd "$1" && pwd)
held_out=$(cd "$2" && pwd)
mkdir -p "$3"
out=$(cd "$3" && pwd)
shift 3
python=${PYTHON:-python}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
cd "$(dirname "$0")/.."
PYTHONPATH=$(pwd)${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH

fit() {
    variant=$1
    shift
    "$python" main.py --config="configs/ablation.py:$variant" --workdir="$out/$variant" \
        --config.data.source="folder:$train" "$@"
}

glcic() {
    "$python" -c 'from glcic_jax.commands.main import main; main()' "$@" \
        --data "folder:$held_out" --size 64 --masks paper:seed=0
}

fit completion "$@"
for variant in mse global local both both_without_balance; do
    fit "$variant" --config.start_from="$out/completion" "$@"
done
cd "$out"
glcic compare mse global local both both_without_balance --output compare.html --overwrite
glcic evaluate mse global local both both_without_balance --report report --overwrite
