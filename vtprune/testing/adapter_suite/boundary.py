"""Checks of the boundary between vision and language: which tokens an image becomes, and in what order."""

from __future__ import annotations

import torch

from vtprune.core.errors import NoVisionTokensError, VtpruneError
from vtprune.testing.adapter_suite.encoding import entering, noting
from vtprune.testing.adapter_suite.frame import adapter_check, blaming
from vtprune.testing.adapter_suite.trial import Trial
from vtprune.testing.checking import fail
from vtprune.verify import plays
from vtprune.verify.compare import TOLERANCE, distance
from vtprune.verify.prompts import NotApplicable

ALIKE = 1e-3
"""A vision feature and what stands at its placeholder may differ by a factor; their angle's cosine is 1 within this."""


def _counts(trial: Trial, name: str) -> None:
    inputs = trial.inputs(name)
    encoded, wanted = trial.encoded(name), int(trial.vision(inputs).sum())
    for each in encoded:
        made, declared = sum(map(len, each.call.features)), sum(image.tokens for image in each.images)
        lone = sum(i.tokens for i in each.images if i.row_ends and i.grid and i.grid[2] == 1)
        if made not in (declared, declared - lone):
            fail(
                f"the model made {made} features of its {each.call.modality}s, but images() accounts for {declared}, "
                "as "
                f"{[image.tokens for image in each.images]}",
                "`images`: one VisionInput for each rectangle of tokens, with `tokens` as many as it becomes in the "
                "language "
                "model",
            )
    total = sum(image.tokens for each in encoded for image in each.images)
    if total != wanted:
        fail(
            f"the prompt has {wanted} placeholders, but images() accounts for {total} tokens",
            "`images`, or `placeholders` names another token's id",
        )
    with torch.no_grad(), blaming("`images` and `placeholders`"), trial.prune("projector", budget=1.0) as run:
        trial.model(**inputs)
        found = [layout.vision for layout in run.report.layouts]
    if found != (expected := trial.vision(inputs).sum(1).tolist()):
        fail(
            f"the samples were found to hold {found} vision tokens; the prompt holds {expected}",
            "`images`, `placeholders`",
        )


@adapter_check()
def check_adapter_accounts_for_one_image(trial: Trial) -> None:
    """One image: as many tokens as features and as placeholders."""
    _counts(trial, "one")


@adapter_check()
def check_adapter_accounts_for_two_images(trial: Trial) -> None:
    """Two images in a sample, of different sizes where the family has them."""
    _counts(trial, "two")


@adapter_check()
def check_adapter_accounts_for_a_padded_batch(trial: Trial) -> None:
    """A padded batch whose samples hold 1, 2, 0 and 1 images."""
    _counts(trial, "batch")


@adapter_check()
def check_adapter_accounts_for_an_image_at_the_end(trial: Trial) -> None:
    """A prompt whose last token is a vision token; it is kept, since the answer starts from it."""
    _counts(trial, "last")
    with (
        torch.no_grad(),
        blaming("`images`, `placeholders`"),
        trial.prune("projector", budget={"keep_tokens": 2}) as run,
    ):
        trial.model(**trial.inputs("last"))
    vision = run.report.layouts[0].vision
    if run.report.kept()[-1:] != [vision - 1]:
        fail(
            f"of a prompt that ends in its vision token {vision - 1}, tokens {run.report.kept()} were kept",
            "`images` or `placeholders`: the end of the image is not recognised",
        )


def _no_video(trial: Trial) -> str | None:
    try:
        trial.inputs("video")
    except NotApplicable as reason:
        return f"{reason}; give make_inputs the argument `videos` to have it checked"
    return None


@adapter_check(_no_video)
def check_adapter_accounts_for_videos(trial: Trial) -> None:
    """Videos, beside an image and alone."""
    _counts(trial, "video")


@adapter_check()
def check_adapter_leaves_text_alone(trial: Trial) -> None:
    """A prompt without an image is known for one, and a sample without an image in a batch comes out as it was."""
    try:
        with trial.prune("projector"), torch.no_grad():
            trial.model(**trial.inputs("text"))
    except NoVisionTokensError:
        pass
    except VtpruneError as error:
        fail(
            f"a prompt without an image gave {type(error).__name__}: {error}; expected NoVisionTokensError",
            "`placeholders` names an id that occurs in text",
        )
    else:
        fail("a prompt without an image was pruned", "`placeholders` names an id that occurs in text")
    inputs, plain = trial.inputs("batch"), trial.plain("batch")[0].forward
    with blaming("`images`, `placeholders`"), trial.prune("projector"):
        found = plays.forward(trial.model, inputs).forward
    assert plain is not None
    assert found is not None
    real = inputs["attention_mask"][2].bool()
    if (by := distance(found[2, real], plain[2, real])) > TOLERANCE:
        fail(
            f"the logits of a sample without an image changed by {by:.1e}",
            "`placeholders` names an id that occurs in text",
        )


@adapter_check()
def check_adapter_features_stand_at_the_placeholders(trial: Trial) -> None:
    """What enters the language model at the placeholders are the features, in their order (but for a factor)."""
    inputs = trial.inputs("batch")
    with torch.no_grad(), noting(trial.parts.layers[0], entering, before=True) as hidden:
        trial.model(**inputs)
    at = hidden[0][trial.vision(inputs)]
    features = torch.cat([tensor for each in trial.encoded("batch") for tensor in each.call.features])
    cause = "`placeholders` names another token's id, or `language_model` is not the one that reads the prompt"
    if at.shape != features.shape:
        fail(f"{list(at.shape)} numbers stand at the placeholders, the features are {list(features.shape)}", cause)
    alike = torch.nn.functional.cosine_similarity(at, features, dim=-1)
    if bool((alike < 1 - ALIKE).any()):
        bad = int((alike < 1 - ALIKE).int().argmax())
        fail(
            f"what stands at vision token {bad} of {len(at)} is not its feature (cosine {float(alike[bad]):.3f})", cause
        )


@adapter_check()
def check_adapter_grids_hold_the_tokens(trial: Trial) -> None:
    """The product of each grid is the number of the rectangle's tokens; images are numbered in their order."""
    for name in ("one", "two", "batch"):
        for each in trial.encoded(name):
            latest = 0
            for number, image in enumerate(each.images):
                if image.grid is not None and (len(image.grid) != 3 or torch.tensor(image.grid).prod() != image.tokens):
                    fail(
                        f"rectangle {number} has {image.tokens} tokens and the grid {image.grid}; expected (t, h, w) "
                        "whose "
                        f"product is {image.tokens}",
                        "`images`: the grid counts language-model tokens, separators included, not patches",
                    )
                if image.row_ends and image.grid is None:
                    fail(f"rectangle {number} has row_ends but no grid", "`images`")
                if not latest <= image.image <= latest + 1:
                    fail(
                        f"rectangle {number} is of image {image.image}, the one before of image {latest}",
                        "`images`: `image`",
                    )
                latest = image.image
