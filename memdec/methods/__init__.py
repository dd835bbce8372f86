"""The ways to adapt a language model, behind one contract."""
