"""A miniature LLaVA with random weights: the model that `vtprune run` uses when none is named.

It is an ordinary `LlavaForConditionalGeneration` with an ordinary `LlavaProcessor`, built from code, a word list and a
fixed seed: no download. A photograph becomes 24 x 24 = 576 vision tokens, as in LLaVA-1.5 (arXiv:2310.03744: CLIP
ViT-L/14 at 336 pixels, features of the last layer but one, CLS dropped, two-layer MLP projector, Llama text model), but
four vision and eight text layers are all there is, 128 wide.

The weights are random and the text it writes is noise; a word that fits the picture is chance. So it cannot tell which
pruning method answers better, nor does its attention point at what a person would look at. Token counts, cache sizes
and kept indices are those of a real run. `DEFAULT_NOTE` says so in one sentence, for reports to print.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vtprune.testbed.tokenizer import BOS, EOS, IMAGE, PAD, SPACE, build_tokenizer, words

DEFAULT_NOTE: Final = (
    "The default model has random weights: the text it writes is noise, "
    "but every token count, cache size and kept index is real."
)
IMAGE_SIZE: Final = 336
PATCH_SIZE: Final = 14
VISION_TOKENS: Final = (IMAGE_SIZE // PATCH_SIZE) ** 2
MAX_TOKENS: Final = 8192
DEFAULT_QUESTION: Final = "What is in the picture?"

_SEED = 34  # one of the seeds whose greedy text does not fall into a loop at once
_QUERY_KEY_GAIN = 2.0
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] if item['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if not loop.last %} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def default_prompt(n_images: int = 1, question: str = DEFAULT_QUESTION) -> str:
    """The prompt of one user turn: a placeholder for each image, the question and the opening of the answer.

    Raises:
        ValueError: if `n_images` is negative.
    """
    if n_images < 0:
        raise ValueError(f"n_images is {n_images}: expected 0 (text only) or the number of images of the prompt")
    return "USER: " + f"{IMAGE}\n" * n_images + question + " ASSISTANT:"


def load_default() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Build the default model (float32, on the CPU, in evaluation mode, without gradients) and its processor.

    Two calls give equal weights, whatever `torch.manual_seed` was given before, and leave the global random state as it
    was.
    The processor turns each photograph into a row of `pixel_values`, float32 `[image, 3, 336, 336]` (normalised as for
    CLIP; the longer side is cropped to the centre), and each `<image>` of the prompt into 576 vision tokens. Greedy
    generation never ends early: the output head knows the lower-case words of the tokenizer only, not `</s>`.
    """
    tokenizer = build_tokenizer(MAX_TOKENS)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = LlavaForConditionalGeneration(_config(tokenizer)).float().eval()
        _draw_weights(model, tokenizer)
    generation = model.generation_config
    generation.bos_token_id, generation.eos_token_id, generation.pad_token_id = tokenizer.convert_tokens_to_ids(
        [BOS, EOS, PAD]
    )
    generation.do_sample = False
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT_TEMPLATE,
    )
    return model.requires_grad_(False), processor


def _config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    return LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "projection_dim": 128,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": MAX_TOKENS,
            "tie_word_embeddings": False,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=VISION_TOKENS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


@torch.no_grad()
def _draw_weights(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Redraw all weights from `_SEED`; norms keep their weight of 1, and the head only its words.

    Transformers initialises with a standard deviation of 0.02, and attention is then all but uniform. Here every matrix
    has unit gain, and queries and keys twice that, so that attention is peaked and a dropped token is felt.
    """
    generator = torch.Generator().manual_seed(_SEED)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0.0, 0.1, generator=generator)
        elif name.endswith(("position_embedding.weight", "class_embedding")):
            parameter.normal_(0.0, 0.3, generator=generator)
        elif name.endswith("embed_tokens.weight"):
            parameter.normal_(0.0, 1.0, generator=generator)
        elif parameter.dim() >= 2:
            gain = _QUERY_KEY_GAIN if name.endswith(("q_proj.weight", "k_proj.weight")) else 1.0
            parameter.normal_(0.0, gain / math.sqrt(parameter[0].numel()), generator=generator)
    head = model.get_output_embeddings().weight
    spoken = torch.zeros(len(head), dtype=torch.bool)
    spoken[tokenizer.convert_tokens_to_ids([SPACE + word for word in words() if word.islower()])] = True
    head[~spoken] = 0.0
