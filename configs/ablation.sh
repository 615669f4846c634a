#!/bin/sh
# The paper's ablation (Section 4.3) on a folder of faces, at the size of configs/faces.py.
#
#   configs/ablation.sh FOLDER OUT [FLAG of every training ...]
#
# A fifth of the images is held out and evaluated. All variants start from the same phase 1 and have the same images
# and holes in the same order. After an interruption, the same command resumes. The environment variable PYTHON names
# the interpreter.
set -eu
if [ $# -lt 2 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
folder=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
shift 2
python=${PYTHON:-python}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
cd "$(dirname "$0")/.."
PYTHONPATH=$(pwd)${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH

fit() {
    variant=$1
    shift
    "$python" main.py --config="configs/ablation.py:$variant" --workdir="$out/$variant" \
        --config.data.source="folder:$folder" "$@"
}

glcic() {
    "$python" -c 'from glcic_jax.commands.main import main; main()' "$@" \
        --data "folder:$folder" --split validation --validation-fraction 0.2 --size 64 \
        --masks paper:seed=0,min=20,max=36,local=40,at=64 --overwrite
}

fit completion "$@"
for variant in mse global local both; do
    fit "$variant" --config.start_from="$out/completion" "$@"
done
cd "$out"
glcic compare mse global local both --output compare.html
glcic evaluate both mse global local completion --report report --judge
