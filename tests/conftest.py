"""What several folders of tests share: tiny models on disk, a tiny corpus, and a warm `memdec`."""

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings

# Several tests share the cores: an example that waits for one is no failure.
hypothesis_settings.register_profile("shared", deadline=None)
hypothesis_settings.load_profile("shared")
# Tiny tensors: a second thread only gets in the way. Set before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).parent
VOCABULARY = 304
"""Output rows of the tiny models; a few more than their tokenizers have tokens."""
DOCUMENTS = {"train": (14, 1), "validation": (4, 2), "test": (5, 3)}
"""Documents of each split of the tiny corpus, and a seed."""
NOUNS = [
    "licence",
    "work",
    "copyright",
    "holder",
    "notice",
    "warranty",
    "software",
    "user",
    "source",
    "patent",
]
VERBS = ["grants", "limits", "excludes", "requires", "permits", "covers"]


@pytest.fixture(scope="session")
def sentences() -> Callable[[int, int], str]:
    """(number of sentences, seed) -> text with a few words that repeat a lot."""

    def write(count: int, seed: int) -> str:
        draw = random.Random(seed)
        return " ".join(
            f"The {draw.choice(NOUNS)} {draw.choice(VERBS)} the {draw.choice(NOUNS)}."
            for _ in range(count)
        )

    return write


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, sentences) -> Callable[[str], Path]:
    """Architecture name (llama, gpt2, gemma3, qwen2) -> Hugging Face directory with a tokenizer."""
    made: dict[str, Path] = {}

    def build(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("models") / kind
            _save_tiny(kind, folder, sentences(200, seed=5))
            made[kind] = folder
        return made[kind]

    return build


@pytest.fixture
def altered_model(tiny_model, tmp_path) -> Callable[..., Path]:
    """(architecture, settings of config.json) -> a copy of the tiny model that has them."""

    def alter(kind: str, **settings: Any) -> Path:
        folder = shutil.copytree(tiny_model(kind), tmp_path / "altered")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | settings))
        return folder

    return alter


def _save_tiny(kind: str, folder: Path, text: str) -> None:
    import torch
    import transformers

    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    gpt2 = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 128, "vocab_size": VOCABULARY}
    gpt2 |= {"initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None}
    gemma = shape | {"head_dim": 6, "sliding_window": 8, "tie_word_embeddings": False}
    gemma |= {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    gemma |= {"pad_token_id": None}
    classes: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, shape),
        "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, shape),
        "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config, gpt2),
        "gemma3": (transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig, gemma),
    }
    lm_class, config_class, settings = classes[kind]
    with torch.random.fork_rng():
        torch.manual_seed(11)
        lm = lm_class(config_class(**settings))
    for parameter in lm.parameters():  # norms start at one and biases at zero: make them visible
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.sin(torch.arange(len(parameter)).float())
    lm.save_pretrained(folder)
    _tokenizer(text, adds_bos=kind == "gemma3").save_pretrained(folder)


def _tokenizer(text: str, adds_bos: bool) -> Any:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    specials = ["<pad>", "<eos>", "<bos>"] if adds_bos else ["<|endoftext|>", "<|im_start|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text], trainer)
    bos, eos = ("<bos>", "<eos>") if adds_bos else ("<|im_start|>", "<|endoftext|>")
    if adds_bos:
        pair = (bos, backend.token_to_id(bos))
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[pair]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, model_max_length=128
    )


@dataclass(frozen=True)
class Ended:
    """A `memdec` command that came to its end."""

    code: int
    """-9 when it was killed."""
    out: str
    err: str


