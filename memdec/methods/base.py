"""The frozen base model itself."""

from memdec.methods.contract import AdaptedLM, Method, MethodInputs, split_scores


class Base(Method):
    """No adaptation: the row that all others are compared with."""

    name = "base"
    label = "base"
    stages = ("base_scores",)

    def adapt(self, inputs: MethodInputs) -> AdaptedLM:
        """Return the base's own scores."""
        return AdaptedLM(lm=split_scores(inputs.artifacts["base_scores"]))
