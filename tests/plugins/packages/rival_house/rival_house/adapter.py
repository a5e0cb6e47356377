"""As LLaVA is built, under the name of a class of the house."""

from dataclasses import replace

from vtprune.adapters.llava import ADAPTER as LLAVA

ADAPTER = replace(LLAVA, name="rival-house/house", architectures=("HouseForConditionalGeneration",))
