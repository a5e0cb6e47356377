"""The start of an adapter as a Python file, with what was recognised in a model filled in."""

from __future__ import annotations

from textwrap import fill, indent
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtprune.core.recognise import Recognition

HEAD = '''"""An adapter for {name}, begun by `vtprune adapters inspect`.

{found}
"""

from __future__ import annotations

from vtprune.plugin import Adapter, recognised_images

ADAPTER = Adapter(
    name="{short}",
    summary="{name}",
    architectures=("{name}",),
'''
PATHS = (
    ("language_model", "language model", "the decoder: the module with `layers` and `rotary_emb`"),
    ("vision_tower", "vision tower", "the module that encodes pixels"),
    ("vision_layers", "vision layers", "path under the tower of its layer list"),
    ("vision_attention", "vision attention", "path inside such a layer of its attention"),
    ("projector", "projector", "the module from the tower's width to the decoder's"),
)
REQUIRED = ("language_model", "vision_tower")
TAIL = """\
    # One VisionInput per tensor of features that the model returned, without a grid. Replace it by a function of your
    # own, (model, call) -> [VisionInput], to give each rectangle of tokens its grid (t, h, w) and its pixels; then
    # "grid" and "sample_seed" belong in the set below.
    images=recognised_images,
    # (model, call, images) -> [int64 [vision, unit]]: for each token the rows of a vision layer's sequence that it is
    # made of, -1 for a separator. With it "vision_attention" belongs in the set below.
    tower_rows=None,
    # The same for the projector's input; with it stages can act at vision.output.
    projector_rows=None,
    # (model, [vision, unit, dim]) -> [vision, dim]: the projector on some tokens, for merging at vision.output.
    project=None,
    # What the family can serve.
    provides=frozenset(
        [
{provided}
        ]
    ),
)
"""


def skeleton_of(model: Any) -> str:
    """Python source of an adapter for a model, whose parameters may lie on the meta device."""
    from vtprune.core.recognise import GUESSED, examine
    from vtprune.core.signals import KINDS

    seen, name = examine(model), type(model).__name__
    short = name.partition("For")[0].lower()
    lines = [HEAD.format(name=name, short=short, found=_found(seen))]
    for field, label, meaning in PATHS:
        path = seen.found.get(label)
        if path is not None:
            lines.append(f'    {field}="{path}",\n')
        elif field in REQUIRED:
            lines.append(f'    {field}="",  # not found; the path under model.base_model of {meaning}\n')
        else:
            lines.append(f"    {field}=None,  # not found; {meaning}\n")
    placeholders = {
        kind: seen.found[f"{kind} placeholder"].removeprefix("config.")
        for kind in ("image", "video")
        if f"{kind} placeholder" in seen.found
    }
    if not placeholders:
        lines.append("    # Not found; modality to the config attribute that holds its placeholder token's id.\n")
    entries = ", ".join(f'"{kind}": "{attribute}"' for kind, attribute in placeholders.items())
    lines.append(f"    placeholders={{{entries}}},\n")
    withheld = GUESSED | {"sample_seed"} if seen.adapter is None else frozenset(KINDS) - seen.adapter.provides
    provided = "\n".join(f'            "{kind}",' for kind in KINDS if kind not in withheld)
    lines.append(TAIL.replace("{provided}", provided))
    return "".join(lines)


def _found(seen: Recognition) -> str:
    """What the file's header says, as bullets."""
    bullets = [f"found {label}: {path}" for label, path in seen.found.items()]
    bullets += [f"missing: {text}" for text in seen.missing]
    bullets += [f"note: {text}" for text in seen.notes]
    wrapped = (fill(text, 116, break_long_words=False).replace("\\", "/").replace('"', "'") for text in bullets)
    return "\n".join("- " + indent(text, "  ").strip() for text in wrapped)
