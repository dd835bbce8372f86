import numpy as np
import pytest

from memdec.evaluation.settle import mix, settle
from memdec.methods.contract import AdaptedLM, Candidate


def logs(**splits):
    with np.errstate(divide="ignore"):
        return {name: np.log(np.float32(probs)) for name, probs in splits.items()}


LM = logs(validation=[0.2, 0.2, 0.2], test=[0.5, 0.1])
POOR = Candidate(logs(validation=[0.1, 0.1, 0.1], test=[0.9, 0.9]), {"temperature": 1.0})
GOOD = Candidate(logs(validation=[0.8, 0.8, 0.0], test=[0.5, 0.5]), {"temperature": 2.0})
FAIR = Candidate(logs(validation=[0.28, 0.28, 0.28], test=[0.0, 0.2]), {"temperature": 4.0})


def test_without_candidates_the_model_itself_is_the_result():
    settled = settle(AdaptedLM(lm=LM))
    assert settled.gold_log_probs is LM
    assert (settled.alpha, settled.candidate, settled.tuned) == (None, None, {})


@pytest.mark.parametrize("order", [(POOR, GOOD, FAIR), (FAIR, GOOD, POOR), (GOOD, POOR)])
def test_the_candidate_with_the_best_validation_mixture_is_chosen(order):
    settled = settle(AdaptedLM(lm=LM, candidates=order))
    assert settled.candidate is GOOD
    # 2 log(0.2 + 0.6 a) + log(0.2 - 0.2 a) is largest where 2 * 0.6 / (0.2 + 0.6 a) = 1 / (1 - a)
    assert settled.alpha == pytest.approx(1.0 / 1.8, abs=1e-6)
    assert settled.tuned == {"temperature": 2.0, "alpha": settled.alpha}
    wanted = np.log((1 - settled.alpha) * np.array([0.5, 0.1]) + settled.alpha * 0.5)
    np.testing.assert_allclose(settled.gold_log_probs["test"], wanted, rtol=1e-6)


def test_test_has_no_say():
    flattering = Candidate({**POOR.scores, **logs(test=[1.0, 1.0])})
    settled = settle(AdaptedLM(lm=LM, candidates=(flattering, FAIR)))
    assert settled.candidate is FAIR


def test_a_given_alpha_is_kept_and_the_candidate_is_chosen_at_it():
    # at 0.99 the token that GOOD lacks costs more than it gains elsewhere
    settled = settle(AdaptedLM(lm=LM, candidates=(GOOD, FAIR), alpha=0.99))
    assert settled.candidate is FAIR
    assert settled.alpha == 0.99
    assert settled.tuned == {"temperature": 4.0}


@pytest.mark.parametrize("mixes_all", [False, True])
def test_the_base_keeps_a_share_of_tokens_that_only_test_shows_to_be_missing(mixes_all):
    best = Candidate(logs(validation=[0.9, 0.9, 0.9], test=[0.9, 0.0]))
    settled = settle(AdaptedLM(lm=LM, candidates=(best,), mixes_all=mixes_all))
    assert settled.alpha == 1 - 1e-6
    assert settled.gold_log_probs["test"][1] == pytest.approx(np.log(0.1 * 1e-6), rel=1e-3)


def test_memories_that_lack_every_token_leave_the_base():
    nothing = logs(validation=[0.0, 0.0, 0.0], test=[0.0, 0.0])
    candidates = tuple(Candidate(nothing, name=name) for name in ("law", "news"))
    settled = settle(AdaptedLM(lm=LM, candidates=candidates, mixes_all=True))
    assert settled.alpha == 0
    assert all(np.array_equal(settled.gold_log_probs[split], LM[split]) for split in LM)
    assert settled.tuned == {"weight of law": 0, "weight of news": 0}


def test_alpha_zero_is_the_base_bit_by_bit():
    mixed = mix(LM, GOOD.scores, 0.0)
    assert all(np.array_equal(mixed[split], LM[split]) for split in LM)
