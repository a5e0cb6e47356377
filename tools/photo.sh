#!/bin/sh
# What `make photo` runs: the embedded miniature model, a photograph and two recipes.
# usage: photo.sh VTPRUNE OUT, where VTPRUNE is the command and OUT the folder for the pictures.
set -eu
vtprune=$1
out=$2
mkdir -p "$out"
image=vtprune/testbed/images/coffee.jpg
run() {
    echo
    echo "== vtprune run --image $image --overlay $out/$2.png $*"
    "$vtprune" run --image "$image" --max-new-tokens 16 --compare --overlay "$out/$2.png" "$@"
}
# The thresholds are what vtprune.calibrate_reattention finds for this model: at the recipe's own, all its layers, which
# look at the image a great deal, keep equally many tokens.
run --recipe plphp --set stages.0.allocator.alpha=0.97 --set stages.0.allocator.beta=0.908
run --recipe fastv
echo
echo "pictures of the kept tokens: $(ls "$out"/*.png | tr '\n' ' ')"
