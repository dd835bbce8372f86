"""The hybrid loss of the paper and its gradient, written out in float64 with a dense target."""

import numpy as np


def memory_decoder_loss(hidden_ND, head_VD, gold_N, target_ids_NM, target_probs_NM, beta):
    """Return loss, KL(target || memory), NLL (means) and the loss's gradients by hidden and head.

    Softmax by its definition; d loss / d logits from the quotient rule, term by term.
    """
    hidden, head = np.asarray(hidden_ND, np.float64), np.asarray(head_VD, np.float64)
    num_tokens, num_outputs = len(hidden), len(head)
    logits = hidden @ head.T
    memory = np.exp(logits - logits.max(1, keepdims=True))
    memory /= memory.sum(1, keepdims=True)
    kl = nll = 0.0
    grad_logits = np.zeros_like(logits)
    for n in range(num_tokens):
        target = np.zeros(num_outputs)
        for token, prob in zip(target_ids_NM[n], target_probs_NM[n], strict=True):
            target[int(token)] += float(prob)
        for v in range(num_outputs):
            if target[v] > 0:
                kl += target[v] * (np.log(target[v]) - np.log(memory[n, v]))
        nll -= np.log(memory[n, int(gold_N[n])])
        for v in range(num_outputs):
            is_gold = float(v == int(gold_N[n]))
            grad_logits[n, v] = beta * (target.sum() * memory[n, v] - target[v])
            grad_logits[n, v] += (1 - beta) * (memory[n, v] - is_gold)
    kl, nll, grad_logits = kl / num_tokens, nll / num_tokens, grad_logits / num_tokens
    loss = beta * kl + (1 - beta) * nll
    return loss, kl, nll, grad_logits @ head, grad_logits.T @ hidden
