"""Approximate search for large datastores: FAISS inverted lists, exact distances, own row left out.

FAISS is asked for candidates only. Their distances are computed from the keys and sorted here, so
that order, ties and exclusion are those of the exact search. Do not fork a process that has
searched: FAISS hangs in the child.

Shape legend: N rows, Q queries, D key width, K neighbors, C candidates.
"""

import numpy as np
import torch
from torch import Tensor

from memdec.datastore.search_candidates import EMPTY, Array, pack
from memdec.datastore.search_config import SearchConfig
from memdec.datastore.search_found import Advance, Found, ignore
from memdec.datastore.search_tiles import Keys, mean_key, pick_rows

__all__ = ["FaissSearch"]

_ADD_ROWS = 65_536
_QUERY_ROWS = 256
_GATHERED = 1 << 24
"""Key entries gathered at once for exact distances: 64 MB."""


class FaissSearch:
    """An inverted index over one key array, trained and filled when made."""

    def __init__(self, keys_ND: Keys, k: int, method: str, config: SearchConfig) -> None:
        import faiss

        num_rows, width = keys_ND.shape
        config.check(num_rows, width)
        num_lists = config.lists_for(num_rows)
        self.description = _factory_text(method, num_lists, config.code_bytes, width)
        self.k = k
        self._num_candidates = min(num_rows, (k + 1) * (config.rerank if method == "ivf_pq" else 1))
        self.keys_ND = keys_ND
        self._mean = mean_key(keys_ND)
        faiss.omp_set_num_threads(torch.get_num_threads())
        self._index = faiss.index_factory(width, self.description)
        self._index.train(self._centred(keys_ND, _training_rows(num_rows, config)).numpy())
        for first in range(0, num_rows, _ADD_ROWS):
            rows = torch.arange(first, min(first + _ADD_ROWS, num_rows))
            self._index.add(self._centred(keys_ND, rows).numpy())
        faiss.extract_index_ivf(self._index).nprobe = min(config.num_probes, num_lists)

    def one_sided(
        self,
        out: Found,
        queries_QD: Keys,
        wanted: Tensor,
        own_rows: Tensor | None = None,
        advance: Advance = ignore,
    ) -> None:
        """Search the wanted queries, each without its own row where given.

        What the lists cannot fill stays empty.
        """
        for places in torch.arange(len(wanted)).split(_QUERY_ROWS):
            centred_QD = self._centred(queries_QD, wanted[places])
            candidates_QC = self._index.search(centred_QD.numpy(), self._num_candidates)[1]
            if own_rows is not None:
                candidates_QC[candidates_QC == own_rows[places].numpy()[:, None]] = -1
            out.put(wanted[places].numpy(), self._rerank(centred_QD, candidates_QC))
            advance(len(places))

    def _rerank(self, queries_QD: Tensor, candidates_QC: Array) -> Array:
        """Return the k nearest candidates by exact distance, packed i64 [Q, K]."""
        packed_QC = np.full((len(candidates_QC), max(candidates_QC.shape[1], self.k)), EMPTY)
        for query_D, candidates_C, packed in zip(queries_QD, candidates_QC, packed_QC, strict=True):
            found = np.sort(candidates_C[candidates_C >= 0])
            for part in np.array_split(found, -(-found.size * len(query_D) // _GATHERED) or 1):
                difference = self._centred(self.keys_ND, torch.from_numpy(part)) - query_D
                closeness = difference.square_().sum(1) / -2
                place = np.searchsorted(found, part)
                packed[place] = pack(closeness.numpy(), part)
        packed_QC.sort(axis=1)
        return packed_QC[:, : self.k]

    def _centred(self, keys: Keys, rows: Tensor) -> Tensor:
        """Return some rows less the mean of the datastore's keys, f32."""
        part = pick_rows(keys, rows)
        picked = part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
        return picked.cpu().float() - self._mean


def _factory_text(method: str, num_lists: int, code_bytes: int, width: int) -> str:
    """Return the text of `faiss.index_factory` for a method."""
    if method == "ivf_flat":
        return f"IVF{num_lists},Flat"
    # A rotation to a multiple of the code's bytes: each byte then codes as many directions.
    return f"OPQ{code_bytes}_{width // code_bytes * code_bytes},IVF{num_lists},PQ{code_bytes}"


def _training_rows(num_rows: int, config: SearchConfig) -> Tensor:
    """Draw the rows that lists and codes are learned from, in order."""
    shuffled = torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))
    return shuffled[: config.train_rows].sort().values
