"""Score a split once, and keep what every later question needs.

Shape legend: B windows, T positions, N scored positions, D width, O output tokens, K top tokens.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memdec.artifacts.artifact import ArtifactWriter
from memdec.corpus.windows import Window
from memdec.datastore.build import check_f16
from memdec.datastore.encoder import capture
from memdec.models.batches import window_batches
from memdec.models.memory import MemoryDecoder
from memdec.models.scoring import score_hidden
from memdec.models.tokenizer import TokenRules
from memdec.progress import track

TOP_TOKENS = 5
"""Most likely tokens kept for each position, for the page of example text."""


@torch.no_grad()
def score_split(
    out: ArtifactWriter,
    split: str,
    tokens: NDArray[np.uint32],
    windows: list[Window],
    rules: TokenRules,
    decoder: MemoryDecoder,
    *,
    batch_size: int,
    key_layer: str | None = None,
    num_top: int = TOP_TOKENS,
) -> None:
    """Write SPLIT_gold_log_probs and SPLIT_entropies f32 [N], and the top tokens.

    Those are SPLIT_top_ids u32 and SPLIT_top_log_probs f16 [N, K]. A head over all tokens is cut to
    those in use: models of one tokenizer may be padded to different widths.

    With `key_layer`, the same forward pass also leaves SPLIT_keys f16 [N, D].
    """
    num_rows = len(tokens) - 1
    head_OD, ids_O = decoder.head(rules.vocab_size), decoder.output_ids_O
    device = head_OD.device
    num_top = min(num_top, head_OD.shape[0])
    gold = out.array(f"{split}_gold_log_probs", (num_rows,), np.float32)
    entropies = out.array(f"{split}_entropies", (num_rows,), np.float32)
    top_ids = out.array(f"{split}_top_ids", (num_rows, num_top), np.uint32)
    top_log_probs = out.array(f"{split}_top_log_probs", (num_rows, num_top), np.float16)
    keys: NDArray[Any] | None = None
    with track(num_rows, "tokens", f"scoring {split}") as advance:
        for batch in window_batches(tokens, windows, batch_size, rules):
            scored_BT = batch.scored_BT.to(device)
            hidden_BTD, keys_BTD = _forward(decoder, batch.inputs_BT.to(device), key_layer)
            gold_N = batch.gold_N.to(device)
            scores = score_hidden(hidden_BTD[scored_BT], head_OD, gold_N, ids_O, num_top)
            gold[batch.rows_N] = scores.gold_log_probs_N.cpu().numpy()
            entropies[batch.rows_N] = scores.entropies_N.cpu().numpy()
            top_ids[batch.rows_N] = scores.top_ids_NK.cpu().numpy()
            top_log_probs[batch.rows_N] = scores.top_log_probs_NK.cpu().numpy()
            if keys_BTD is not None and key_layer is not None:
                keys_ND = keys_BTD[scored_BT].float()
                check_f16(keys_ND, key_layer)
                if keys is None:
                    keys = out.array(f"{split}_keys", (num_rows, keys_ND.shape[1]), np.float16)
                keys[batch.rows_N] = keys_ND.half().cpu().numpy()
            advance(len(batch.rows_N))


def _forward(
    decoder: MemoryDecoder, inputs_BT: Tensor, layer: str | None
) -> tuple[Tensor, Tensor | None]:
    if layer is None:
        return decoder(inputs_BT), None
    with capture(decoder.lm, layer, stop=False) as captured:
        hidden_BTD = decoder(inputs_BT)
    return hidden_BTD, captured.hidden_BTD
