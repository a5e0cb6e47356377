"""Adapters that break one promise each: what the checks of adapters have to find.

`BROKEN` names the check that has to fail, the tiny model it is tried on, the adapter, and what the message must name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vtprune.adapters import clip_like, qwen_like
from vtprune.adapters.internvl import ADAPTER as INTERNVL
from vtprune.adapters.llava import ADAPTER as LLAVA
from vtprune.adapters.llava_next import ADAPTER as LLAVA_NEXT
from vtprune.adapters.pixtral import ADAPTER as PIXTRAL
from vtprune.adapters.qwen2_5_vl import ADAPTER as QWEN
from vtprune.adapters.rows import one_row_each
from vtprune.core.adapter import Adapter, VisionCall, VisionInput

Images = Callable[[Any, VisionCall], list[VisionInput]]


class Broken(NamedTuple):
    """tiny: a variant in `vtprune.testing.models.families`; names: what the message must hold, the field first."""

    tiny: str
    adapter: Adapter
    names: tuple[str, ...]


def llava(*names: str, **fields: Any) -> Broken:
    return Broken("llava", replace(LLAVA, **fields), names)


def qwen(*names: str, **fields: Any) -> Broken:
    return Broken("qwen2_5_vl", replace(QWEN, **fields), names)


def imaged(broken: Callable[[list[VisionInput], Any, VisionCall], list[VisionInput]], of: Adapter = LLAVA) -> Images:
    """The adapter's images, made worse."""
    return lambda model, call: broken(of.images(model, call), model, call)


def each(of: Adapter = LLAVA, **changed: Callable[[VisionInput], Any]) -> Images:
    """The adapter's images with other fields."""
    return imaged(
        lambda found, model, call: [replace(i, **{name: new(i) for name, new in changed.items()}) for i in found], of
    )


def doing(act: Callable[[Any, VisionCall], object], of: Adapter = LLAVA) -> Images:
    """The adapter's images, and something on the side."""

    def images(model: Any, call: VisionCall) -> list[VisionInput]:
        act(model, call)
        return of.images(model, call)

    return images


def swapped(image: VisionInput) -> tuple[int, int, int]:
    assert image.grid is not None
    t, h, w = image.grid
    return t, w, h


def in_patches(image: VisionInput) -> tuple[int, int, int]:
    assert image.grid is not None
    t, h, w = image.grid
    return t, 2 * h, 2 * w


def shuffled_pixels(found: list[VisionInput], model: Any, call: VisionCall) -> list[VisionInput]:
    return [replace(image, pixels=other.pixels) for image, other in zip(found, found[::-1], strict=True)]


def all_pixels(found: list[VisionInput], model: Any, call: VisionCall) -> list[VisionInput]:
    return [replace(image, pixels=call.arguments["pixel_values"]) for image in found]


def brighter(model: Any, call: VisionCall) -> None:
    """Changes the features that the model is about to use."""
    with torch.no_grad():
        for features in call.features:
            features.mul_(1.5)


def noted(model: Any, call: VisionCall) -> None:
    model.vision_seen = object()


def unhooked(model: Any, call: VisionCall) -> None:
    model.base_model.vision_tower._forward_hooks.clear()


def turned(model: Any, call: VisionCall) -> None:
    grids = call.arguments["image_grid_thw"]
    grids[:, 1:] = grids[:, [2, 1]]


def narrower(model: Any, call: VisionCall) -> None:
    """Changes which positions the model is about to compute."""
    call.arguments["image_grid_thw"][:, 1] += 2


