"""Nearest neighbors and the kNN distribution, from the paper, one number at a time in float64."""

import math

import numpy as np


def nearest(queries_QD, keys_ND, k, own_rows=None):
    """Return rows and squared distances [Q, K], nearest first, equal distances by lower row."""
    rows, distances = [], []
    for q, query in enumerate(np.asarray(queries_QD, np.float64)):
        found = sorted(
            (float(((query - key) ** 2).sum()), n)
            for n, key in enumerate(np.asarray(keys_ND, np.float64))
            if own_rows is None or n != own_rows[q]
        )[:k]
        rows.append([n for _, n in found])
        distances.append([d for d, _ in found])
    return np.array(rows), np.array(distances)


def knn_distribution(sq_distances_QK, token_ids_QK, temperature, threshold=0.0):
    """Return per query a list of (token, probability), most probable first, ties by lower token.

    p(y) is proportional to the sum of exp(-d / temperature) over the neighbors with value y; an
    infinite distance or a negative token weighs nothing; a row's largest entry is never dropped.
    """
    found = []
    for distances, tokens in zip(sq_distances_QK, token_ids_QK, strict=True):
        pairs = [
            (float(d), int(t))
            for d, t in zip(distances, tokens, strict=True)
            if math.isfinite(d) and t >= 0
        ]
        nearest_distance = min(d for d, _ in pairs)
        weights: dict[int, float] = {}
        for d, t in pairs:
            weights[t] = weights.get(t, 0.0) + math.exp((nearest_distance - d) / temperature)
        total = sum(weights.values())
        probs = {t: w / total for t, w in weights.items()}
        largest = max(probs.values())
        kept = {t: p for t, p in probs.items() if p > threshold or p == largest}
        total = sum(kept.values())
        found.append(sorted(((t, p / total) for t, p in kept.items()), key=lambda e: (-e[1], e[0])))
    return found
