"""One function a stage: hand the job's settings and artifacts to the package that does the work."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memdec.artifacts.artifact import ArtifactWriter
from memdec.corpus.config import HELD_OUT
from memdec.corpus.windows import Window, check_fills_a_window, make_windows
from memdec.errors import ConfigError
from memdec.pipeline.model_facts import read_model_facts
from memdec.pipeline.shards import WHOLE, Shard

if TYPE_CHECKING:
    from memdec.models.memory import MemoryDecoder
    from memdec.models.tokenizer import TokenRules
    from memdec.pipeline.job import Job

LM_TARGET_TOKENS = 64
"""Most likely tokens of the key model that targets may hold."""


def model(job: "Job", out: ArtifactWriter) -> None:
    """Convert a GGUF file to a Hugging Face directory."""
    from memdec.models.gguf import convert_gguf, embedded_gguf

    convert_gguf(job.model.gguf or embedded_gguf(job.downloads, out.path), out.path)


def tokens(job: "Job", out: ArtifactWriter) -> None:
    """Read and tokenize the corpus."""
    from memdec.corpus.tokenize import tokenize_corpus
    from memdec.models.tokenizer import character_counter, encoder

    tokenizer, rules = load_tokenizer_of(job)
    rows = read_model_facts(job.model_path).vocab_size
    largest = max(rules.separator_id, rules.bos_id if rules.bos_on_each_window else 0)
    if largest >= rows:
        raise ConfigError(
            f"token {largest} ({tokenizer.convert_ids_to_tokens(largest)!r}) ends documents or "
            f"opens windows, but the model has {rows:,} tokens; give another model.separator, or "
            "model.bos=never."
        )
    tokenize_corpus(
        out,
        job.experiment.corpus,
        encoder(tokenizer),
        rules.separator_id,
        vocab_size=rows,
        count_characters=character_counter(tokenizer),
        tokenizer_hash=rules.hash,
        downloads=job.downloads,
    )


def base_scores(job: "Job", out: ArtifactWriter) -> None:
    """Score validation and test with the base; keep its keys as queries."""
    from memdec.models.memory import MemoryDecoder

    score(job, out, MemoryDecoder(base_of(job), None), key_layer=job.experiment.datastore.layer)


def datastore(job: "Job", out: ArtifactWriter, shard: Shard = WHOLE) -> None:
    """Encode the training text, or a shard of its windows."""
    from memdec.datastore.build import build_datastore
    from memdec.datastore.neighbors import check_k

    stream = stream_of(job, "train")
    check_k(job.experiment.knn.k, len(stream) - 1)
    windows, batch_size = windows_of(job, "train"), job.experiment.model.batch_size
    part = shard.of(len(windows), batch_size)
    build_datastore(
        out,
        stream,
        windows[part.start : part.stop],
        _key_model(job),
        load_tokenizer_of(job)[1],
        job.experiment.datastore.layer,
        batch_size,
    )
    edges = (windows[part.start].first_scored - 1, windows[part.stop - 1].end - 1)
    _note_part(out, shard, range(*edges), len(stream) - 1)


def neighbors(job: "Job", out: ArtifactWriter, shard: Shard = WHOLE) -> None:
    """Search the training text, or a shard of its rows, among all of it."""
    from memdec.datastore.neighbors import build_neighbors

    store, config = job.artifact("datastore"), job.experiment
    keys = store.array("keys")
    part = shard.of(len(keys))
    build_neighbors(
        out, keys, store.array("values"), config.knn.k_max, config.search, part, _device(job)
    )
    _note_part(out, shard, part, len(keys))


def train_scores(job: "Job", out: ArtifactWriter) -> None:
    """Score the training text with the key model, for targets that mix its own distribution in."""
    from memdec.models.memory import MemoryDecoder

    decoder = MemoryDecoder(_key_model(job), None)
    score(job, out, decoder, splits=("train",), num_top=LM_TARGET_TOKENS)


def query_neighbors(job: "Job", out: ArtifactWriter) -> None:
    """Search validation and test against the training text."""
    from memdec.datastore.neighbors import build_query_neighbors

    if job.experiment.datastore.model == "base":
        scores = job.artifact("base_scores")
        queries = {split: scores.array(f"{split}_keys") for split in HELD_OUT}
    else:
        lm = _key_model(job)
        queries = {split: _encode(job, lm, split, out.scratch / split) for split in HELD_OUT}
    store, config = job.artifact("datastore"), job.experiment
    keys, values = store.array("keys"), store.array("values")
    build_query_neighbors(out, queries, keys, values, config.knn.k_max, config.search, _device(job))


def targets(job: "Job", out: ArtifactWriter, shard: Shard = WHOLE) -> None:
    """Make the kNN distributions of the training text, or of a shard of its rows."""
    from memdec.datastore.neighbors import nearest
    from memdec.datastore.targets import LmTargets, write_targets
    from memdec.progress import track

    knn = job.experiment.knn
    rows, sq_distances = nearest(job.artifact("neighbors"), knn.k)
    part = shard.of(len(rows))
    lm = None
    if knn.lm_share > 0:
        scored = job.artifact("train_scores")
        lm = LmTargets(
            scored.array("train_top_ids")[part.start : part.stop],
            scored.array("train_top_log_probs")[part.start : part.stop],
            knn.lm_share,
        )
    with track(len(part), "rows", "making targets") as advance:
        write_targets(
            out,
            rows[part.start : part.stop],
            sq_distances[part.start : part.stop],
            job.artifact("datastore").array("values"),
            knn.temperature,
            knn.threshold,
            advance,
            lm,
        )
    _note_part(out, shard, part, len(rows))


def rag_scores(job: "Job", out: ArtifactWriter) -> None:
    """Score validation and test with the base behind passages of the training text."""
    from memdec.datastore.passages import PassageIndex, cut_passages
    from memdec.evaluation.passage_scores import Retriever, score_split_with_passages

    config, (tokenizer, rules) = job.experiment.in_context_rag, load_tokenizer_of(job)
    positions = read_model_facts(job.model_path).max_positions - int(rules.bos_on_each_window)
    max_inputs = config.max_inputs(job.experiment.corpus.block_size, positions)
    starts = job.artifact("tokens").array("train_document_starts")
    passages = cut_passages(
        stream_of(job, "train"), starts, config.passage_tokens, rules.separator_id
    )
    retriever = Retriever(
        passages=passages,
        index=PassageIndex(tokenizer.batch_decode(passages)),
        decode=tokenizer.batch_decode,
        query_tokens=config.query_tokens,
    )
    for split in HELD_OUT:
        score_split_with_passages(
            out,
            split,
            stream_of(job, split),
            windows_of(job, split),
            rules,
            base_of(job),
            retriever,
            every_tokens=config.every_tokens,
            max_inputs=max_inputs,
            batch_size=job.experiment.model.batch_size,
        )
    out.info(num_passages=len(passages))


def score(
    job: "Job",
    out: ArtifactWriter,
    decoder: "MemoryDecoder",
    splits: tuple[str, ...] = HELD_OUT,
    **options: Any,
) -> None:
    """Score splits with a decoder; `options` are those of `score_split`."""
    from memdec.evaluation.scores import score_split

    rules, batch_size = load_tokenizer_of(job)[1], job.experiment.model.batch_size
    for split in splits:
        score_split(
            out,
            split,
            stream_of(job, split),
            windows_of(job, split),
            rules,
            decoder,
            batch_size=batch_size,
            **options,
        )


def _key_model(job: "Job") -> Any:
    """Return the model whose hidden states are the keys."""
    from memdec.models.loading import load_causal_lm, pick_device

    config, name = job.experiment.model, job.experiment.datastore.model
    if name == "base":
        return base_of(job)
    path = job.artifact("dapt").path / "export" if name == "dapt" else job.key_model.path
    assert path is not None, "only a GGUF file has no directory, and key models are directories"
    return load_causal_lm(path, config.dtype, pick_device(config.device))


def _encode(job: "Job", lm: Any, split: str, folder: Path) -> Any:
    """Return a model's keys of a held-out split, f16 [num_tokens - 1, D]."""
    from memdec.datastore.build import build_datastore

    out = ArtifactWriter(folder)
    out.clear()
    build_datastore(
        out,
        stream_of(job, split),
        windows_of(job, split),
        lm,
        load_tokenizer_of(job)[1],
        job.experiment.datastore.layer,
        job.experiment.model.batch_size,
    )
    return np.load(folder / "keys.npy", mmap_mode="r")


