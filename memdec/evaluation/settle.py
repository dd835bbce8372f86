"""Choose a method's mixture on validation: one tuner for all methods.

Shape legend: N scored tokens of a split.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memdec.evaluation.alpha import best_alpha, best_weights, mixture_nll
from memdec.evaluation.gate import fit_gate
from memdec.methods.contract import AdaptedLM, Candidate, Scores
from memdec.models.mixture import mix_log_probs

LARGEST_TUNED_ALPHA = 1 - 1e-6


@dataclass(frozen=True)
class Settled:
    """An adapted model with everything chosen."""

    gold_log_probs: Mapping[str, NDArray[np.float32]]
    """Per split, of the final distribution [N]."""
    alpha: float | None
    """None where nothing is mixed in, or where each token has its own."""
    candidate: Candidate | None
    """The distribution that is mixed in."""
    tuned: Mapping[str, float]
    """What was chosen on validation."""
    with_one_alpha: Scores | None = None
    """Where each token has its own: the mixture with the best single one instead."""


def settle(adapted: AdaptedLM) -> Settled:
    """Pick the candidate, and alpha unless it is given, with the lowest NLL on validation.

    Where all candidates are mixed in, each gets a weight of its own. Where there are gate
    features, a gate fitted there gives each token its own alpha instead.
    """
    if not adapted.candidates:
        return Settled(adapted.lm, None, None, {})
    if adapted.mixes_all:
        return _mix_all(adapted)
    alpha, _, chosen = min(
        (_tune(adapted, candidate) for candidate in adapted.candidates), key=lambda found: found[1]
    )
    if adapted.gate_features is not None:
        return _gate(adapted, adapted.gate_features, chosen, alpha)
    tuned = dict(chosen.settings)
    if isinstance(adapted.alpha, str):
        tuned["alpha"] = alpha
    return Settled(mix(adapted.lm, chosen.scores, alpha), alpha, chosen, tuned)


def _gate(
    adapted: AdaptedLM,
    features: Mapping[str, NDArray[np.float32]],
    chosen: Candidate,
    alpha: float,
) -> Settled:
    """Give each token an alpha of its own, from the best single one on."""
    validation = adapted.lm["validation"], chosen.scores["validation"], features["validation"]
    gate = fit_gate(*validation, alpha)
    alphas = {split: gate.alphas(features[split]) for split in features}
    mixed = mix(adapted.lm, chosen.scores, alphas)
    names, weights = (*adapted.gate_feature_names, "bias"), gate.plain_weights().tolist()
    tuned = dict(chosen.settings)
    tuned |= {f"gate: {name}": weight for name, weight in zip(names, weights, strict=True)}
    tuned |= {f"mean alpha, {split}": float(alphas[split].mean()) for split in alphas}
    tuned["best single alpha"] = alpha
    return Settled(mixed, None, chosen, tuned, mix(adapted.lm, chosen.scores, alpha))


def _mix_all(adapted: AdaptedLM) -> Settled:
    """Fit one weight for each candidate and the base; the candidates together are then one."""
    scores = [candidate.scores for candidate in adapted.candidates]
    weights_M = best_weights(
        adapted.lm["validation"], np.stack([score["validation"] for score in scores])
    )
    alpha = min(float(weights_M.sum()), LARGEST_TUNED_ALPHA)
    shares_M = weights_M / weights_M.sum() if alpha else np.full(len(scores), 1 / len(scores))
    shares_M1 = torch.log(torch.from_numpy(shares_M))[:, None]
    together = {
        split: (shares_M1 + torch.from_numpy(np.stack([score[split] for score in scores])))
        .logsumexp(0)
        .float()
        .numpy()
        for split in adapted.lm
    }
    names = [candidate.name for candidate in adapted.candidates]
    tuned = {f"weight of {n}": float(w) for n, w in zip(names, weights_M, strict=True)}
    return Settled(mix(adapted.lm, together, alpha), alpha, Candidate(together), tuned)


def _tune(adapted: AdaptedLM, candidate: Candidate) -> tuple[float, float, Candidate]:
    validation = adapted.lm["validation"], candidate.scores["validation"]
    if isinstance(adapted.alpha, str):
        alpha, nll = best_alpha(*validation)
        # Below 1, the base keeps a share of tokens that only test shows the candidate to lack.
        return min(alpha, LARGEST_TUNED_ALPHA), nll, candidate
    return adapted.alpha, float(mixture_nll(*validation, [adapted.alpha])[0]), candidate


def mix(
    lm: Scores, added: Scores, alpha: float | Mapping[str, Tensor]
) -> dict[str, NDArray[np.float32]]:
    """Mix the gold log-probs of every split with one alpha, or each token's own [N]."""
    return {
        split: mix_log_probs(
            torch.tensor(lm[split]),
            torch.tensor(added[split]),
            alpha[split] if isinstance(alpha, Mapping) else alpha,
        ).numpy()
        for split in lm
    }
