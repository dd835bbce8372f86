"""The Memory Decoder: a trained imitation of the retriever, mixed with the frozen base."""

from memdec.artifacts.files import expand_home
from memdec.methods.contract import AdaptedLM, Candidate, Method, MethodInputs, split_scores


class MemoryDecoderMethod(Method):
    """p = alpha * p_memory + (1 - alpha) * p_lm (paper, section on inference)."""

    name = "memory_decoder"
    label = "Memory Decoder"
    stages = ("base_scores", "memory_scores")

    def adapt(self, inputs: MethodInputs) -> AdaptedLM:
        """Offer the trained memory to the mixture."""
        scores = inputs.artifacts["memory_scores"]
        memory = inputs.artifacts.get("memory")  # none where a trained one is plugged in
        export = memory.path / "export" if memory else expand_home(inputs.config.trained)
        return AdaptedLM(
            lm=split_scores(inputs.artifacts["base_scores"]),
            candidates=(Candidate(split_scores(scores)),),
            alpha=inputs.config.alpha,
            top_tokens=scores,
            memory_path=export,
            training=memory,
        )
