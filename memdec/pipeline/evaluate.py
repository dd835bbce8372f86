"""Turn an adapted model into a record: metrics, intervals, curves, examples, budget."""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np

from memdec.artifacts.artifact import Artifact
from memdec.artifacts.provenance import now, provenance
from memdec.corpus.config import HELD_OUT, SPLITS
from memdec.evaluation.alpha import alpha_curve
from memdec.evaluation.fidelity import fidelity_metrics
from memdec.evaluation.frequency import frequency_metrics
from memdec.evaluation.perplexity import document_totals, paired_bootstrap, perplexity_metrics
from memdec.evaluation.settle import Settled, settle
from memdec.methods.contract import AdaptedLM, Method, MethodInputs
from memdec.models.exports import OUTPUT_IDS_FILE
from memdec.pipeline.examples import example_tokens, side_by_side
from memdec.pipeline.identity import describe, given_memories
from memdec.pipeline.job import Job
from memdec.pipeline.model_facts import read_model_facts
from memdec.pipeline.plan import stage_flops
from memdec.pipeline.sizes import read_sizes
from memdec.pipeline.stages import FINE_TUNED, stages_of

_DATASTORE = ("datastore", "neighbors", "train_scores")
"""What kNN targets and kNN-LM's store take once, beside any training."""


def evaluate(job: Job, method: Method, started: str) -> dict[str, Any]:
    """Make the method's artifacts, choose its mixture on validation, and return its record."""
    stages = (*stages_of(job.experiment, [method]), "tokens")
    artifacts = {name: job.artifact(name) for name in job.required(stages)}
    section = getattr(job.experiment, method.section or method.name, None)
    adapted = method.adapt(
        MethodInputs(artifacts=artifacts, config=section, k=job.experiment.knn.k)
    )
    settled = settle(adapted)
    experiment = job.experiment
    runs = [job.runs[name] for name in artifacts]
    source = provenance()
    source["dirty"] |= any(run.dirty for run in runs)
    record = describe(job, method) | {
        "metrics": _metrics(job, settled, artifacts),
        "alpha": settled.alpha,
        "tuned": dict(settled.tuned),
        "intervals": _intervals(job, settled, artifacts["tokens"]),
        "curves": _curves(job, adapted, settled),
        "budget": _budget(job, method, adapted),
        "stages": [_stage(run) for run in runs],
        "memories": given_memories(job, method),
        "provenance": source | {"started": started, "finished": now()},
        "status": "complete",
    }
    if adapted.top_tokens is not None and experiment.evaluation.example_tokens:
        record["examples"] = example_tokens(job, adapted, settled)
    if adapted.memory_path is not None and experiment.evaluation.prompt and settled.alpha:
        record["generation"] = side_by_side(job, adapted.memory_path, settled.alpha)
    return record


def _metrics(job: Job, settled: Settled, artifacts: dict[str, Artifact]) -> dict[str, float]:
    tokens, test_N = artifacts["tokens"], settled.gold_log_probs["test"]
    metrics = {
        f"{split}/{name}": value
        for split in HELD_OUT
        for name, value in perplexity_metrics(
            settled.gold_log_probs[split], tokens.info[split]["num_bytes"]
        ).items()
    }
    for split in SPLITS:
        metrics[f"{split}/num_documents"] = len(tokens.array(f"{split}_document_starts"))
    for split in ("train", "validation"):
        repeated = tokens.info[f"{split}_test_overlap"]
        metrics[f"test/documents_in_{split}"] = repeated["near"]  # the exact ones among them
        metrics[f"test/documents_exactly_in_{split}"] = repeated["exact"]
    base = np.asarray(job.artifact("base_scores").array("test_gold_log_probs"))
    for name, other_N in _compared_with(base, settled).items():
        ratio = np.exp(np.mean(other_N, dtype=np.float64) + metrics["test/nll"])
        metrics[f"test/perplexity_ratio_to_{name}"] = float(ratio)
    if settled.candidate is not None:
        # A bound, not a method: alpha 0 or 1 at each token, whichever makes its gold likelier.
        best_N = np.maximum(base, settled.candidate.scores["test"])
        metrics["test/oracle_perplexity"] = math.exp(-np.mean(best_N, dtype=np.float64))
    gold_N = np.asarray(tokens.array("test_tokens")[1:])
    metrics |= frequency_metrics(test_N, base, gold_N, np.asarray(tokens.array("train_tokens")))
    if "fidelity" in artifacts:
        metrics |= fidelity_metrics(artifacts["fidelity"])
    return metrics


