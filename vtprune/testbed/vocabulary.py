"""The words of the testbed's questions and answers, and the tokenizer that gives each word one token."""

from __future__ import annotations

from typing import Final

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

COLORS: Final = ("red", "green", "blue", "yellow", "cyan", "magenta", "orange", "white")
ORDINALS: Final = ("first", "second", "third", "fourth")
DIRECTIONS: Final = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}
ROWS: Final = tuple(f"row{number}" for number in range(1, 5))
COLUMNS: Final = tuple(f"col{number}" for number in range(1, 5))

PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<bos>", "<eos>", "<unk>", "<image>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
SPECIAL: Final = (PAD, BOS, EOS, UNKNOWN, IMAGE, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)

WORDS: Final = (
    *SPECIAL,
    *map(str, range(11)),
    *COLORS,
    *ORDINALS,
    *DIRECTIONS,
    *ROWS,
    *COLUMNS,
    *("none", "yes", "no", "both", "same", "up", "down"),
    *("what", "which", "where", "when", "how", "many", "is", "are", "there", "does", "has", "more", "the", "a", "at"),
    *("of", "in", "digit", "digits", "color", "image", "frame", "appear", "appears", "move", "read", "list"),
    *("describe", "?"),
)
INDEX: Final = {word: index for index, word in enumerate(WORDS)}


def build_tokenizer(max_tokens: int, **named: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: words apart by spaces, `<bos>` in front, padding on the left.

    `max_tokens` is the longest prompt, in tokens, that the model takes. named: which of `SPECIAL` a model family uses,
    by the attribute that its processor reads (``image_token="<image>"``); these need no spaces around them. A word
    outside `WORDS` becomes `<unk>`.
    """
    backend = Tokenizer(models.WordLevel(dict(INDEX), unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, INDEX[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        extra_special_tokens=named,
        padding_side="left",
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
