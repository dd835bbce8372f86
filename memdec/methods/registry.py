"""All methods by name."""

from memdec.methods.adaptive_alpha import AdaptiveAlpha
from memdec.methods.base import Base
from memdec.methods.contract import Method
from memdec.methods.dapt import Dapt, DaptMemory
from memdec.methods.in_context_rag import InContextRag
from memdec.methods.knn_lm import KnnLm
from memdec.methods.lora import Lora
from memdec.methods.memory_decoder import MemoryDecoderMethod
from memdec.methods.memory_mixture import MemoryMixture

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Base(),
        Dapt(),
        DaptMemory(),
        Lora(),
        KnnLm(),
        InContextRag(),
        MemoryDecoderMethod(),
        AdaptiveAlpha(),
        MemoryMixture(),
    )
}
