"""Shape legend: N scored positions, M stored target entries."""

import numpy as np
import pytest
import torch

from memdec.artifacts.artifact import ArtifactWriter
from memdec.corpus.windows import make_windows
from memdec.errors import ArtifactError
from memdec.models.tokenizer import TokenRules
from memdec.training.config import TrainerConfig
from memdec.training.data import MemoryData, SparseTargets
from memdec.training.order import WindowOrder

NUM_TOKENS, BLOCK, STRIDE = 40, 7, 4
RULES = TokenRules(bos_on_each_window=False, bos_id=-1, separator_id=0, vocab_size=60, hash="h")


@pytest.fixture
def stored():
    """Return rows as (token ids, float16 probabilities): 1 to 6 entries, not quite summing to 1."""
    draw = np.random.default_rng(0)
    rows = []
    for _ in range(NUM_TOKENS - 1):
        count = int(draw.integers(1, 7))
        probs = np.sort(draw.dirichlet(np.ones(count)))[::-1].astype(np.float16)
        rows.append((draw.permutation(60)[:count].astype(np.uint32), probs))
    return rows


@pytest.fixture
def targets(stored):
    starts = np.cumsum([0, *(len(ids) for ids, _ in stored)])
    ids, probs = (np.concatenate(column) for column in zip(*stored, strict=True))
    return SparseTargets(starts, ids, probs)


def dense(ids_NM, probs_NM):
    """Spread sparse rows over the vocabulary; repeated ids add up."""
    full = np.zeros((len(ids_NM), 60))
    for row, (ids, probs) in enumerate(zip(ids_NM, probs_NM, strict=True)):
        for token, prob in zip(ids, probs, strict=True):
            full[row, int(token)] += float(prob)
    return full


def test_rows_equal_a_loop_over_the_stored_ones(targets, stored):
    rows_N = np.array([5, 0, 38, 17, 17])
    ids_NM, probs_NM = targets.rows(rows_N)
    assert ids_NM.shape[1] == max(len(stored[r][0]) for r in rows_N)
    assert (ids_NM.dtype, probs_NM.dtype) == (torch.int64, torch.float32)
    chosen = [stored[r] for r in rows_N]
    wanted = dense([c[0] for c in chosen], [c[1] / c[1].sum(dtype=np.float64) for c in chosen])
    np.testing.assert_allclose(dense(ids_NM, probs_NM), wanted, atol=1e-7)
    torch.testing.assert_close(probs_NM.sum(1), torch.ones(5), rtol=0, atol=1e-6)


def seal(path, **arrays):
    writer = ArtifactWriter(path / ".part")
    writer.clear()
    for name, values in arrays.items():
        writer.write_array(name, values)
    return writer.seal(path / "targets" / ("a" * 16), "targets", "a" * 16, {})


def test_targets_of_another_corpus_are_refused(targets, tmp_path):
    made = seal(tmp_path, starts=targets.starts, token_ids=targets.token_ids, probs=targets.probs)
    opened = SparseTargets.open(made, NUM_TOKENS - 1)
    assert torch.equal(opened.rows(np.array([3]))[1], targets.rows(np.array([3]))[1])
    with pytest.raises(ArtifactError, match="hold 39 rows but the corpus has 40 scored tokens"):
        SparseTargets.open(made, NUM_TOKENS)


@pytest.fixture
def data(targets):
    def make(targets=targets, **options):
        tokens = np.random.default_rng(1).integers(0, 60, NUM_TOKENS).astype(np.uint32)
        windows = make_windows(NUM_TOKENS, BLOCK, STRIDE)
        return MemoryData(
            train_tokens=tokens,
            train_windows=windows,
            validation_tokens=tokens[:20],
            validation_windows=make_windows(20, BLOCK, STRIDE),
            targets=targets,
            rules=RULES,
            config=TrainerConfig(**{"batch_size": 4, "micro_batch_size": 2} | options),
            seed=5,
        )

    return make


def test_a_token_its_target_and_its_window_belong_together(data, stored):
    made = data()
    seen = []
    for batch in (b for b in made.train_dataloader() if b["counts"]):
        for i, gold in enumerate(batch["gold_N"].tolist()):
            ids_M, probs_M = batch["target_ids_NM"][i], batch["target_probs_NM"][i]
            found = dict(
                zip(ids_M[probs_M > 0].tolist(), probs_M[probs_M > 0].tolist(), strict=True)
            )
            row = next(
                r
                for r, (ids, _) in enumerate(stored)
                if set(ids.tolist()) == set(found)
                and made.train_tokens[r + 1] == gold
                and r not in seen
            )
            seen.append(row)
    assert sorted(seen) == list(range(NUM_TOKENS - 1))


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_weights_of_a_step_sum_to_one_over_passes_and_ranks(data, num_ranks):
    made = data(devices=num_ranks, micro_batch_size=1)
    totals = {}
    for rank in range(num_ranks):
        made._rank = lambda rank=rank: (rank, num_ranks)
        batches = list(made.train_dataloader())
        order = WindowOrder(len(made.train_windows), 4, 1, 5, rank, num_ranks)
        for micro, batch in zip(order, batches, strict=True):
            share = len(batch["gold_N"]) / sum(
                made.train_windows[w].end - made.train_windows[w].first_scored
                for w in micro.step_windows
            )
            assert float(batch["weight"]) == pytest.approx(share if micro.counts else 0.0)
            totals.setdefault(micro.step_windows, 0.0)
            totals[micro.step_windows] += float(batch["weight"])
    assert len(totals) == 3
    assert list(totals.values()) == pytest.approx([1.0] * 3, abs=1e-6)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_ranks_validate_each_token_and_all_equally_often(data, num_ranks):
    made = data()
    rows, num_batches = [], []
    for rank in range(num_ranks):
        made._rank = lambda rank=rank: (rank, num_ranks)
        num_batches.append(len(made.val_dataloader()))
        for batch in made.val_dataloader():
            rows += batch["rows_N"].tolist()
            gold = made.validation_tokens[batch["rows_N"].numpy() + 1]
            assert batch["gold_N"].tolist() == gold.tolist()
    # With FSDP a rank that passes once more would wait for the others for ever.
    assert len(set(num_batches)) == 1
    first = made.validation_windows[0]
    again = set(range(first.first_scored - 1, first.end - 1)) if num_ranks > 1 else set()
    assert set(rows) == set(range(19))
    assert all(rows.count(row) == 1 or row in again for row in range(19))


def test_without_targets_there_are_none_in_the_batch(data):
    batch = next(iter(data(targets=None).train_dataloader()))
    assert not {"target_ids_NM", "target_probs_NM"} & set(batch)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_trained_tokens_are_those_of_the_steps_taken(data, micro_batch_size):
    made = data(micro_batch_size=micro_batch_size, max_epochs=2)
    assert made.num_steps == 6
    counts = []
    for epoch in range(2):
        loader = made.train_dataloader()
        loader.sampler.set_epoch(epoch)
        per_step = {}
        for micro, batch in zip(loader.sampler, loader, strict=True):
            key = (epoch, micro.step_windows)
            per_step[key] = per_step.get(key, 0) + micro.counts * len(batch["gold_N"])
        counts += per_step.values()
    for num_steps in range(7):
        assert made.scored_tokens(num_steps) == sum(counts[:num_steps])
    assert made.scored_tokens(6) == 2 * (NUM_TOKENS - 1)
