"""In-context RAG (Ram et al. 2023): a passage found by BM25 stands in front of the context."""

from memdec.methods.contract import AdaptedLM, Method, MethodInputs, split_scores


class InContextRag(Method):
    """The frozen base, reading a passage of the training text before each few tokens."""

    name = "in_context_rag"
    label = "In-context RAG"
    stages = ("rag_scores",)
    extra = "rag"

    def adapt(self, inputs: MethodInputs) -> AdaptedLM:
        """Return the base's scores behind the passages."""
        return AdaptedLM(lm=split_scores(inputs.artifacts["rag_scores"]))