def _note_part(out: ArtifactWriter, shard: Shard, rows: range, num_rows: int) -> None:
    if shard.count > 1:
        out.info(rows=[rows.start, rows.stop], num_rows_in_all=num_rows)


def _device(job: "Job") -> str:
    from memdec.models.loading import pick_device

    return str(pick_device(job.experiment.model.device))


def base_of(job: "Job") -> Any:
    """Return the base, loaded once and until `release_models`."""
    from memdec.models.loading import load_causal_lm, pick_device

    config = job.experiment.model

    def load() -> Any:
        return load_causal_lm(job.model_path, config.dtype, pick_device(config.device))

    return job.shared("base", load)


def load_tokenizer_of(job: "Job") -> tuple[Any, "TokenRules"]:
    """Return the base's tokenizer and its rules, loaded once."""
    from memdec.models.loading import load_tokenizer
    from memdec.models.tokenizer import read_token_rules

    config = job.experiment.model

    def load() -> Any:
        tokenizer = load_tokenizer(job.model_path)
        return tokenizer, read_token_rules(tokenizer, config.bos, config.separator)

    found: tuple[Any, TokenRules] = job.shared("tokenizer", load)
    return found


def stream_of(job: "Job", split: str) -> Any:
    """Return a split's tokens u32 [num_tokens]."""
    return job.artifact("tokens").array(f"{split}_tokens")


def windows_of(job: "Job", split: str) -> list[Window]:
    """Return a split's windows."""
    corpus = job.experiment.corpus
    stride = corpus.train_stride if split == "train" else corpus.stride
    num_tokens = len(stream_of(job, split))
    # Tokens made for shorter windows are reused, so the check of the tokens stage is repeated.
    check_fills_a_window(split, num_tokens, corpus.block_size)
    return make_windows(num_tokens, corpus.block_size, stride)
