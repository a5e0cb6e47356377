"""``vtprune run``: a model, a recipe, a picture and a question."""

from __future__ import annotations

import contextlib
import sys
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtprune.cli.completion import attention_name, model_name, recipe_name
from vtprune.cli.console import CliError, Debug, Json, friendly, note, print_json, stdout
from vtprune.cli.prompts import complete_prompt, encode
from vtprune.cli.unasked import shown_and_asked
from vtprune.loading import DTYPES, TESTBED, load_model, open_image, pick_device

if TYPE_CHECKING:
    from PIL import Image

    from vtprune.core.recipe import Recipe
    from vtprune.core.report import Report

Dtype = Enum("Dtype", {name: name for name in DTYPES}, type=str)  # type: ignore[misc]
AUTO = Dtype("auto")


@friendly
def run_recipe(
    recipe: Annotated[
        str,
        typer.Option("--recipe", "-r", help="A registered recipe or a YAML file.", autocompletion=recipe_name),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Hub id, local directory or testbed/NAME; left out, a miniature model with random weights.",
            autocompletion=model_name,
        ),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", "-i", help="Image file; may be repeated. Left out, a photograph or a testbed scene."),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Text; image placeholders are added.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override, e.g. stages.0.budget=0.25; may be repeated.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of PyTorch, for models that sample.")] = 0,
    dtype: Annotated[Dtype, typer.Option(help="Of the weights; auto takes the checkpoint's.")] = AUTO,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    attn: Annotated[
        str | None, typer.Option(help="Attention implementation: sdpa, eager, ...", autocompletion=attention_name)
    ] = None,
    as_json: Json = False,
    overlay: Annotated[
        Path | None, typer.Option(help="Draw the kept tokens over the images into this file (.png, .jpg, ...).")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also generate without pruning.")] = False,
    debug: Debug = False,
) -> None:
    """Generate text with a recipe applied, and report what was pruned."""
    from vtprune.core.overrides import read_assignment
    from vtprune.core.recipe import Recipe

    chosen = Recipe.load(recipe, **dict(map(read_assignment, overrides or [])))
    if overlay is not None:
        _check_overlay(overlay)
    paths = image or []
    images = [open_image(path) for path in paths]
    with contextlib.redirect_stdout(sys.stderr):
        net, processor = load_model(model, dtype.value, pick_device(device), attn)
        images, prompt = shown_and_asked(model, processor, prompt, images)
        text = complete_prompt(processor, prompt, len(images))
        inputs = encode(processor, text, images, net)
        result = _generate(net, processor, inputs, chosen, max_new_tokens, seed, compare)
    report: Report = result.pop("report")
    if overlay is not None:
        _draw(report, images, overlay, processor)
    if as_json:
        _print_result_json(result, report, model, text, paths)
    else:
        _print_result(result, report)
    _note_if_empty(result, report.new_tokens, model)
    if model is None:
        from vtprune.testbed import DEFAULT_NOTE

        note(DEFAULT_NOTE)


def _note_if_empty(result: dict[str, Any], steps: int, model: str | None) -> None:
    """An empty line would look like a fault of the command."""
    texts = {"unpruned": result.get("unpruned", result)["text"], "pruned": result["text"]}
    empty = [name for name, text in texts.items() if not text]
    if not empty:
        return
    which = "" if len(empty) == 2 else f" when {empty[0]}"
    known = "; a model of the testbed knows its scenes and questions only, see `vtprune testbed show`"
    hint = known if model is not None and model.startswith(TESTBED) else ""
    what = "ended at once" if "pruned" in empty and not steps else "wrote nothing but special tokens or spaces"
    note(f"the model {what}{which}: its answer is empty{hint}")


def _check_overlay(path: Path) -> None:
    from PIL import Image

    known = sorted(ending for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE)
    if path.suffix.lower() not in known:
        raise CliError(
            f"--overlay {path}: {path.suffix or 'no ending'!r} is no picture format; use .png, .jpg or .webp"
        )
    if not path.resolve().parent.is_dir():
        raise CliError(f"--overlay {path}: the directory {path.resolve().parent} does not exist")


def _draw(report: Report, images: list[Image.Image], path: Path, processor: Any) -> None:
    from vtprune.overlay import overlay

    cropped = getattr(getattr(processor, "image_processor", None), "do_center_crop", False)
    overlay(report, images, path, fit="crop" if cropped else "stretch")
    note(f"overlay written to {path}")


def _generate(
    model: Any, processor: Any, inputs: Any, recipe: Recipe, max_new_tokens: int, seed: int, compare: bool
) -> dict[str, Any]:
    """Text, seconds and report; with ``compare`` also ``unpruned``, generated first, after a warm-up of one token."""
    import torch

    import vtprune

    def generate(tokens: int) -> tuple[str, float]:
        torch.manual_seed(seed)
        begin = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=tokens)
        new = output[:, inputs["input_ids"].shape[1] :].cpu()
        seconds = time.perf_counter() - begin
        return processor.batch_decode(new, skip_special_tokens=True)[0].strip(), seconds

    result: dict[str, Any] = {}
    if compare:
        generate(1)
        text, seconds = generate(max_new_tokens)
        result["unpruned"] = {"text": text, "seconds": seconds}
    with vtprune.prune(model, recipe) as run:
        text, seconds = generate(max_new_tokens)
    result |= {"text": text, "seconds": seconds, "report": run.report}
    if compare:
        result["unpruned"]["same_text"] = result["unpruned"]["text"] == text
    return result


def _print_result_json(
    result: dict[str, Any], report: Report, model: str | None, prompt: str, paths: list[Path]
) -> None:
    print_json(
        {
            **result,
            "model": model or "default",
            "prompt": prompt,
            "images": list(map(str, paths)),
            "report": report.to_dict(),
        }
    )


def _print_result(result: dict[str, Any], report: Report) -> None:
    console = stdout()
    if "unpruned" in result:
        unpruned = result["unpruned"]
        console.print(f"unpruned ({unpruned['seconds']:.2f} s)", style="bold")
        console.print(unpruned["text"])
        same = ", same text" if unpruned["same_text"] else ", other text"
        console.print(f"pruned ({result['seconds']:.2f} s{same})", style="bold")
    console.print(result["text"])
    console.print()
    console.print(report)