def _intervals(job: Job, settled: Settled, tokens: Artifact) -> dict[str, list[float]]:
    starts = tokens.array("test_document_starts")
    num_samples = job.experiment.evaluation.bootstrap_samples
    if num_samples == 0:
        return {}
    totals, counts = document_totals(settled.gold_log_probs["test"], starts)
    base = np.asarray(job.artifact("base_scores").array("test_gold_log_probs"))
    others = {
        name: document_totals(other_N, starts)[0]
        for name, other_N in _compared_with(base, settled).items()
    }
    return paired_bootstrap(totals, others, counts, num_samples, job.experiment.seed)


def _compared_with(base: np.ndarray, settled: Settled) -> dict[str, np.ndarray]:
    """Return gold log-probs of the test text that the method's are compared with, by name."""
    plain = {"one_alpha": settled.with_one_alpha["test"]} if settled.with_one_alpha else {}
    return {"base": base} | plain


def _curves(job: Job, adapted: AdaptedLM, settled: Settled) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    if settled.candidate is not None and settled.alpha is not None:
        points = job.experiment.evaluation.curve_points
        alphas, validation = _curve(adapted, settled, "validation", points)
        _, test = _curve(adapted, settled, "test", points)
        curves["alpha"] = {
            "alpha": alphas,
            "validation/perplexity": validation,
            "test/perplexity": test,
        }
    if adapted.training is not None:
        lines = (adapted.training.path / "metrics.jsonl").read_text().splitlines()
        curves |= _training_curves([json.loads(line) for line in lines])
    return curves


def _curve(
    adapted: AdaptedLM, settled: Settled, split: str, points: int
) -> tuple[list[float], list[float | None]]:
    assert settled.candidate is not None
    alphas, values = alpha_curve(adapted.lm[split], settled.candidate.scores[split], points)
    # JSON has no infinity: alpha = 1 where the memory lacks a gold token
    return alphas, [value if np.isfinite(value) else None for value in values]


def _training_curves(history: list[dict[str, float]]) -> dict[str, Any]:
    def column(name: str, key: str) -> list[float]:
        return [entry[name] for entry in history if key in entry]

    training = {
        name: column(name, "train/loss") for name in ("step", "train/loss", "train/kl", "train/nll")
    }
    key = "validation/perplexity"
    return {"training": training, "validation": {n: column(n, key) for n in ("step", key)}}


def _budget(job: Job, method: Method, adapted: AdaptedLM) -> dict[str, float]:
    own = _own_stages(job, method)
    sizes = read_sizes(job, None, own)
    base = sizes.model.parameters
    budget: dict[str, float] = {
        "parameters": base,
        "trained_parameters": 0,
        "train_tokens": 0,
        "flops": 0.0,
        "datastore_flops": sum(stage_flops(name, sizes) for name in own if name in _DATASTORE),
        "seconds": sum(job.runs[name].seconds for name in own),
    }
    if "query_neighbors" in own and job.experiment.datastore.model != "base":
        budget["parameters"] += sizes.keys.parameters  # it makes the key of every query
    if adapted.training is None and adapted.memory_path is not None:
        budget["parameters"] += read_model_facts(adapted.memory_path).parameters
    if adapted.mixes_all:
        budget["parameters"] += sum(read_model_facts(p).parameters for p in job.mixed_memories)
    if adapted.training is not None:
        info = adapted.training.info
        whole = info["parameters"]
        # what only changes the model takes the base's place; what is mixed in comes on top
        budget["parameters"] = base + whole if adapted.candidates else whole
        budget["trained_parameters"] = _trained_parameters(info)
        if "rank" in info:
            budget["rank"] = info["rank"]
    for stage in own:
        if stage in ("memory", *FINE_TUNED):  # two where DAPT makes the keys of the targets
            info = job.artifact(stage).info
            facts = sizes.memory if stage == "memory" else sizes.model
            outside = facts.head_parameters * facts.embeddings
            trained = _trained_parameters(info) - (0 if stage == "lora" else outside)
            # forward 2, gradients of the inputs 2, of what is trained 2; the head once a token
            body = 4.0 * (info["parameters"] - outside) + 2.0 * trained
            head = (4.0 if stage == "lora" else 6.0) * facts.head_parameters
            output_ids = job.artifact(stage).path / "export" / OUTPUT_IDS_FILE
            if output_ids.is_file():  # the other rows take no part in training
                head *= len(np.load(output_ids, mmap_mode="r")) / facts.vocab_size
            budget["train_tokens"] += info["train_tokens"]
            passes = job.experiment.corpus.passes("train")
            budget["flops"] += (body * passes + head) * info["train_tokens"]
    return budget


def _trained_parameters(info: dict[str, Any]) -> int:
    trained: int = info.get("trained_parameters", info["parameters"])
    return trained


def _own_stages(job: Job, method: Method) -> list[str]:
    """Return the stages that the method itself needs, without what only measures it."""
    return job.required((*method.stages, "tokens"))


def _stage(run: Any) -> dict[str, Any]:
    facts = asdict(run)
    return facts | {"bytes": facts.pop("num_bytes")}
