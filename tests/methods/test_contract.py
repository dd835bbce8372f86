import numpy as np
import pytest

from memdec.artifacts.artifact import ArtifactWriter
from memdec.errors import ConfigError
from memdec.methods.config import KnnLmConfig
from memdec.methods.contract import MethodInputs
from memdec.methods.registry import METHODS
from memdec.pipeline.stages import STAGES


@pytest.fixture
def artifact(tmp_path):
    """Make an artifact from arrays."""

    def make(name, **arrays):
        writer = ArtifactWriter(tmp_path / f".{name}")
        writer.clear()
        for key, values in arrays.items():
            writer.write_array(key, values)
        return writer.seal(tmp_path / name / ("a" * 16), name, "a" * 16, {})

    return make


@pytest.fixture
def scores(artifact):
    def make(name, value):
        return artifact(
            name,
            validation_gold_log_probs=np.full(2, value, np.float32),
            test_gold_log_probs=np.full(3, value, np.float32),
        )

    return make


def test_each_method_has_its_own_name_and_stages_that_there_are():
    for name, method in METHODS.items():
        assert method.name == name
        assert set(method.stages) <= set(STAGES)


def test_the_base_has_nothing_to_mix_in(scores):
    inputs = MethodInputs({"base_scores": scores("base_scores", -1.0)}, None, k=1)
    adapted = METHODS["base"].adapt(inputs)
    assert adapted.candidates == ()
    assert adapted.lm["test"].tolist() == [-1, -1, -1]


def test_the_memory_is_the_one_candidate(scores, artifact):
    class Section:
        alpha = 0.25

    artifacts = {
        "base_scores": scores("base_scores", -1.0),
        "memory_scores": scores("memory_scores", -2.0),
        "memory": artifact("memory"),
    }
    adapted = METHODS["memory_decoder"].adapt(MethodInputs(artifacts, Section, k=1))
    (candidate,) = adapted.candidates
    assert candidate.scores["validation"].tolist() == [-2, -2]
    assert adapted.alpha == 0.25
    assert adapted.memory_path == artifacts["memory"].path / "export"


def test_knn_lm_offers_each_temperature_from_the_same_neighbors(scores, artifact):
    pair = {"rows": np.array([[0, 1]], np.int32), "sq_distances": np.float32([[0, 8]])}
    artifacts = {
        "tokens": artifact(
            "tokens",
            validation_tokens=np.array([9, 5], np.uint32),
            test_tokens=np.array([9, 6], np.uint32),
        ),
        "base_scores": scores("base_scores", -1.0),
        "datastore": artifact("datastore", values=np.array([5, 6], np.uint32)),
        "query_neighbors": artifact(
            "query_neighbors",
            **{f"{s}_{key}": value for s in ("validation", "test") for key, value in pair.items()},
        ),
    }
    config = KnnLmConfig(temperatures=[1.0, 8.0])
    with pytest.raises(ConfigError, match=r"knn\.k is 3 but .* each token only 2 neighbors"):
        METHODS["knn_lm"].adapt(MethodInputs(artifacts, config, k=3))
    adapted = METHODS["knn_lm"].adapt(MethodInputs(artifacts, config, k=2))
    assert [c.settings for c in adapted.candidates] == [{"temperature": 1.0}, {"temperature": 8.0}]
    for candidate, temperature in zip(adapted.candidates, (1.0, 8.0), strict=True):
        far = np.exp(-8 / temperature)
        assert candidate.scores["validation"][0] == pytest.approx(np.log(1 / (1 + far)), abs=1e-6)
        assert candidate.scores["test"][0] == pytest.approx(np.log(far / (1 + far)), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperatures": []}, "temperatures is empty"),
        ({"temperatures": [1.0, 0.0]}, r"temperatures must be at least 1e-06, got 0\.0"),
        ({"alpha": 1.5}, r"knn_lm.alpha must lie in \[0, 1\], got 1.5"),
        ({"alpha": "best"}, "knn_lm.alpha is 'best'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        KnnLmConfig(**settings)
