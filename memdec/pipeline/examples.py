"""Things to look at: test text with the gain of each token, and two continuations of one prompt.

Shape legend: N tokens, K top tokens.
"""

from pathlib import Path
from typing import Any

import numpy as np

from memdec.corpus.windows import documents_of_positions
from memdec.evaluation.settle import Settled
from memdec.methods.contract import AdaptedLM
from memdec.pipeline.job import Job

DIGITS = 4


def example_tokens(job: Job, adapted: AdaptedLM, settled: Settled) -> list[dict[str, Any]]:
    """Return the first test documents, token by token: both log-probs and both top lists."""
    from memdec.pipeline.builders import load_tokenizer_of

    assert adapted.top_tokens is not None
    tokenizer, _ = load_tokenizer_of(job)
    tokens = job.artifact("tokens")
    count = min(job.experiment.evaluation.example_tokens, len(settled.gold_log_probs["test"]))
    gold_N = np.asarray(tokens.array("test_tokens")[1 : count + 1])
    starts = np.asarray(tokens.array("test_document_starts"))
    tops = [
        _tops(scores, count, tokenizer)
        for scores in (job.artifact("base_scores"), adapted.top_tokens)
    ]
    documents: list[dict[str, Any]] = []
    owners_N = documents_of_positions(starts, np.arange(1, count + 1)).tolist()
    for row, document in enumerate(owners_N):
        if not documents or documents[-1]["document"] != document:
            documents.append({"document": document, "tokens": []})
        documents[-1]["tokens"].append(
            {
                "text": tokenizer.decode([int(gold_N[row])]),
                "lm": round(float(adapted.lm["test"][row]), DIGITS),
                "mixture": round(float(settled.gold_log_probs["test"][row]), DIGITS),
                "lm_top": tops[0][row],
                "memory_top": tops[1][row],
            }
        )
    return documents


def _tops(scores: Any, count: int, tokenizer: Any) -> list[list[list[Any]]]:
    ids_NK = np.asarray(scores.array("test_top_ids")[:count])
    probs_NK = np.exp(np.asarray(scores.array("test_top_log_probs")[:count], np.float32))
    return [
        [
            [tokenizer.decode([int(token)]), round(float(prob), DIGITS)]
            for token, prob in zip(ids_K, probs_K, strict=True)
        ]
        for ids_K, probs_K in zip(ids_NK, probs_NK, strict=True)
    ]


def side_by_side(job: Job, memory_path: Path, alpha: float) -> dict[str, str]:
    """Continue the experiment's prompt with the base and with base + memory."""
    from memdec.models.side_by_side import continue_both

    config = job.experiment.evaluation
    base, adapted = continue_both(
        job.model_path,
        memory_path,
        alpha,
        config.prompt,
        config.new_tokens,
        job.experiment.model.device,
        job.experiment.model.dtype,
        job.experiment.model.bos,
        job.experiment.model.separator,
    )
    return {"prompt": config.prompt, "base": base, "adapted": adapted}
