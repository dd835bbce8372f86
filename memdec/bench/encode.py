"""Encoding keys (forward pass, float16, written to disk), against the bare forward pass."""

from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from memdec.artifacts.artifact import ArtifactWriter
from memdec.bench.clock import in_turns
from memdec.bench.config import BenchConfig
from memdec.bench.figures import Check, Figure, Goal, Outcome
from memdec.bench.inputs import body_parameters, make_decoder
from memdec.corpus.windows import make_windows
from memdec.datastore.build import build_datastore
from memdec.datastore.config import LAST_FFN_INPUT
from memdec.datastore.encoder import capture
from memdec.models.batches import window_batches
from memdec.models.loading import body_output, head_weight, load_causal_lm
from memdec.models.tokenizer import TokenRules

BATCH_SIZE = 4
RULES = TokenRules(bos_on_each_window=False, bos_id=-1, separator_id=0, vocab_size=0, hash="")


class Encoding:
    """The same windows of made-up tokens through both ways."""

    def __init__(self, config: BenchConfig, folder: Path) -> None:
        self.config = config
        device = torch.device(config.device)
        if config.model:
            self.lm = load_causal_lm(Path(config.model), "float32", device)
        else:
            self.lm = make_decoder(config, config.vocab_size).eval()
        self.num_tokens = config.encode_windows * config.block_size
        vocabulary = head_weight(self.lm).shape[0]
        random = np.random.default_rng(6)
        self.tokens = random.integers(0, vocabulary, self.num_tokens + 1).astype(np.uint32)
        self.windows = make_windows(len(self.tokens), config.block_size, config.block_size)
        self.out = ArtifactWriter(folder / "part")

    def ours(self) -> None:
        """Write the datastore."""
        self.out.clear()
        build_datastore(
            self.out, self.tokens, self.windows, self.lm, RULES, LAST_FFN_INPUT, BATCH_SIZE
        )

    @torch.no_grad()
    def bare(self) -> None:
        """Run the model's body on the same batches, and drop what comes out."""
        for batch in window_batches(self.tokens, self.windows, BATCH_SIZE, RULES):
            body_output(self.lm, batch.inputs_BT.to(self.config.device))

    @torch.no_grad()
    def difference(self) -> float:
        """Return how far the written keys are from a whole pass's, relative to the largest."""
        keys_ND = np.load(self.out.path / "keys.npy").astype(np.float32)
        with capture(self.lm, LAST_FFN_INPUT, stop=False) as captured:
            batch = next(window_batches(self.tokens, self.windows, 1, RULES))
            body_output(self.lm, batch.inputs_BT.to(self.config.device))
        expected_ND = captured.hidden_BTD.flatten(0, 1).float().cpu().numpy()
        gap = np.abs(keys_ND[: len(expected_ND)] - expected_ND).max()
        return float(gap / np.abs(expected_ND).max())


def run(config: BenchConfig) -> Outcome:
    """Compare tokens per second."""
    with TemporaryDirectory(prefix="memdec-bench-") as folder:
        encoding = Encoding(config, Path(folder))
        samples = in_turns(encoding.ours, encoding.bare, config.repeats, config.device)
        difference = encoding.difference()
    rates = [tuple(encoding.num_tokens / seconds for seconds in side) for side in samples]
    count, lm = encoding.num_tokens, encoding.lm
    figure = Figure(
        name=f"encoding keys, {count:,} tokens, windows of {config.block_size}",
        unit="tokens/s",
        ours=median(rates[0]),
        plain=median(rates[1]),
        plain_is="bare forward pass, nothing kept",
        goals=(Goal(number=4, limit=0.9, at_least=True),),
        samples=(rates[0], rates[1]),
    )
    rate = 2 * body_parameters(lm) * figure.plain / 1e9
    notes = [
        f"the bare forward pass does {rate:.0f} GFLOP/s in its weight matrices",
        "the encoder stops in front of the last feed-forward layer, so a ratio above 1 is possible",
    ]
    # float16 keeps 11 bits, so half a unit in the last place is 2^-12 of the largest value.
    check = Check(what="relative difference of a key", value=difference, limit=2**-11)
    return Outcome(figures=[figure], checks=[check], notes=notes)
