"""Variants of the method, rival methods, made tasks, the credit benchmark and the studies. Nothing outside imports this."""
