"""Optimizers whose step touches only the rows that have a gradient."""

from hashdl.optim.clip import clip_grad_norm_
from hashdl.optim.row_optimizers import SGD, Adagrad, Adam, AdamW, RowWiseAdagrad, RowWiseAdam

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RowWiseAdagrad", "RowWiseAdam", "clip_grad_norm_"]
