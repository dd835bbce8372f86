"""Score a split with a retrieved passage in front of the context (Ram et al. 2023).

Every few tokens a new passage is fetched, so every forward pass scores only those: the cost is that
of plain scoring times corpus.stride / every_tokens, 128 times for 512 and 4.

Shape legend: N scored tokens of a split, G groups of tokens that share a passage.
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
    block_size: int,
    batch_size: int,
) -> None:
    """Write SPLIT_gold_log_probs f32 [N] and SPLIT_passages i32 [G].

    Inputs are BOS (where the model wants one), the passage, and as much of the window's context as
    block_size leaves room for.
    """
    device = next(lm.parameters()).device
    head_VD = head_weight(lm)  # type: ignore[arg-type]
    groups = make_groups(windows, every_tokens)
    gold = out.array(f"{split}_gold_log_probs", (len(tokens) - 1,), np.float32)
    found = out.array(f"{split}_passages", (len(groups),), np.int32)
    with track(len(tokens) - 1, "tokens", f"scoring {split}") as advance:
        for start in range(0, len(groups), batch_size):
            part = groups[start : start + batch_size]
            numbers = retriever.fetch(tokens, part)
            passages = [retriever.passage(number) for number in numbers]
            shorter = [
                make_room(group, block_size - len(passage))
                for group, passage in zip(part, passages, strict=True)
            ]
            batch = make_batch(tokens, shorter, rules, passages)
            hidden_BTD = body_output(lm, batch.inputs_BT.to(device))
            hidden_ND = hidden_BTD[batch.scored_BT.to(device)]
            scores = score_hidden(hidden_ND, head_VD, batch.gold_N.to(device), None, num_top=1)
            gold[batch.rows_N] = scores.gold_log_probs_N.cpu().numpy()
            found[start : start + len(part)] = numbers
            advance(len(batch.rows_N))