def half_of_each(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    assert INTERNVL.tower_rows is not None
    return [rows[:, :2].repeat(1, 2) for rows in INTERNVL.tower_rows(model, call, images)]


def upside_down(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[Tensor]:
    return [rows.flip(0) for rows in one_row_each(model, call, images)]


def windows_without_cls(model: Any, call: VisionCall, images: Sequence[VisionInput]) -> list[list[int]]:
    return [[length - 1 for length in lengths] for lengths in clip_like.windows(model, call, images)]


def first_only(model: Any, modality: Any, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
    pixels = arguments["pixel_values"]
    return {**arguments, "pixel_values": pixels[:1]}, [0] * len(pixels)


def never_the_same(model: Any, modality: Any, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
    return dict(arguments), list(range(len(arguments["pixel_values"])))


ONE_MORE = each(tokens=lambda image: image.tokens + 1)
BRIGHTER = llava("`images`", images=doing(brighter))
NOTED = llava("vision_seen", "must only read", images=doing(noted))

BROKEN: dict[str, list[Broken]] = {
    "adapter_has_a_name_and_a_summary": [llava("`name`", name="My Family!"), llava("`summary`", summary=" ")],
    "adapter_claims_model_classes": [
        llava("`architectures`", "Did you mean", architectures=("LlavaForConditionalGeneratio",)),
        llava("`architectures`", "a tuple of one needs a comma", architectures="LlavaForConditionalGeneration"),
        llava("`tower_types`", "clip_vision_model", tower_types=("siglip_vision_model",)),
    ],
    "adapter_names_known_signals": [llava("`provides`", "attention", provides=frozenset({"features", "atention"}))],
    "adapter_refuses_with_a_reason": [llava("`unsupported`", unsupported="no")],
    "adapter_paths_lead_to_modules": [
        llava("`projector`", "multi_modal_projector", projector="multi_modal_projecter"),
        llava("`vision_layers`", "vision_tower.encoder", "layers", vision_layers="encoder.layer"),
        llava("`vision_attention`", "self_attn", vision_attention="self_atn"),
        llava("`vision_layers`", "expected a list of layers", vision_layers="encoder"),
        llava("`mergers`", "norm", mergers=("language_model.nrm",)),
    ],
    "adapter_language_model_is_the_decoder": [
        llava("`language_model`", "vision_tower.encoder", language_model="vision_tower.encoder")
    ],
    "adapter_vision_layers_run_in_order": [
        llava("`vision_tower`", "none of the 4 layers", vision_tower="language_model", vision_layers="layers")
    ],
    "adapter_placeholders_are_in_the_config": [
        llava("`placeholders`", "image_token_index", placeholders={"image": "image_tokn_id"}),
        qwen("`placeholders['image']`", "holds no token 126", placeholders={"image": "video_token_id"}),
        llava("`placeholders`", "no token of a prompt", placeholders={}),
    ],
    "adapter_accounts_for_one_image": [llava("`images`", "accounts for 17", images=ONE_MORE)],
    "adapter_accounts_for_two_images": [
        llava("`images`", "accounts for 16", images=imaged(lambda found, model, call: found[:1]))
    ],
    "adapter_accounts_for_a_padded_batch": [
        llava("`images`", "accounts for 32", images=imaged(lambda found, model, call: found[:2]))
    ],
    "adapter_accounts_for_an_image_at_the_end": [llava("`images`", "accounts for 17", images=ONE_MORE)],
    "adapter_accounts_for_videos": [
        qwen("`placeholders`", "accounts for", placeholders={"image": "image_token_id"}),
    ],
    "adapter_leaves_text_alone": [
        llava("`placeholders`", "text", placeholders={"image": "image_token_id", "video": "image_seq_length"})
    ],
    "adapter_features_stand_at_the_placeholders": [
        qwen("`placeholders`", placeholders={"image": "vision_start_token_id"})
    ],
    "adapter_grids_hold_the_tokens": [
        llava("`images`", "product is 16", images=each(grid=in_patches)),
        llava("`images`", "no grid", images=each(grid=lambda image: None, row_ends=lambda image: True)),
        llava("`images`", "of image 3", images=each(image=lambda image: image.image + 3)),
    ],
    "adapter_row_ends_are_separators": [
        Broken("llava_next", replace(LLAVA_NEXT, images=each(LLAVA_NEXT, row_ends=lambda i: False)), ("`row_ends`",)),
        llava("`row_ends`", images=each(row_ends=lambda image: True)),
    ],
    "adapter_images_are_in_prompt_order": [
        llava("`pixels`", "order", images=imaged(shuffled_pixels)),
        llava("`pixels`", "batch mates", images=imaged(all_pixels)),
        Broken(
            "llava_next",
            replace(LLAVA_NEXT, images=imaged(lambda found, model, call: found[::-1], LLAVA_NEXT)),
            ("`images`", "order"),
        ),
    ],
    "adapter_tower_rows_are_those_that_matter": [
        llava("`tower_rows`", "CLS", tower_rows=one_row_each),
        qwen("`tower_rows`", "windows", tower_rows=qwen_like.unit_rows),
        Broken("internvl", replace(INTERNVL, tower_rows=half_of_each), ("`tower_rows`",)),
    ],
    "adapter_projector_rows_are_those_that_matter": [
        llava("`projector_rows`", projector_rows=upside_down),
        llava("`projector_rows`", "shape", projector_rows=lambda model, call, images: []),
    ],
    "adapter_project_is_the_projector": [
        llava("`project`", project=lambda model, features: 2 * clip_like.project(model, features)),
        llava("`project`", "expected", project=lambda model, features: features.squeeze(1)),
    ],
    "adapter_tower_depth_is_where_features_leave": [
        llava("`tower_depth`", "does not change", tower_depth=lambda model: 3),
        llava("`tower_depth`", "changes", tower_depth=lambda model: 1),
    ],
    "adapter_cls_row_is_no_patch": [
        llava("`cls_row`", "depends on the picture", cls_row=lambda model: 1),
        llava("`cls_row`", "17 rows", cls_row=lambda model: 17),
    ],
    "adapter_windows_cover_the_sequence": [
        llava("`windows`", "CLS", windows=windows_without_cls),
        llava("`windows`", "layers", windows=lambda model, call, images: []),
    ],
    "adapter_grid_follows_the_picture": [
        Broken("pixtral", replace(PIXTRAL, images=each(PIXTRAL, grid=swapped)), ("`images`", "exchanged"))
    ],
    "adapter_grid_agrees_with_the_positions": [qwen("`images`", "exchanged", images=each(QWEN, grid=swapped))],
    "adapter_provides_what_it_says": [llava("`images`", "'grid'", images=each(grid=lambda image: None))],
    "adapter_refuses_what_it_does_not_provide": [qwen("`cls_row`", "not refused", cls_row=lambda model: False)],
    "adapter_keeps_all_inside_the_tower": [
        BRIGHTER,
        qwen("`tower_depth`", "[image, patch, dim]", tower_depth=lambda model: 3),
    ],
    **{
        f"adapter_{name}": [BRIGHTER, llava("`images`", "accounts for", images=ONE_MORE)]
        for name in (
            "keeps_all_before_the_projector",
            "keeps_all_behind_the_projector",
            "keeps_all_in_a_decoder_layer",
            "keeps_all_in_the_cache",
            "removal_before_the_projector_is_masking",
            "removal_behind_the_projector_is_masking",
            "removal_in_a_decoder_layer_is_masking",
            "eviction_is_masking",
            "removal_from_an_image_at_the_end_is_masking",
        )
    },
    "adapter_patches_leave_the_tower": [
        llava("`tower_rows`", tower_rows=lambda model, call, images: [torch.full((16, 1), -1)] * len(images)),
        qwen("`tower_depth`", "[image, patch, dim]", tower_depth=lambda model: 3),
    ],
    "adapter_samples_are_by_themselves": [llava("`images`", "`pixels`", images=imaged(all_pixels))],
    "adapter_caches_are_shorter": [llava("`images`", "accounts for", images=ONE_MORE)],
    "adapter_positions_stay_in_step": [qwen("`images`", "positions", images=doing(narrower, QWEN))],
    "adapter_equal_images_are_encoded_once": [
        llava("`unique`", "differ in one pixel", unique=first_only),
        llava("`unique`", "no twin", unique=never_the_same),
    ],
    "adapter_functions_only_read": [
        NOTED,
        llava("features[0]", "changed in place", images=doing(brighter)),
        qwen("image_grid_thw", "changed in place", images=doing(turned, QWEN)),
    ],
    "adapter_restores_the_model": [NOTED],
    "adapter_restores_after_an_exception": [NOTED],
    "adapter_leaves_foreign_hooks": [llava("hooks", "must only read", images=doing(unhooked))],
    "adapter_nests": [NOTED],
}
"""By check, adapters that it has to find."""
