#!/bin/sh
# The demonstration of `make demo`: the embedded miniature model, a photograph and two recipes.
# usage: demo.sh VTPRUNE OUT, where VTPRUNE is the command and OUT the folder for the pictures.
set -eu
vtprune=$1
out=$2
mkdir -p "$out"
image=vtprune/testbed/images/coffee.jpg
for recipe in plphp fastv; do
    echo
    echo "== vtprune run --recipe $recipe --image $image --overlay $out/$recipe.png"
    "$vtprune" run --recipe "$recipe" --image "$image" --max-new-tokens 16 --compare --overlay "$out/$recipe.png"
done
echo
echo "pictures of the kept tokens: $(ls "$out"/*.png | tr '\n' ' ')"
