"""LoRA: low-rank adapters of the base, as many parameters as the memory has."""

from memdec.methods.contract import AdaptedLM, Method, MethodInputs, split_scores


class Lora(Method):
    """The base with its adapter."""

    name = "lora"
    label = "LoRA"
    stages = ("lora", "lora_scores")
    extra = "lora"

    def adapt(self, inputs: MethodInputs) -> AdaptedLM:
        """Return the adapted model's own scores."""
        return AdaptedLM(
            lm=split_scores(inputs.artifacts["lora_scores"]), training=inputs.artifacts["lora"]
        )
