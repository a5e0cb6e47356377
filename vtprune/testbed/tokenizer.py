"""The tokenizer of the default model: a few hundred English words, then characters, then bytes.

It is a unigram tokenizer in the manner of SentencePiece (Kudo and Richardson 2018, arXiv:1808.06226): a space belongs
to the word after it and is written `▁`. Word pieces score higher than characters and characters higher than bytes, so
that a listed word is one token, another word is spelled with shorter pieces, and text in any script comes back as it
went in.
"""

from __future__ import annotations

from importlib.resources import files

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN, IMAGE = SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
SPACE = "▁"
_CHARACTERS = [SPACE, "\n", *map(chr, range(ord("!"), ord("~") + 1))]
_WORD_SCORE, _CHARACTER_SCORE, _BYTE_SCORE = -1.0, -10.0, -20.0


def words() -> list[str]:
    """The words of `words.txt`, each once, in the order of the file."""
    lines = (files("vtprune.testbed") / "words.txt").read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(word for line in lines if not line.startswith("#") for word in line.split()))


def build_tokenizer(max_tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer that encodes any text, adds `<s>` in front and pads on the left.

    `max_tokens` is the longest prompt, in tokens, that the model takes.
    """
    scores = dict.fromkeys(SPECIAL_TOKENS, 0.0)
    scores |= {f"<0x{byte:02X}>": _BYTE_SCORE for byte in range(256)}
    scores |= dict.fromkeys(_CHARACTERS, _CHARACTER_SCORE)
    scores |= {piece: _WORD_SCORE for word in words() for piece in (word, SPACE + word)}
    unigram = models.Unigram(list(scores.items()), unk_id=SPECIAL_TOKENS.index(UNKNOWN), byte_fallback=True)
    backend = Tokenizer(unigram)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement=SPACE, prepend_scheme="first"), decoders.Fuse()]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, SPECIAL_TOKENS.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
