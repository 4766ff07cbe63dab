#!/usr/bin/env bash
# Find the archives of COCO 2017 for detection in a folder and unpack them.
#
#     tools/datasets/unpack_coco2017.sh DOWNLOADED data/coco
#
# `mim download mmghostnetv2 --dataset coco2017` calls this. The archives are kept.
set -euo pipefail

for name in annotations_trainval2017 val2017 train2017; do
    archive=$(find -L "$1" -maxdepth 5 -name "$name.zip" -print -quit)
    if [ -z "$archive" ]; then
        echo "no $name.zip in $1" >&2
        exit 1
    fi
    python3 -m zipfile -e "$archive" "$2"
done
