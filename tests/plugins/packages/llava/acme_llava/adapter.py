"""The built-in adapter of LLaVA under another name."""

from dataclasses import replace

from vtprune.adapters.llava import ADAPTER as LLAVA

ADAPTER = replace(LLAVA, name="acme-llava/llava")
