"""Build the datastore: one key and one value for each predicted token of the training text.

Row r belongs to stream position r + 1: keys[r] is the hidden state just before it, values[r] the
token there. Shape legend: N rows, D key width.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from memdec.artifacts.artifact import Artifact, ArtifactWriter
from memdec.corpus.windows import Window
from memdec.datastore.encoder import encode
from memdec.errors import ArtifactError
from memdec.models.batches import window_batches
from memdec.models.tokenizer import TokenRules
from memdec.progress import track

LARGEST_F16 = 65504.0


def build_datastore(
    out: ArtifactWriter,
    tokens: np.ndarray[Any, np.dtype[np.uint32]],
    windows: list[Window],
    lm: nn.Module,
    rules: TokenRules,
    layer: str,
    batch_size: int,
) -> None:
    """Encode the windows into keys f16 [N, D], values u32 [N], positions i64 [N].

    The windows may be a consecutive part of the stream's; the rows are then those of the part.

    Raises:
        ArtifactError: A key does not fit float16.
    """
    first, stop = windows[0].first_scored - 1, windows[-1].end - 1
    num_rows = stop - first
    keys_ND = None
    device = next(lm.parameters()).device
    with track(num_rows, "tokens", "encoding keys") as advance:
        for batch in window_batches(tokens, windows, batch_size, rules):
            hidden_BTD = encode(lm, layer, batch.inputs_BT.to(device))
            rows_ND = hidden_BTD[batch.scored_BT.to(device)].float()
            check_f16(rows_ND, layer)
            if keys_ND is None:
                keys_ND = out.array("keys", (num_rows, rows_ND.shape[1]), np.float16)
            keys_ND[batch.rows_N - first] = rows_ND.half().cpu().numpy()
            advance(len(batch.rows_N))
    assert keys_ND is not None, "the tokens stage refuses a corpus without a window"
    out.write_array("values", np.asarray(tokens[first + 1 : stop + 1], np.uint32))
    out.write_array("positions", np.arange(first + 1, stop + 1, dtype=np.int64))
    out.info(num_rows=num_rows, key_width=int(keys_ND.shape[1]), layer=layer)


def check_f16(keys_ND: torch.Tensor, layer: str) -> None:
    """Raise ArtifactError when a key is not finite in float16."""
    if not bool((keys_ND.abs() <= LARGEST_F16).all()):
        raise ArtifactError(
            f"keys at datastore.layer={layer} exceed the float16 range; choose last_ffn_input or "
            "another layer behind a norm."
        )


def check_alignment(tokens: Artifact, datastore: Artifact) -> None:
    """Check once, before training, that row i of values is token positions[i] of the stream.

    Raises:
        ArtifactError: They belong to different streams.
    """
    stream = tokens.array("train_tokens")
    values_N, positions_N = datastore.array("values"), datastore.array("positions")
    fits = len(values_N) == len(stream) - 1 and bool((stream[positions_N] == values_N).all())
    if not fits or bool((np.diff(positions_N) != 1).any()) or positions_N[0] != 1:
        raise ArtifactError(
            f"datastore {datastore.fingerprint} holds {len(values_N):,} rows that do not follow "
            f"corpus {tokens.fingerprint} ({len(stream) - 1:,} predicted tokens); delete "
            f"{datastore.path} and run again."
        )
