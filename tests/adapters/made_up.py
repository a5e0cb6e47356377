"""A family that exists nowhere: pictures are read column by column, and a separator token ends every column."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, GenerationMixin, LlamaConfig, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

from vtprune.testing.models import IMAGE, Inputs, Tiny
from vtprune.testing.models.tiny import Attention, Side, build, pad_rows, text_config, token_row

PATCH, HEIGHT, WIDTH = 4, 12, 20
ROWS, COLUMNS = HEIGHT // PATCH, WIDTH // PATCH


class ColumnsConfig(PreTrainedConfig):
    model_type = "columns"
    sub_configs = {"text_config": LlamaConfig, "vision_config": CLIPVisionConfig}

    def __init__(self, text: Any = None, vision: Any = None, image_token_id: int = IMAGE, **rest: Any) -> None:
        self.text_config = text or LlamaConfig()
        self.vision_config = vision or CLIPVisionConfig()
        self.image_token_id = image_token_id
        super().__init__(**rest)


class ColumnsBase(PreTrainedModel):
    config_class = ColumnsConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _supports_attention_backend = True


class ColumnsTower(ColumnsBase):
    """``[image, channel, height, width] -> [image, patch, dim]``, patches in raster order."""

    config_class = CLIPVisionConfig

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.patches = nn.Conv2d(3, config.hidden_size, PATCH, PATCH)
        self.positions = nn.Embedding(ROWS * COLUMNS, config.hidden_size)
        self.blocks = nn.ModuleList([CLIPEncoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_init()

    def forward(self, pixel_values: Tensor) -> Tensor:
        hidden = self.patches(pixel_values).flatten(2).transpose(1, 2) + self.positions.weight
        for block in self.blocks:
            made = block(hidden, attention_mask=None)
            hidden = made[0] if isinstance(made, tuple) else made
        return hidden


class ColumnsDecoder(ColumnsBase):
    config_class = LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([LlamaDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.post_init()

    def forward(
        self,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        use_cache: Any = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if position_ids is None:
            past = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = torch.arange(past, past + inputs_embeds.shape[1])[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        hidden, rotary = inputs_embeds, self.rotary_emb(inputs_embeds, position_ids)
        for layer in self.layers:
            hidden = layer(
                hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=past_key_values, **kwargs
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)


class ColumnsModel(ColumnsBase):
    def __init__(self, config: ColumnsConfig) -> None:
        super().__init__(config)
        dim = config.text_config.hidden_size
        self.vision_tower = ColumnsTower(config.vision_config)
        self.connector = nn.Sequential(nn.Linear(config.vision_config.hidden_size, dim), nn.GELU(), nn.Linear(dim, dim))
        self.column_end = nn.Embedding(1, dim)
        self.language_model = ColumnsDecoder(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Per image ``[vision, dim]``: the patches of each column from top to bottom, then the separator."""
        hidden = self.vision_tower(pixel_values)
        columns = self.connector(hidden).unflatten(1, (ROWS, COLUMNS)).transpose(1, 2)
        ends = self.column_end.weight.expand(*columns.shape[:2], 1, -1)
        tokens = torch.cat([columns, ends], 2).flatten(1, 2)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=tokens)

    def forward(
        self, input_ids: Any = None, pixel_values: Any = None, inputs_embeds: Any = None, **kwargs: Any
    ) -> BaseModelOutputWithPast:
        if inputs_embeds is None:
            inputs_embeds = self.language_model.embed_tokens(input_ids)
        if pixel_values is not None:
            features = self.get_image_features(pixel_values).pooler_output.flatten(0, 1)
            inputs_embeds = inputs_embeds.masked_scatter((input_ids == IMAGE)[..., None], features)
        return self.language_model(inputs_embeds=inputs_embeds, **kwargs)


class ColumnsForConditionalGeneration(ColumnsBase, GenerationMixin):
    def __init__(self, config: ColumnsConfig) -> None:
        super().__init__(config)
        self.model = ColumnsModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.language_model.embed_tokens

    def forward(
        self,
        input_ids: Any = None,
        pixel_values: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        use_cache: Any = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        made = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
        )
        logits = self.lm_head(made.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=made.past_key_values)

    def prepare_inputs_for_generation(self, *args: Any, is_first_iteration: bool = False, **kwargs: Any) -> Any:
        inputs = super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration:
            inputs["pixel_values"] = None
        return inputs


@cache
def tiny_columns(attn: Attention = "sdpa") -> Tiny:
    """3 x 5 patches, so 5 x 4 tokens per image."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, projection_dim=32
    )
    config = ColumnsConfig(LlamaConfig(**text_config(4)), vision)
    return Tiny(f"columns-{attn}", build(ColumnsForConditionalGeneration, config, attn), _inputs)


def _inputs(images: Sequence[int] = (1,), seed: int = 0, side: Side = "left", text: tuple[int, int] = (2, 6)) -> Inputs:
    rows, pixels = [], []
    for sample, count in enumerate(images):
        generator = torch.Generator().manual_seed(seed + sample)
        rows.append(token_row([COLUMNS * (ROWS + 1)] * count, text, generator, wrap=False))
        pixels.append(torch.randn(count, 3, HEIGHT, WIDTH, generator=generator))
    inputs = pad_rows(rows, side)
    if sum(images):
        inputs["pixel_values"] = torch.cat(pixels)
    return inputs
