"""Domain-adaptive pre-training: all of the base trained on the domain with the LM loss."""

from memdec.methods.contract import AdaptedLM, Candidate, Method, MethodInputs, split_scores


class Dapt(Method):
    """The fine-tuned model in the base's place."""

    name = "dapt"
    label = "DAPT"
    stages = ("dapt", "dapt_scores")

    def adapt(self, inputs: MethodInputs) -> AdaptedLM:
        """Return the fine-tuned model's own scores."""
        return AdaptedLM(
            lm=split_scores(inputs.artifacts["dapt_scores"]), training=inputs.artifacts["dapt"]
        )


class DaptMemory(Method):
    """The fine-tuned model as a memory: p = alpha * p_dapt + (1 - alpha) * p_lm.

    What a memory without kNN targets is worth, with alpha tuned as for every other mixture. The
    best settings of a memory need not be those of a model that stands alone, so it has its own
    section; where both agree one training serves both.
    """

    name = "dapt_memory"
    label = "DAPT as memory"
    stages = ("base_scores", "dapt_memory", "dapt_memory_scores")

    def adapt(self, inputs: MethodInputs) -> AdaptedLM:
        """Offer the fine-tuned model to the mixture."""
        scores, training = inputs.artifacts["dapt_memory_scores"], inputs.artifacts["dapt_memory"]
        return AdaptedLM(
            lm=split_scores(inputs.artifacts["base_scores"]),
            candidates=(Candidate(split_scores(scores)),),
            top_tokens=scores,
            memory_path=training.path / "export",
            training=training,
        )
