"""What the memory is and how it is trained."""

from dataclasses import dataclass

from memdec.checks import check_alpha, check_at_least, check_choice, check_positive, check_share
from memdec.errors import ConfigError

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
STRATEGIES = ("auto", "ddp", "fsdp")
TRANSFERS = ("refuse", "copied", "random", "scratch")
DIVERGENCE_NAMES = ("kl", "reverse_kl", "jsd")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true")


@dataclass(frozen=True, kw_only=True)
class MemoryDecoderConfig:
    """The small decoder that imitates the kNN retriever, and its share in the mixture."""

    trained: str = ""
    """Export folder of a trained memory to plug in as it is: of the other keys only alpha then
    counts. Empty to train one."""
    init: str = "base"
    """Weights to start from: base (the adapted model itself), scratch, or a model directory."""
    blocks: int = 0
    """Transformer blocks kept of the starting model, evenly spread; 0 for all."""
    transfer: str = "refuse"
    """What an init of another vocabulary gets: refuse; copied or random rows beside its body; or
    scratch, new weights throughout (also in its own vocabulary), to see what the body is worth."""
    beta: float = 0.5
    """Weight of KL(kNN || memory); 1 - beta weighs the cross-entropy. 0 needs no kNN targets."""
    divergence: str = "kl"
    """What beta weighs: kl (the paper's), reverse_kl or jsd, between kNN target and memory."""
    gating: str = "none"
    """Whether beta shrinks where the neighbors are unreliable: none; gold (times the target's
    probability of the gold token); largest (times the target's largest probability)."""
    alpha: float | int | str = "validation"
    """The memory's share in the mixture: a number in [0, 1], or validation (its optimum)."""
    vocabulary: str = "full"
    """Output tokens: full, or corpus: those in the training text alone, which trains faster and
    gives every other token probability 0, so that each of them in a text keeps alpha low."""

    def __post_init__(self) -> None:
        check_share("memory_decoder.beta", self.beta)
        check_at_least("memory_decoder.blocks", self.blocks, 0)
        check_choice("memory_decoder.transfer", self.transfer, TRANSFERS)
        if self.transfer != "refuse" and self.init in ("base", "scratch"):
            raise ConfigError(
                f"memory_decoder.transfer is {self.transfer} but memory_decoder.init is "
                f"{self.init}, which needs none; give the directory of a memory as init, or leave "
                "transfer out."
            )
        check_choice("memory_decoder.vocabulary", self.vocabulary, ("corpus", "full"))
        check_choice("memory_decoder.divergence", self.divergence, DIVERGENCE_NAMES)
        check_choice("memory_decoder.gating", self.gating, ("none", "gold", "largest"))
        if self.beta == 0 and (self.divergence, self.gating) != ("kl", "none"):
            raise ConfigError(
                "memory_decoder.beta is 0, so memory_decoder.divergence and gating weigh nothing; "
                "leave them out, or raise beta."
            )
        check_alpha("memory_decoder.alpha", self.alpha)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Optimisation, and the options handed to the Lightning Trainer."""

    learning_rate: float = 2e-4
    """Peak rate of AdamW; decays linearly to 0 (paper: 1e-3 for GPT-2, 1e-4 for Qwen)."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    gradient_clip_norm: float = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    batch_size: int = 8
    """Windows per optimizer step, over all devices."""
    micro_batch_size: int = 4
    """Windows per forward pass on one device; batch_size is a multiple of devices times this."""
    max_epochs: int = 1
    """Passes over the training windows."""
    max_steps: int = -1
    """Optimizer steps, if fewer than max_epochs give; -1 for no limit."""
    validate_every_steps: int = 0
    """Optimizer steps between validations; 0 for the end of each epoch."""
    checkpoint_every_steps: int = 0
    """Optimizer steps between resumable checkpoints; 0 for the end of each epoch."""
    patience: int = 0
    """Validations without a better mixture perplexity before training stops; 0 for never."""
    accelerator: str = "auto"
    """Lightning accelerator."""
    devices: int = 1
    """Devices (processes) on each node."""
    num_nodes: int = 1
    """Machines."""
    strategy: str = "auto"
    """auto; ddp (each device holds all weights); fsdp (each holds a share, PyTorch's FSDP2)."""
    precision: str = "32-true"
    """Lightning precision."""
    compile: bool = False
    """Compile the decoder (torch.compile): about a minute at the start for faster steps after, see
    reports/bench; on a CPU it needs a C++ compiler."""
    num_workers: int = 0
    """Data loader processes; they change nothing but speed."""

    def __post_init__(self) -> None:
        check_positive("trainer.learning_rate", self.learning_rate)
        for key in ("warmup_steps", "weight_decay", "gradient_clip_norm", "num_workers"):
            check_at_least(f"trainer.{key}", getattr(self, key), 0)
        for key in ("validate_every_steps", "checkpoint_every_steps", "patience"):
            check_at_least(f"trainer.{key}", getattr(self, key), 0)
        for key in ("batch_size", "micro_batch_size", "max_epochs", "devices", "num_nodes"):
            check_at_least(f"trainer.{key}", getattr(self, key), 1)
        check_at_least("trainer.max_steps", self.max_steps, -1)
        check_choice("trainer.accelerator", self.accelerator, ACCELERATORS)
        check_choice("trainer.precision", self.precision, PRECISIONS)
        check_choice("trainer.strategy", self.strategy, STRATEGIES)
        if self.strategy == "fsdp" and self.precision == "16-mixed":
            raise ConfigError(
                "trainer.precision 16-mixed does not go with trainer.strategy fsdp; use "
                "bf16-mixed, 32-true or bf16-true."
            )
        self.accumulation  # noqa: B018  (raises when the batch does not divide)

    @property
    def accumulation(self) -> int:
        """Micro-batches that each device adds up for one optimizer step."""
        per_pass = self.micro_batch_size * self.devices * self.num_nodes
        if self.batch_size % per_pass:
            raise ConfigError(
                f"trainer.batch_size {self.batch_size} is not a multiple of micro_batch_size x "
                f"devices x num_nodes = {per_pass}; change one of them."
            )
        return self.batch_size // per_pass