@dataclass(frozen=True)
class Running:
    """A `memdec` command at work."""

    pid: int
    folder: Path
    warm: "Warm"

    @property
    def err(self) -> str:
        """What it wrote to stderr so far."""
        return (self.folder / "err").read_text()

    def kill(self) -> None:
        """Send SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> Ended:
        """Wait for its end."""
        code = self.warm.ask({"wait": self.pid})
        return Ended(code, (self.folder / "out").read_text(), self.err)


class Warm:
    """Starts `memdec` commands as forks of one process that has torch imported (see zygote.py)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, HERE / "zygote.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parent,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    def ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(
        self,
        *arguments: str | Path,
        cwd: Path,
        kill: dict[str, Any] | None = None,
        patch: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
    ) -> Running:
        """Start a command in `cwd`; `kill` and `patch` are explained in zygote.py."""
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        request = {"arguments": [str(a) for a in arguments], "cwd": str(cwd), "folder": str(folder)}
        pid = self.ask(request | {"kill": kill, "patch": patch, "env": env or {}})
        return Running(pid, folder, self)

    def __call__(self, *arguments: str | Path, **options: Any) -> Ended:
        """Run a command to its end."""
        return self.start(*arguments, **options).wait()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


@pytest.fixture(scope="session")
def memdec(tmp_path_factory) -> Iterator[Warm]:
    """Run `memdec ARGUMENTS` in a process of its own, without the seconds of importing torch."""
    warm = Warm(tmp_path_factory.mktemp("commands"))
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def write_corpus(sentences) -> Callable[[Path], dict[str, str]]:
    """Write train, validation and test as text into a folder; blank lines part documents.

    The held-out splits have a word that train lacks, so that the memory alone is not enough.
    """

    def write(folder: Path) -> dict[str, str]:
        folder.mkdir(parents=True, exist_ok=True)
        for split, (count, seed) in DOCUMENTS.items():
            parts = [sentences(6, 100 * seed + i) for i in range(count)]
            if split != "train":
                parts = [f"{part} Quiz?" for part in parts]
            (folder / f"{split}.txt").write_text("\n\n".join(parts))
        return {split: str(folder / f"{split}.txt") for split in DOCUMENTS}

    return write


@pytest.fixture(scope="session")
def tiny_settings(tiny_model, write_corpus) -> Callable[[Path], dict[str, Any]]:
    """Folder for the corpus -> an experiment of two seconds, as plain data."""

    def make(folder: Path) -> dict[str, Any]:
        return {
            "name": "tiny",
            "scale": "smoke",
            "methods": ["base", "knn_lm", "memory_decoder"],
            "corpus": {
                "source": "text",
                "document_split": "blank_line",
                "block_size": 32,
                "stride": 24,
                "train_stride": 16,
                "max_overlap": 1.0,
                **write_corpus(folder),
            },
            "model": {"source": str(tiny_model("llama")), "device": "cpu"},
            "knn": {"k": 16, "k_max": 24, "temperature": 4.0},
            "memory_decoder": {"vocabulary": "corpus"},  # some log-probs are then -inf
            "knn_lm": {"temperatures": [2.0, 8.0]},
            "trainer": {
                "learning_rate": 0.01,
                "batch_size": 6,
                "micro_batch_size": 3,
                "max_epochs": 2,
                "accelerator": "cpu",
                "checkpoint_every_steps": 3,
            },
            "evaluation": {
                "bootstrap_samples": 50,
                "curve_points": 5,
                "example_tokens": 20,
                "prompt": "The licence",
                "new_tokens": 4,
            },
        }

    return make


@pytest.fixture
def settings(tiny_settings, tmp_path) -> dict[str, Any]:
    """The tiny experiment's content, to be changed and written by a test."""
    return tiny_settings(tmp_path / "text")


@pytest.fixture
def experiment(settings, tmp_path) -> Path:
    """The tiny experiment's file; JSON is YAML."""
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="session")
def finished(memdec, tiny_settings, tmp_path_factory) -> Path:
    """A folder with tiny.yaml and the artifacts of an undisturbed run; copy it, leave it alone."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(json.dumps(tiny_settings(folder / "text")))
    ended = memdec("run", "tiny.yaml", cwd=folder)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Folder of a run -> every byte that its stages made, without manifests, times and logs."""

    def read(folder: Path) -> dict[str, bytes]:
        root = folder / "artifacts"
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
            and path.name != "manifest.json"
            and path.relative_to(root).parts[0] not in ("logs", "runs", "file-hashes.json")
            and not path.name.startswith(".")
        }

    return read


@pytest.fixture(scope="session")
def reference() -> Callable[[str], Any]:
    """Name of a file in tests/reference, written from the paper in float64 -> its module."""

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, HERE / "reference" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
