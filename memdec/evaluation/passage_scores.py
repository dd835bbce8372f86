"""Score a split with a retrieved passage in front of the context (Ram et al. 2023).

Every few tokens a passage is looked for. One found several times for the same context needs one
forward pass, as attention is causal: with 512 tokens of context and a query every 4, that leaves
about a quarter of the work.

Shape legend: N scored tokens of a split, G groups of tokens that share a query.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from memdec.artifacts.artifact import ArtifactWriter
from memdec.corpus.windows import Window
from memdec.datastore.passages import PassageIndex, Tokens
from memdec.models.batches import make_batch
from memdec.models.loading import body_output, head_weight
from memdec.models.scoring import score_hidden
from memdec.models.tokenizer import TokenRules
from memdec.progress import track

NO_PASSAGE: Tokens = np.zeros(0, np.uint32)


@dataclass(frozen=True, kw_only=True)
class Retriever:
    """Finds the passage for a group of tokens."""

    passages: Sequence[Tokens]
    index: PassageIndex
    decode: Callable[[Sequence[Tokens]], list[str]]
    query_tokens: int

    def fetch(self, tokens: Tokens, groups: Sequence[Window]) -> NDArray[np.int32]:
        """Return each group's passage [G], found by the last tokens before it; -1 for none."""
        firsts = [group.first_scored for group in groups]
        queries = [tokens[max(0, first - self.query_tokens) : first] for first in firsts]
        return self.index.best(self.decode(queries))

    def passage(self, number: int) -> Tokens:
        """Return a passage's tokens; none for -1."""
        return self.passages[number] if number >= 0 else NO_PASSAGE


def make_groups(windows: Sequence[Window], every_tokens: int) -> list[Window]:
    """Part the scored tokens of each window into groups, each with the window's context."""
    return [
        Window(window.start, first, min(first + every_tokens, window.end))
        for window in windows
        for first in range(window.first_scored, window.end, every_tokens)
    ]


def make_room(group: Window, num_tokens: int) -> Window:
    """Drop the oldest context until at most `num_tokens` inputs are left."""
    return replace(group, start=max(group.start, group.end - 1 - num_tokens))


def share_passes(
    groups: Sequence[Window], numbers: NDArray[np.int32]
) -> tuple[list[tuple[Window, int]], NDArray[np.int64]]:
    """Return windows with their passages, groups of equal start and passage in one.

    And each group's place among them [G].
    """
    found: dict[tuple[int, int], int] = {}
    passes: list[tuple[Window, int]] = []
    places = np.empty(len(groups), np.int64)
    for i, (group, number) in enumerate(zip(groups, numbers.tolist(), strict=True)):
        place = found.setdefault((group.start, number), len(passes))
        if place == len(passes):
            passes.append((group, number))
        passes[place] = replace(passes[place][0], end=group.end), number
        places[i] = place
    return passes, places


@torch.no_grad()
def score_split_with_passages(
    out: ArtifactWriter,
    split: str,
    tokens: Tokens,
    windows: Sequence[Window],
    rules: TokenRules,
    lm: torch.nn.Module,
    retriever: Retriever,
    *,
    every_tokens: int,
    max_inputs: int,
    batch_size: int,
) -> None:
    """Write SPLIT_gold_log_probs f32 [N] and SPLIT_passages i32 [G].

    Inputs are BOS (where the model wants one), the passage and the window's context, of which the
    oldest tokens go where passage and context together are more than `max_inputs`.
    """
    device = next(lm.parameters()).device
    head_VD = head_weight(lm)[: rules.vocab_size]  # type: ignore[arg-type]
    groups = make_groups(windows, every_tokens)
    gold = out.array(f"{split}_gold_log_probs", (len(tokens) - 1,), np.float32)
    numbers = out.array(f"{split}_passages", (len(groups),), np.int32)
    numbers[:] = retriever.fetch(tokens, groups)
    passes, places = share_passes(
        [
            make_room(group, max_inputs - len(retriever.passage(number)))
            for group, number in zip(groups, numbers, strict=True)
        ],
        numbers,
    )
    place_of_row = np.repeat(places, [group.end - group.first_scored for group in groups])
    order = sorted(range(len(passes)), key=lambda i: passes[i][0].start - passes[i][0].end)
    with track(len(tokens) - 1, "tokens", f"scoring {split}") as advance:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            passages = [retriever.passage(passes[i][1]) for i in part]
            batch = make_batch(tokens, [passes[i][0] for i in part], rules, passages)
            lengths = [passes[i][0].end - passes[i][0].first_scored for i in part]
            own_N = place_of_row[batch.rows_N] == np.repeat(part, lengths)
            own = torch.from_numpy(own_N)
            hidden_BTD = body_output(lm, batch.inputs_BT.to(device))
            hidden_ND = hidden_BTD[batch.scored_BT.to(device)][own.to(device)]
            gold_N = batch.gold_N[own].to(device)
            scores = score_hidden(hidden_ND, head_VD, gold_N, None, num_top=1)
            rows = batch.rows_N[own_N]
            gold[rows] = scores.gold_log_probs_N.cpu().numpy()
            advance(len(rows))
